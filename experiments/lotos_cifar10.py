"""ResNet-18 ensembles on CIFAR-10 with LOTOS, in resumable pieces.

A call does the work that fits the minutes, ends in the middle of a training if
need be, and writes a small JSON beside the numbers of the authors' rebuttal.
The same command, with the same --work, continues; a fresh machine starts over
unless --work travels.

  python experiments/lotos_cifar10.py --minutes 9 --work /tmp/lotos \
    --out $OUT --set dataset=npz:/tmp/cifar10.npz --arg seeds=0,epochs=20
"""

import pieces

from cmu_jax.commands import shell

# Black-box robust accuracy of the ensemble, PGD-50 at 0.04, 121 epochs: of the
# released threat model, in the authors' rebuttal.
PUBLISHED = {'plain': 0.164, 'clipped': 0.264, 'lotos': 0.322}


def compare(rows: list[dict]) -> list[dict]:
  """Lists the published numbers with ours of the same threat model."""
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


def main() -> None:
  """Continues the run and writes its results so far."""
  pieces.run(
    'configs/lotos_cifar10.py',
    pieces.parser(__doc__, 'runs/lotos_cifar10').parse_args(),
    extra=lambda rows: {'published': compare(rows)},
  )


if __name__ == '__main__':
  shell.run_script(main)
