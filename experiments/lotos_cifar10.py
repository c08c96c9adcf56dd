"""ResNet-18 ensembles on CIFAR-10 with LOTOS, in resumable pieces.

One call does as much as fits the minutes, ends in the middle of a training if
need be, and writes a small JSON beside the numbers of the authors' rebuttal.
The same command, with the same --work, continues; a fresh machine starts over
unless --work travels.

  python experiments/lotos_cifar10.py --minutes 9 --work /tmp/lotos \
    --out $OUT --set dataset=npz:/tmp/cifar10.npz --arg seeds=0,epochs=20
"""

import argparse
import pathlib
import sys
import time

from cmu_jax import config as configs
from cmu_jax import errors, files, workdir
from cmu_jax.ensemble import job, place, sweep

CONFIG = 'configs/lotos_cifar10.py'
# Black-box robust accuracy of the ensemble, PGD-50 at 0.04, 121 epochs: of the
# released threat model, in the authors' rebuttal.
PUBLISHED = {'plain': 0.164, 'clipped': 0.264, 'lotos': 0.322}


def beside(rows: list[dict]) -> list[dict]:
  """The published numbers beside ours of the same threat model."""
  return [
    {
      'method': method,
      'published': value,
      'ours': [
        row['black_box_accuracy']
        for row in rows
        if (row['method'], row['threat']) == (method, 'paper_compat_clamp')
      ],
    }
    for method, value in PUBLISHED.items()
  ]


def main() -> int:
  """Continues the run and writes what there is."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--minutes', type=float, default=9.0)
  parser.add_argument('--work', default='runs/lotos_cifar10')
  parser.add_argument('--out', default='results')
  parser.add_argument('--arg', default='', help='of the config')
  parser.add_argument('--set', nargs='*', default=[], help='field=value')
  flags = parser.parse_args()
  began = time.monotonic()
  spec = f'{CONFIG}:{flags.arg}' if flags.arg else CONFIG
  overrides = dict(item.split('=', 1) for item in flags.set)
  loaded = configs.load(spec, overrides)
  folder = pathlib.Path(flags.work)
  with workdir.locked(folder, '--work'):
    here = place.load(loaded.config, folder)
    found = job.collect(here, sweep.run(here, flags.minutes))
  found['provenance']['command'] = (
    f'python experiments/lotos_cifar10.py --arg {flags.arg}'
  )
  found['config'].pop('data_dir')
  names = ('schema', 'name', 'task', 'smoke', 'finished', 'provenance', 'rows')
  files.write_json(
    pathlib.Path(flags.out) / f'{loaded.name}.json',
    {
      **{name: found[name] for name in names},
      'published': beside(found['rows']),
      'seconds_here': round(time.monotonic() - began, 1),
    },
  )
  return 0


if __name__ == '__main__':
  try:
    sys.exit(main())
  except errors.UserError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)
