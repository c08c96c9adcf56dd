"""Transfer of adversarial images with and without LOTOS, and clipping.

All four combinations of penalty and clipping, at several radii of the attack,
by the cells of configs/lotos_digits.py: radii share their trainings.

  python experiments/lotos_transfer.py --out results --work runs/lotos_transfer
"""

import pathlib

import pieces

from cmu_jax.commands import shell, workdir
from cmu_jax.core import config as configs
from cmu_jax.core import files
from cmu_jax.studies.engine.run import run_study
from cmu_jax.studies.ensembles import tables
from cmu_jax.studies.ensembles.study import STUDY

METHODS = ('plain', 'clipped', 'lotos_unclipped', 'lotos')
PAIRS = (
  ('plain', 'clipped'),
  ('plain', 'lotos_unclipped'),
  ('clipped', 'lotos'),
  ('plain', 'lotos'),
)
METRICS = (
  'test_accuracy',
  't_rate',
  'joint_failure_rate',
  'black_box_accuracy',
)


def compare_methods(results: dict) -> list[dict]:
  """Computes paired differences over seeds, of the correct threat model."""
  differences = []
  for before, after in PAIRS:
    for metric in METRICS:
      change = tables.compare(results, 'correct', metric, before, after)
      if change is not None:
        pair = {'metric': metric, 'before': before, 'after': after}
        differences.append({**pair, **change._asdict()})
  return differences


def main() -> None:
  """Runs all radii and writes one small JSON."""
  parser = pieces.parser(__doc__, 'runs/lotos_transfer')
  parser.add_argument(
    '--radii', type=float, nargs='+', default=[0.05, 0.1, 0.2]
  )
  parser.add_argument('--methods', nargs='+', default=METHODS)
  flags = parser.parse_args()
  spec = 'configs/lotos_digits.py' + (f':{flags.arg}' if flags.arg else '')
  folder, radii, header = pathlib.Path(flags.work), [], {}
  for radius in flags.radii:
    config = configs.load(spec, pieces.overrides(flags)).config
    with config.unlocked():
      config.methods, config.threats = tuple(flags.methods), ('correct',)
      config.attack.radius, config.evaluate.lipschitz = radius, False
    with workdir.lock(folder, '--work'):
      results = run_study(STUDY, config, folder)
    header = {
      k: results[k] for k in ('schema', 'smoke', 'provenance', 'config')
    }
    radii.append(
      {
        'radius': radius,
        'differences': compare_methods(results),
        'rows': results['rows'],
      }
    )
  header['provenance']['command'] = 'python experiments/lotos_transfer.py'
  path = pathlib.Path(flags.out) / 'lotos_transfer.json'
  files.write_json(path, {**header, 'radii': radii})


if __name__ == '__main__':
  shell.run_script(main)
