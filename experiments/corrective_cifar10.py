"""The published CIFAR-10 setting of the benchmark, in resumable pieces.

A call does the cells that fit the minutes and writes a small JSON: rows and the
anchors of a logged run of the authors' code. The same command, with the same
--work, continues; a fresh machine starts over unless --work travels.

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

# The name of the JSON, by the epoch that a training keeps.
ITERATES = {'last': 'corrective_cifar10', 'best': 'corrective_cifar10_best'}
# Of poison, 500 images, seed 0: the logged value and the allowed distance.
ANCHORS = (
  ('none', None, 'acc_retain', 0.912, 0.02),
  ('none', None, 'acc_corr', 0.165, 0.05),
  ('none', None, 'attack_success_rate', 0.924, 0.05),
  ('rewod', 0.5, 'acc_retain', 0.9114, 0.02),
  ('rewod', 0.5, 'acc_corr', 0.1665, 0.02),
)


def compare_anchors(rows: list[dict]) -> list[dict]:
  """Lists the logged numbers with ours, as far as these exist."""
  anchors = []
  for method, fraction, metric, logged, within in ANCHORS:
    ours = [
      row[metric]
      for row in rows
      if (row['manipulation'], row['method'], row['selection'])
      == ('poison', method, 'paper')
      and row['identified_fraction'] == fraction
      and row[metric] is not None
    ]
    anchors.append(
      {
        'method': method,
        'identified_fraction': fraction,
        'metric': metric,
        'logged': logged,
        'ours': ours,
        'within': within,
        'met': all(abs(x - logged) <= within for x in ours) if ours else None,
      }
    )
  return anchors


def main() -> None:
  """Continues the sweep of each iterate and writes its results so far."""
  parser = pieces.parser(__doc__, 'runs/corrective_cifar10')
  parser.add_argument('--iterates', default='last,best')
  flags, began = parser.parse_args(), time.monotonic()
  minutes = flags.minutes
  for iterate in flags.iterates.split(','):
    if iterate not in ITERATES:
      raise errors.unknown_name('iterate', iterate, ITERATES)
    flags.minutes = max(0.0, minutes - (time.monotonic() - began) / 60)
    # The flag decides, not --set: each iterate has a JSON of its own.
    flags.set = [x for x in flags.set if not x.startswith('best_epoch=')]
    pieces.run(
      'configs/corrective_cifar10.py',
      flags,
      {'best_epoch': str(iterate == 'best')},
      ITERATES[iterate],
      lambda rows: {'anchors': compare_anchors(rows)},
    )


if __name__ == '__main__':
  shell.run_script(main)
