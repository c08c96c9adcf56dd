"""Which two classes, and how many images of them, a confusion takes.

No paper fixes this for MNIST and the digits. Wanted is a problem that is one:
on validation data (never on the test split) doing nothing stays below .8 of
the gold standard U*, and RewoD with a tenth identified below .9 of it.

  python experiments/corrective_pilot.py --config=configs/corrective_digits.py \
    --pairs=1:7,3:5,4:9,1:8 --shares=0.5,0.75,1.0 --out=FILE.json
"""

import argparse
import json
import pathlib
import tempfile

import numpy as np

from cmu_jax.commands import shell
from cmu_jax.core import config, files, provenance, rng
from cmu_jax.studies.corrective import cells, measure, solve, stage, world
from cmu_jax.studies.engine import binding

BELOW_NONE, BELOW_REWOD = 0.8, 0.9


def _config(flags: argparse.Namespace, pair: str, share: float):
  """The sweep's settings for one pair and size."""
  given = {'data_dir': flags.data_dir} if flags.data_dir else {}
  loaded = config.load(
    flags.config, {'manipulations': 'interclass,', **given}
  ).config.copy_and_resolve_references()
  loaded.unlock()
  loaded.seeds = tuple(int(s) for s in flags.seeds.split(','))
  loaded.interclass.pair = pair
  dataset = binding.load(loaded).dataset
  one = world.bind_world(loaded, dataset, 'interclass')
  label = np.asarray(
    world.training(loaded, rng.fold_in(loaded.seeds[0]), dataset).label
  )
  fewest = min(int((label == c).sum()) for c in one.pair)
  loaded.interclass.sizes = (2 * round(share * fewest),)
  return loaded.lock(), dataset


def row(flags: argparse.Namespace, pair: str, share: float) -> dict:
  """Acc_corr on validation data of doing nothing, RewoD at .1, and U*."""
  config, dataset = _config(flags, pair, share)
  found: dict[str, list[float]] = {'none': [], 'rewod_0.1': [], 'gold': []}
  with tempfile.TemporaryDirectory() as name:
    place = stage.bind(config, pathlib.Path(name), dataset)
    one, size = place.worlds['interclass'], config.interclass.sizes[0]
    for seed in config.seeds:
      case = cells.Case('interclass', size, seed)
      scene = stage.scene_of(place, case)
      scene = scene._replace(reported=scene.problem.validation)
      start = stage.original(place, case, scene)
      images = measure.sets(one, scene)
      batch = config.evaluate.batch_size
      before = solve.look(one, images, start, batch)
      nothing = measure.values(one, scene, before, before, 1.0)
      found['none'].append(nothing['acc_corr'])
      for label, fraction in (('rewod_0.1', 0.1), ('gold', 1.0)):
        points, _ = solve.cell(
          rng.fold_in(scene.key, 'method', 'rewod'),
          place.methods['interclass', 'rewod'],
          one,
          scene,
          start,
          before,
          fraction,
          batch,
        )
        found[label].append(points[0]['acc_corr'])
  mean = {name: float(np.mean(values)) for name, values in found.items()}
  return {
    'pair': pair,
    'size': size,
    'share_of_class': share,
    'seeds': list(config.seeds),
    **found,
    'fits': mean['none'] < BELOW_NONE * mean['gold']
    and mean['rewod_0.1'] < BELOW_REWOD * mean['gold'],
  }


def main() -> None:
  """Prints a line a pair and share, and writes them all."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--config', required=True)
  parser.add_argument('--data_dir')
  parser.add_argument('--pairs', required=True)
  parser.add_argument('--shares', default='0.5,0.75,1.0')
  parser.add_argument('--seeds', default='0,1,2')
  parser.add_argument('--out', required=True)
  flags = parser.parse_args()
  rows = []
  for pair in flags.pairs.split(','):
    for share in map(float, flags.shares.split(',')):
      rows.append(row(flags, pair, share))
      print(json.dumps(rows[-1]))
      commit = provenance.git_commit(
        pathlib.Path(__file__).resolve().parents[1]
      )
      about = {
        'command': f'python experiments/corrective_pilot.py --config='
        f'{flags.config} --pairs={flags.pairs} --shares={flags.shares} '
        f'--seeds={flags.seeds} --out=FILE',
        'commit': commit,
        'evaluated_on': 'validation data',
      }
      files.write_json(flags.out, {'about': about, 'rows': rows})


if __name__ == '__main__':
  shell.run_script(main)
