r"""One coefficient for the network or one for each layer, cell by cell.

  theta_u = theta_mix - sum over blocks b of alpha_b tau_b

The authors of CUTS leave the choice of alpha_b open. Here J, cross-fitted as in
`cmu_jax.methods.cuts.safe_alpha`, is climbed by coordinates from the best
single coefficient: each block in turn takes the first best of a grid, in a few
sweeps. A step is taken only if J_cf grows. With b choices instead of one it is
easier to overfit the images that choose: on digits the climb did not help test
images (40 cells of label noise and two networks, test accuracy 0.000 +- 0.002
against the one coefficient, results/block_alpha_digits.json).

A cell is a network, a kind of noise, a rate and a seed. Test accuracy is
measured untouched, at the published alpha, at the best single alpha of the
cross-fitted score, and after the climb from there: `layers` over the whole
grid, `layers_near` over multiples of the single alpha. `best` is the single
alpha that is best on the test labels.

  python experiments/block_alpha.py

References:
  CUTS, arXiv 2511.18660, section 5 (blocks, as future work).
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import cell_runs
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from cmu_jax.commands import shell
from cmu_jax.core import config as configs
from cmu_jax.core import jit, progress, rng, tree, vectorize
from cmu_jax.core.types import Model, Network, Variables
from cmu_jax.methods.cuts import (
  algorithm,
  alpha_rules,
  alpha_search,
  cross_fitting,
  safe_alpha,
)
from cmu_jax.studies.cuts import evaluate, stages
from cmu_jax.studies.cuts import scene as scenes
from cmu_jax.studies.engine import recipes

NETWORKS = {'fc': ('fc', '512'), 'convnet': ('convnet', '1')}
NOISE = (
  ('symmetric', 0.2),
  ('symmetric', 0.4),
  ('symmetric', 0.6),
  ('asymmetric', 0.4),
)
NEAR = np.array([0, 0.5, 0.75, 1, 1.25, 1.5, 2])
COLUMNS = ('nothing', 'published', 'single', 'layers', 'layers_near', 'best')

BlockOf = Callable[[tuple[str, ...]], str]


class Climb(NamedTuple):
  """A coefficient for each block.

  Attributes:
    blocks: the names of the blocks.
    alphas: their coefficients.
    start: the single coefficient at the start.
    J: the cross-fitted score at the start and after each sweep.
  """

  blocks: tuple[str, ...]
  alphas: np.ndarray
  start: float
  J: list[float]


def layer_of(path: tuple[str, ...]) -> str:
  """Returns the module next to a leaf: a layer, 'body/Dense_0' for example."""
  return '/'.join(path[:-1]) or path[0]


def stage_of(path: tuple[str, ...]) -> str:
  """Returns the second level of the network: 'body/layer1', or 'head'."""
  return '/'.join(path[:2]) if len(path) > 2 else path[0]


def block_names(tau: PyTree, block_of: BlockOf = layer_of) -> tuple[str, ...]:
  """Lists the blocks in which a task vector is not zero, in order."""
  is_nonzero = lambda x: tree.is_float(x) and bool(np.any(np.asarray(x)))
  leaves = tree.leaves_by_path(tau)
  return tuple(
    dict.fromkeys(block_of(path) for path, x in leaves.items() if is_nonzero(x))
  )


def edit(
  params: PyTree,
  tau: PyTree,
  alphas: jax.Array,
  blocks: tuple[str, ...],
  block_of: BlockOf = layer_of,
) -> PyTree:
  """Returns theta - sum_b alpha_b tau_b; leaves of no block stay.

  Args:
    params: theta.
    tau: the task vector.
    alphas: a coefficient for each block; may be traced.
    blocks: see `block_names`.
    block_of: the block of a leaf, by the names along its path.
  """

  def edit_leaf(path, p, t):
    block = block_of(tree.path_names(path))
    if block not in blocks or not tree.is_float(p):
      return p
    return (p - alphas[blocks.index(block)] * t).astype(p.dtype)

  return jax.tree_util.tree_map_with_path(edit_leaf, params, tau)


# Cached: the cells of a network share one compilation.
@functools.lru_cache(maxsize=32)
def _score_program(
  model: Model, blocks: tuple[str, ...], block_of: BlockOf, k: int, size: int
) -> Callable:
  """J of a fold at many coefficient vectors, as one program."""
  strategy = vectorize.default_strategy()
  chunk = vectorize.chunk_size(size) if strategy == 'vmap' else None

  def run(variables, tau, image, alphas):
    def objective(vector):
      params = edit(variables.params, tau, vector, blocks, block_of)
      edited = Variables(params, variables.batch_stats)
      features = model.features(edited, image)
      logits = model.head(edited, features)
      return alpha_rules.agreement(features, logits, k=k).J

    return vectorize.map_members(objective, strategy, chunk)(alphas)

  return jit.compile_loop(run)


def scorer(
  network: Network,
  variables: Variables,
  folds: cross_fitting.Folds,
  tau: PyTree,
  blocks: tuple[str, ...],
  block_of: BlockOf = layer_of,
) -> Callable[[np.ndarray], np.ndarray]:
  """Makes the function from coefficient vectors [m, b] to J_cf [m].

  Args:
    network: the model and its input step.
    variables: theta_mix.
    folds: see `cross_fitting.split`.
    tau: task vectors of the folds, see `safe_alpha.fit_fold_vectors`.
    blocks: see `block_names`.
    block_of: the block of a leaf.

  Raises:
    UserError: fewer than 2 C images a fold.
  """
  images = [
    network.inputs.eval(folds.proxy.image[rows], None)
    for rows in folds.held_out
  ]
  classes = jax.eval_shape(network.model.apply, variables, images[0]).shape[-1]
  k = alpha_rules.neighbour_count(images[0].shape[0], classes)
  size = sum(x.nbytes for x in jax.tree.leaves(variables.params))
  run = _score_program(network.model, blocks, block_of, k, size)

  def score(alphas: np.ndarray) -> np.ndarray:
    vectors = jnp.asarray(alphas, jnp.float32)
    by_fold = [
      np.asarray(run(variables, tree.index(tau, f), image, vectors), np.float64)
      for f, image in enumerate(images)
    ]
    return np.mean(by_fold, axis=0)

  return score


def climb(
  score: Callable[[np.ndarray], np.ndarray],
  blocks: tuple[str, ...],
  start: float,
  grid: np.ndarray,
  sweeps: int = 2,
) -> Climb:
  """Searches by coordinates, from one coefficient for all blocks.

  Args:
    score: coefficient vectors [m, b] -> the score to maximize.
    blocks: their names.
    start: the single coefficient.
    grid: candidates for each block.
    sweeps: turns of each block; the search ends early if no block moves.
  """
  alphas = np.full(len(blocks), start)
  scores: list[float] = []
  turns = sweeps * len(blocks)
  with progress.bar('alpha by block', turns, unit='blocks') as advance:
    for _ in range(sweeps):
      unchanged = alphas.copy()
      for b in range(len(blocks)):
        # The current vector comes first, so that a tie is no move.
        candidates = np.repeat(alphas[None, :], len(grid) + 1, axis=0)
        candidates[1:, b] = grid
        values = score(candidates)
        scores = scores or [float(values[0])]
        alphas = candidates[int(values.argmax())]
        best = float(values.max())
        advance()
      scores.append(best)
      if np.array_equal(unchanged, alphas):
        break
  return Climb(blocks, alphas, start, scores)


def load_config(network: str, kind: str, rate: float, seed: int):
  """Loads the config of a cell."""
  name, width = NETWORKS[network]
  spec = f'configs/cuts_digits.py:kind={kind},noise={rate}'
  fields = {'model.name': name, 'model.width': width, 'seeds': str(seed)}
  return configs.load(spec, fields).config


def fit_vectors(config, world: scenes.World, scene: scenes.Scene, mix):
  """Returns the task vector of the proxy, folds, and the folds' vectors."""
  network = Network(world.model, world.inputs)
  options = lambda size: recipes.fit_options(
    config.proxy_train, size, 'proxy_train'
  )
  tau, _ = algorithm.direction(
    rng.fold_in(scene.key, 'tau'),
    network,
    mix,
    scene.proxy,
    options(scene.proxy.label.shape[1]),
  )
  folds = cross_fitting.split(rng.fold_in(scene.key, 'folds'), scene.proxy, 2)
  fitted = safe_alpha.fit_fold_vectors(
    rng.fold_in(scene.key, 'fold'),
    network,
    mix,
    folds,
    options(folds.proxy.label.shape[1]),
  )
  return tau, folds, fitted.tau


def measure(config, world: scenes.World, seed: int) -> dict:
  """Measures the accuracies of a cell, and records the search."""
  scene = scenes.draw_scene(config, world, seed)
  test_score = evaluate.make_scorer(config, world)
  accuracy = lambda variables: test_score(variables).values['test_accuracy']
  mix = cell_runs.train_network(config, world, scene, scene.train)
  tau, folds, fold_tau = fit_vectors(config, world, scene, mix)
  network = Network(world.model, world.inputs)
  blocks, grid = block_names(tau), alpha_rules.noise_grid()
  score = scorer(network, mix, folds, fold_tau, blocks)
  curve = score(np.repeat(grid[:, None], len(blocks), axis=1))
  start = float(grid[curve.argmax()])
  full = climb(score, blocks, start, grid)
  near = climb(score, blocks, start, NEAR * start)
  published, _ = alpha_search.select_alpha(
    network,
    mix,
    tau,
    scene.proxy,
    selection=stages.make_selection(config),
  )

  def accuracy_at(alphas: Any) -> float:
    vector = np.broadcast_to(np.asarray(alphas, np.float32), (len(blocks),))
    params = edit(mix.params, tau, vector, blocks)
    return accuracy(Variables(params, mix.batch_stats))

  return {
    'nothing': accuracy(mix),
    'published': accuracy_at(published.alpha),
    'single': accuracy_at(start),
    'layers': accuracy_at(full.alphas),
    'layers_near': accuracy_at(near.alphas),
    'best': max(accuracy_at(a) for a in grid[::2]),
    'blocks': list(blocks),
    'alpha_single': start,
    'alpha_layers': full.alphas.tolist(),
    'alpha_layers_near': near.alphas.tolist(),
    'J_nothing': float(curve[0]),
    'J_layers': full.J,
    'J_layers_near': near.J,
  }


def summarize(cells: dict[str, dict]) -> list[dict]:
  """Summarizes the cells of each network and noise, and of each network."""
  groups: dict[str, list[dict]] = {}
  for name, cell in cells.items():
    network = name.split(',')[0]
    for group in (name.rsplit(',', 1)[0], f'{network}, all'):
      groups.setdefault(group, []).append(cell)
  rows = []
  for name, members in sorted(groups.items()):
    row = {'cells': name, 'count': len(members)}
    row |= {k: float(np.mean([cell[k] for cell in members])) for k in COLUMNS}
    gains = {
      key: np.array([cell[key] - cell['single'] for cell in members])
      for key in ('layers', 'layers_near')
    }
    row |= {f'{key}_gain': float(gain.mean()) for key, gain in gains.items()}
    row |= {
      f'{key}_gain_error': float(np.std(gain) / np.sqrt(len(gain)))
      for key, gain in gains.items()
    }
    row |= {
      f'{key}_better_worse': [
        int((gain > 0.01).sum()),
        int((gain < -0.01).sum()),
      ]
      for key, gain in gains.items()
    }
    rows.append(row)
  return rows


def main() -> None:
  """Runs the cells that --out lacks; prints the table."""
  parser = cell_runs.parser(__doc__)
  parser.add_argument('--seeds', default='0,1,2,3,4')
  parser.add_argument('--out', default='results/block_alpha_digits.json')
  flags = parser.parse_args()

  # One world for a network and kind: cells then share their compilations.
  @functools.cache
  def world_of(network: str, kind: str) -> scenes.World:
    return scenes.load_world(load_config(network, kind, NOISE[0][1], 0))

  def compute(name: str) -> dict:
    network, kind, rate, seed = name.split(',')
    config = load_config(network, kind, float(rate), int(seed))
    return measure(config, world_of(network, kind), int(seed))

  def report(cells: dict) -> dict:
    return {
      **cell_runs.describe(),
      'seeds': flags.seeds,
      'table': summarize(cells),
      'by_cell': cells,
    }

  names = [
    f'{network},{kind},{rate},{seed}'
    for network in NETWORKS
    for seed in cell_runs.seeds_of(flags)
    for kind, rate in NOISE
  ]
  cells = cell_runs.compute_missing(
    pathlib.Path(flags.out), names, compute, report
  )
  for row in summarize(cells):
    print(
      {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
    )


if __name__ == '__main__':
  shell.run_script(main)
