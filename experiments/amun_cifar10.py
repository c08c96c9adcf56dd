"""AMUN on CIFAR-10 at a shortened schedule, in resumable pieces, for one GPU.

One original, one Retrain, one forget set, a fixed learning rate, no reference
networks: NOT a reproduction of AMUN's tables, which take 27 runs of 200-epoch
networks and 128 references. It compares UA, RA, TA and the attacks that need
no references.

A call does the work that fits the minutes and writes a small JSON. The same
command, with the same --work, continues between trainings; the folder holds one
network (45 MB for ResNet-18 of width 64) and a few small files.

  python experiments/amun_cifar10.py --minutes 9 --work /tmp/amun --out $OUT \
    --set dataset=npz:/tmp/cifar10.npz
"""

import pieces

from cmu_jax.commands import shell
from cmu_jax.studies.engine import gaps

METHODS = 'ft,rl,salun,amun,amun_salun,amun_alone'
CAVEAT = (
  'One network and one forget set at {epochs} instead of 200 epochs, learning '
  'rate {rate} untuned, confidence attacks instead of RMIA with 128 '
  'references: not a reproduction.'
)
# arXiv 2503.00917, Tables 1 and 2 at 10 %: UA, RA, TA in percent.
PUBLISHED = {
  'retrain': (94.49, 100.0, 94.33),
  'ft': (95.16, 96.64, 92.21),
  'rl': (95.54, 97.47, 92.17),
  'salun': (96.25, 98.14, 93.06),
  'amun': (95.45, 99.57, 93.45),
  'amun_salun': (95.02, 99.58, 93.29),
  'amun_alone': (94.28, 97.47, 91.67),
}


def compare(rows: list[dict]) -> list[dict]:
  """Lists our UA, RA and TA and the gap with the published accuracies."""
  retrained = [row for row in rows if row['method'] == 'retrain']
  comparison = []
  for row in rows:
    gap = gaps.compute_gap([row], retrained, 'confidence')
    values = gaps.column_values([row], gaps.gap_columns('confidence'))
    comparison.append(
      {
        'method': row['method'],
        'ours': values.ravel()[:3].tolist(),
        'published_full_schedule': PUBLISHED.get(row['method']),
        'gap_of_confidence': None if gap is None else gap.of_means,
      }
    )
  return comparison


def main() -> None:
  """Continues the run and writes its results so far."""
  parser = pieces.parser(__doc__, 'runs/amun_cifar10')
  parser.add_argument('--epochs', type=int, default=30)
  parser.add_argument('--rate', type=float, default=0.01)
  parser.add_argument('--methods', default=METHODS)
  flags = parser.parse_args()
  comma = '' if ',' in flags.methods else ','
  fields = {
    'seeds': '1,',
    'forget_seeds': '1,',
    'tuning_seeds': '0,',
    'runs': '1',
    'learning_rates': f'{flags.rate},',
    'methods': f'{flags.methods}{comma}',
    # Weights are saved at the end of a training, not in its course.
    'checkpoint_seconds': '1e9',
  }
  pieces.run(
    f'configs/amun_cifar10.py:epochs={flags.epochs}',
    flags,
    fields,
    'amun_cifar10_short',
    lambda rows: {
      'says': CAVEAT.format(epochs=flags.epochs, rate=flags.rate),
      'beside': compare(rows),
    },
  )


if __name__ == '__main__':
  shell.run_script(main)
