"""CUTS configs at paper scale within a time budget.

Each cell is a config with its argument string. A finished cell in the work
folder is only read, an interrupted cell continues. After each of them, a small
JSON with rows and curves is written to --out.

  python experiments/paper_scale.py --minutes 9 --work /tmp/runs --out $OUT \
    configs/cuts_mnist.py:noise=0.2 configs/cuts_mnist.py:noise=0.4 \
    --set dataset=npz:/tmp/mnist.npz
"""

import pathlib
import time

import pieces

from cmu_jax.commands import shell, workdir
from cmu_jax.core import config, files
from cmu_jax.studies.cuts import study
from cmu_jax.studies.engine import run


def main() -> None:
  """Runs the cells that fit the budget."""
  parser = pieces.parser(__doc__, 'runs/paper_scale')
  parser.add_argument('cells', nargs='+', help='FILE.py[:arg]')
  flags = parser.parse_args()
  began, longest = time.monotonic(), 0.0
  for spec in flags.cells:
    # A cell begins only if the longest so far would still end in time.
    if time.monotonic() - began + longest > 60 * flags.minutes:
      print(f'left for another run: {spec}')
      continue
    loaded = config.load(spec, pieces.overrides(flags))
    folder = pathlib.Path(flags.work) / loaded.name
    start = time.monotonic()
    with workdir.open_run(folder, loaded.config):
      results = run.run_study(study.LABEL_NOISE, loaded.config, folder)
    seconds = time.monotonic() - start
    longest = max(longest, seconds)
    files.write_json(
      pathlib.Path(flags.out) / f'{loaded.name}.json',
      {**results, 'seconds': round(seconds, 1), 'spec': spec},
    )


if __name__ == '__main__':
  shell.run_script(main)
