"""Transfer of adversarial images with and without LOTOS, and clipping.

All four combinations of penalty and clipping, at several radii of the attack,
by the cells of configs/lotos_digits.py: trainings are shared between radii.

  python experiments/lotos_transfer.py --out results --work runs/lotos_transfer
"""

import argparse
import pathlib

from cmu_jax.commands import shell, workdir
from cmu_jax.core import config as configs
from cmu_jax.core import files
from cmu_jax.studies.ensembles import job, sweep, tables, world

METHODS = ('plain', 'clipped', 'lotos_unclipped', 'lotos')
PAIRS = (
  ('plain', 'clipped'),
  ('plain', 'lotos_unclipped'),
  ('clipped', 'lotos'),
  ('plain', 'lotos'),
)
KEYS = (
  'test_accuracy',
  't_rate',
  'joint_failure_rate',
  'black_box_accuracy',
)


def differences(results: dict) -> list[dict]:
  """Paired differences over seeds, under the correct threat model."""
  found = []
  for before, after in PAIRS:
    for key in KEYS:
      change = tables.change(results, 'correct', key, before, after)
      if change is not None:
        what = {'metric': key, 'before': before, 'after': after}
        found.append({**what, **change._asdict()})
  return found


def main() -> None:
  """Runs all radii and writes one small JSON."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--out', default='results')
  parser.add_argument('--work', default='runs/lotos_transfer')
  parser.add_argument('--arg', default='', help='of the config')
  parser.add_argument(
    '--radii', type=float, nargs='+', default=[0.05, 0.1, 0.2]
  )
  parser.add_argument('--methods', nargs='+', default=METHODS)
  parser.add_argument('--set', nargs='*', default=[], help='field=value')
  flags = parser.parse_args()
  spec = 'configs/lotos_digits.py' + (f':{flags.arg}' if flags.arg else '')
  parts, kept = [], {}
  for radius in flags.radii:
    overrides = dict(item.split('=', 1) for item in flags.set)
    config = configs.load(spec, overrides).config
    with config.unlocked():
      config.methods, config.threats = tuple(flags.methods), ('correct',)
      config.attack.radius, config.evaluate.lipschitz = radius, False
    folder = pathlib.Path(flags.work)
    with workdir.lock(folder, '--work'):
      here = world.load(config, folder)
      results = job.collect(here, sweep.run(here, None))
    kept = {k: results[k] for k in ('schema', 'smoke', 'provenance', 'config')}
    part = {'radius': radius, 'differences': differences(results)}
    parts.append({**part, 'rows': results['rows']})
  kept['provenance']['command'] = 'python experiments/lotos_transfer.py'
  path = pathlib.Path(flags.out) / 'lotos_transfer.json'
  files.write_json(path, {**kept, 'radii': parts})


if __name__ == '__main__':
  shell.run_script(main)
