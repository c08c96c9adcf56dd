r"""Unlearning by the mean over a simplex of networks, against their soup.

A cell is a seed: a small vision transformer learns all classes; task vectors
come from fine-tuning it on two of them in different ways; subtracting them
forgets the two. Q in {2, 3, 5, 8} of the vectors span a simplex. Every method
gets its lambda in 0, 0.1, ..., 3 on validation images alone (the lowest
accuracy on the forgotten classes that keeps 95 % of the accuracy on the others;
the smaller one of ties), and is then evaluated once on the test images. The
grid was widened once: up to 1, most choices of the first run lay at its end.

The primary comparison, declared before the first run: cubature2 on
probabilities minus the centroid at Q = 3, forget accuracy on the test images at
the lambda of each method, paired over the seeds, 95 % interval of Student's t.
It unlearns better if the whole interval is below 0 and the same interval of the
control accuracy reaches 0 or more. All else is secondary.

At equal cost: `vertices` (the ordinary ensemble of the Q networks), `sampled`
(Q networks drawn from the simplex) and `cubature2` all take Q forward passes;
centroid, NegMerge, TIES and MagMax are one network each. `single` is the mean
over Q single vectors, each with its own lambda; `single_best` the one of them
that validation prefers.

  python experiments/simplex_unlearning.py --minutes 12
  python experiments/simplex_unlearning.py --dataset mnist --data_dir DIR
  ... --dataset cifar10_small --source cifar10 --data_dir DIR     on a CPU
  ... --dataset cifar10 --data_dir DIR --weights model.safetensors \
    --model clip-vit-b32 --rate 0.01        your CLIP, on a GPU
"""

import pathlib
import warnings

import cell_runs
import simplex_unlearning_cell as cell
import simplex_unlearning_world as worlds
from simplex_unlearning_show import draw_figure, markdown, summarize

from cmu_jax.commands import shell
from cmu_jax.core import files, progress, provenance
from cmu_jax.methods import simplex


def report(flags, cells) -> dict:
  """Builds the JSON: origin, table and every cell."""
  config = {
    **worlds.SETTINGS[flags.dataset],
    'lambdas': cell.LAMBDAS.tolist(),
    'configs': [list(config) for config in worlds.CONFIGS],
    'smoke': flags.smoke,
    'model': flags.model if flags.weights else 'vit_tiny',
    'weights_sha256': files.digest(flags.weights) if flags.weights else '',
    'rate': flags.rate,
  }
  private = ('--data_dir', '--source', '--out', '--weights')
  return {
    **cell_runs.describe(private),
    'device': provenance.describe_run(config)['device'],
    'dataset': flags.dataset,
    'config': config,
    'summary': summarize(cells),
    'by_seed': cells,
  }


def main() -> None:
  """Runs the missing seeds that fit the time; writes table and figure."""
  parser = cell_runs.parser(__doc__)
  parser.add_argument(
    '--dataset', default='digits', choices=tuple(worlds.SETTINGS)
  )
  parser.add_argument('--source', default='', help='other images: npz:FILE')
  parser.add_argument('--data_dir', default='')
  parser.add_argument('--weights', default='', help='a CLIP to start from')
  parser.add_argument('--model', default='clip', help='its name')
  parser.add_argument('--rate', type=float, default=1.0, help='times each lr')
  parser.add_argument('--seeds', default='0,1,2,3,4')
  parser.add_argument('--minutes', type=float, default=12)
  parser.add_argument('--out', default='')
  parser.add_argument('--smoke', action='store_true')
  flags = parser.parse_args()
  suffix = '_smoke' if flags.smoke else ''
  kind = '_clip' if flags.weights else ''
  default = f'results/simplex_{flags.dataset}{kind}{suffix}.json'
  path = pathlib.Path(flags.out or default)
  seeds = ['0', '1'] if flags.smoke else flags.seeds.split(',')
  world = worlds.load_world(flags)
  # Wide simplices are the subject here; the table says how wide they are.
  warnings.simplefilter('ignore', simplex.SimplexWarning)
  finished = set(files.read_json(path)['by_seed']) if path.is_file() else set()

  def compute(seed: str) -> dict:
    # Times are measured once, by the very first seed of the file.
    timed = not finished
    finished.add(seed)
    with progress.mute():
      return cell.measure(flags, world, int(seed), timed)

  cell_runs.compute_missing(
    path,
    seeds,
    compute,
    lambda cells: report(flags, cells),
    minutes=flags.minutes,
    field='by_seed',
  )
  results = files.read_json(path)
  print(markdown(results))
  files.write_text(path.with_suffix('.md'), markdown(results) + '\n')
  draw_figure(results, path.with_suffix('.png'))


if __name__ == '__main__':
  shell.run_script(main)
