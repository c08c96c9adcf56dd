"""The published CIFAR-10 setting of the benchmark, in resumable pieces.

One call does as many cells as fit the minutes and writes a small JSON: rows
and the anchors of a logged run of the authors' code. The same command, with
the same --work, continues; a fresh machine starts over unless --work travels.

Their code keeps the epoch that is best on the test split, we keep the last
iterate; each has a JSON of its own. --iterates=last or =best does one of them,
and --arg parity takes the released index sets and the test split as they did.

  python experiments/corrective_cifar10.py --minutes 9 --work /tmp/sweep \
    --out $OUT --set dataset=npz:/tmp/cifar10.npz --arg parity,seeds=0
"""

import time

import pieces

from cmu_jax.commands import shell
from cmu_jax.core import errors

CONFIG = 'configs/corrective_cifar10.py'
# Which epoch of every training counts, and what its JSON is called.
ITERATES = {'last': 'corrective_cifar10', 'best': 'corrective_cifar10_best'}
# Of poison, 500 images, seed 0: the logged value and how far ours may be.
ANCHORS = (
  ('none', None, 'acc_retain', 0.912, 0.02),
  ('none', None, 'acc_corr', 0.165, 0.05),
  ('none', None, 'attack_success_rate', 0.924, 0.05),
  ('rewod', 0.5, 'acc_retain', 0.9114, 0.02),
  ('rewod', 0.5, 'acc_corr', 0.1665, 0.02),
)


def anchors(rows: list[dict]) -> list[dict]:
  """The logged numbers beside ours, as far as there are any."""
  found = []
  for method, fraction, name, logged, within in ANCHORS:
    ours = [
      row[name]
      for row in rows
      if (row['manipulation'], row['method'], row['selection'])
      == ('poison', method, 'paper')
      and row['identified_fraction'] == fraction
      and row[name] is not None
    ]
    found.append(
      {
        'method': method,
        'identified_fraction': fraction,
        'metric': name,
        'logged': logged,
        'ours': ours,
        'within': within,
        'met': all(abs(x - logged) <= within for x in ours) if ours else None,
      }
    )
  return found


def main() -> None:
  """Continues the sweep of each iterate and writes what there is."""
  made = pieces.parser(__doc__ or '', 'runs/corrective_cifar10')
  made.add_argument('--arg', default='', help='of the config')
  made.add_argument('--iterates', default='last,best')
  flags, began = made.parse_args(), time.monotonic()
  spec = f'{CONFIG}:{flags.arg}' if flags.arg else CONFIG
  minutes = flags.minutes
  for iterate in flags.iterates.split(','):
    if iterate not in ITERATES:
      raise errors.unknown_name('iterate', iterate, ITERATES)
    flags.minutes = max(0.0, minutes - (time.monotonic() - began) / 60)
    pieces.run(
      spec,
      {**pieces.given(flags), 'best_epoch': str(iterate == 'best')},
      flags,
      name=ITERATES[iterate],
      extra=lambda rows: {'anchors': anchors(rows)},
    )


if __name__ == '__main__':
  shell.run_script(main)
