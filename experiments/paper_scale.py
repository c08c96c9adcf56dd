"""Runs configs at paper scale within a time budget, and keeps their numbers.

Each cell is one config with its argument string. A cell that is finished in
the work folder is not run again; a cell that was cut off continues. After each
one, a small JSON with rows and curves is written to --out.

  python experiments/paper_scale.py --minutes 9 --work /tmp/runs --out $OUT \
    configs/cuts_mnist.py:noise=0.2 configs/cuts_mnist.py:noise=0.4 \
    --set dataset=npz:/tmp/mnist.npz
"""

import argparse
import pathlib
import time

from cmu_jax.commands import shell, workdir
from cmu_jax.core import config, files
from cmu_jax.studies.cuts import run


def main() -> None:
  """Runs the cells that fit the budget."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('cells', nargs='+', help='FILE.py[:arg]')
  parser.add_argument('--set', nargs='*', default=[], help='field=value')
  parser.add_argument('--minutes', type=float, default=9.0)
  parser.add_argument('--work', default='runs/paper_scale')
  parser.add_argument('--out', default='results')
  flags = parser.parse_args()
  began, longest = time.monotonic(), 0.0
  overrides = dict(item.split('=', 1) for item in flags.set)
  for spec in flags.cells:
    spent = time.monotonic() - began
    if spent + longest > 60 * flags.minutes:
      print(f'left for another run: {spec}')
      continue
    loaded = config.load(spec, overrides)
    folder = pathlib.Path(flags.work) / loaded.name
    start = time.monotonic()
    with workdir.open_run(folder, loaded.config):
      results = run.experiment(loaded.config, folder)
    seconds = time.monotonic() - start
    longest = max(longest, seconds)
    files.write_json(
      pathlib.Path(flags.out) / f'{loaded.name}.json',
      {**results, 'seconds': round(seconds, 1), 'spec': spec},
    )


if __name__ == '__main__':
  shell.run_script(main)
