r"""CUTS with a coefficient for each block of the network.

  theta_u = theta_mix - sum over blocks b of alpha_b tau_b

The authors leave the choice of alpha_b open. Here J, cross-fitted as in
`cuts_safe`, is climbed by coordinates from the best single coefficient: each
block in turn takes the first best of a grid, the others kept, in a few sweeps.
A step is taken only where J_cf grows, so the end is never below the start on
the images that choose; with b choices instead of one it is easier to fit those
images than to help others. On digits it did not help them: 40 cells of label
noise and two networks, test accuracy 0.000 +- 0.002 against the one coefficient
from which it set out (results/block_alpha_digits.json). No program offers it.

References:
  CUTS, arXiv 2511.18660, section 5 (blocks, as future work).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from cmu_jax.core import jit, progress, tree, vectorize
from cmu_jax.core.types import Model, Network, Variables
from cmu_jax.methods.cuts import alpha_rules, cross_fitting

Name = Callable[[tuple[str, ...]], str]


class Climb(NamedTuple):
  """A choice of a coefficient for each block.

  Attributes:
    blocks: the names of the blocks.
    alphas: their coefficients.
    start: the single coefficient from which it set out.
    J: the cross-fitted score at the start and after each sweep.
  """

  blocks: tuple[str, ...]
  alphas: Float[np.ndarray, 'b']
  start: float
  J: list[float]


def layer_of(path: tuple[str, ...]) -> str:
  """The module next to the leaf: a layer, 'body/Dense_0' for example."""
  return '/'.join(path[:-1]) or path[0]


def stage_of(path: tuple[str, ...]) -> str:
  """The second level of the network: 'body/layer1', or 'head'."""
  return '/'.join(path[:2]) if len(path) > 2 else path[0]


def block_names(tau: PyTree, name: Name = layer_of) -> tuple[str, ...]:
  """The blocks of a task vector that are not zero everywhere, in order."""
  found = {
    name(path): None
    for path, x in tree.leaves_by_path(tau).items()
    if _is_nonzero(x)
  }
  return tuple(found)


def _is_nonzero(leaf: Any) -> bool:
  return tree.is_float(leaf) and bool(np.any(np.asarray(leaf)))


def edit(
  params: PyTree,
  tau: PyTree,
  alphas: Float[Array, 'b'],
  blocks: tuple[str, ...],
  name: Name = layer_of,
) -> PyTree:
  """theta - sum_b alpha_b tau_b; leaves of no block stay as they are.

  Args:
    params: theta.
    tau: the task vector.
    alphas: a coefficient for each block; may be traced.
    blocks: see `names`.
    name: the block of a leaf, by the names along its path.
  """

  def one(path, p, t):
    mine = name(tree.path_names(path))
    if mine not in blocks or not tree.is_float(p):
      return p
    return (p - alphas[blocks.index(mine)] * t).astype(p.dtype)

  return jax.tree_util.tree_map_with_path(one, params, tau)


@functools.lru_cache(maxsize=32)
def _score_program(
  model: Model,
  blocks: tuple[str, ...],
  name: Name,
  k: int,
  share: float,
  how: vectorize.Strategy,
  chunk: int | None,
) -> Callable:
  """J of one fold at many coefficient vectors, as one program."""

  def run(variables, tau, image, alphas):
    def at(vector):
      params = edit(variables.params, tau, vector, blocks, name)
      edited = Variables(params, variables.batch_stats)
      features = model.features(edited, image)
      logits = model.head(edited, features)
      return alpha_rules.agreement(features, logits, k=k, class_share=share).J

    return vectorize.map_members(at, how, chunk)(alphas)

  return jit.compile_loop(run)


def scorer(
  network: Network,
  variables: Variables,
  folds: cross_fitting.Folds,
  tau: PyTree,
  blocks: tuple[str, ...],
  *,
  name: Name = layer_of,
  share: float = 1.0,
  how: vectorize.Strategy | None = None,
) -> Callable[[np.ndarray], np.ndarray]:
  """J_cf of coefficient vectors [m, b]; one compilation for each m.

  Args:
    network: the model and its input step.
    variables: theta_mix.
    folds: see `cross_fitting.split`.
    tau: task vectors of the folds, see `safe_alpha.fit_fold_vectors`.
    blocks: see `names`.
    name: the block of a leaf.
    share: gamma, the share of the classes that must be predicted.
    how: how the vectors are driven; None for the backend's best.

  Raises:
    UserError: fewer than 2 C images a fold.
  """
  images = [
    network.inputs.eval(folds.proxy.image[held], None)
    for held in folds.held_out
  ]
  classes = jax.eval_shape(network.model.apply, variables, images[0]).shape[-1]
  k = alpha_rules.neighbour_count(images[0].shape[0], classes)
  how = vectorize.default_strategy() if how is None else how
  size = sum(x.nbytes for x in jax.tree.leaves(variables.params))
  chunk = vectorize.chunk_size(size) if how == 'vmap' else None
  run = _score_program(network.model, blocks, name, k, share, how, chunk)

  def score(alphas: np.ndarray) -> np.ndarray:
    given = jnp.asarray(alphas, jnp.float32)
    found = [
      np.asarray(run(variables, tree.index(tau, f), image, given), np.float64)
      for f, image in enumerate(images)
    ]
    return np.mean(found, axis=0)

  return score


def climb(
  score: Callable[[np.ndarray], np.ndarray],
  blocks: tuple[str, ...],
  start: float,
  grid: Float[np.ndarray, 'a'],
  sweeps: int = 2,
) -> Climb:
  """Coordinate search from one coefficient for all blocks.

  Args:
    score: coefficient vectors [m, b] to what is to be made large.
    blocks: their names.
    start: the single coefficient.
    grid: what each block may take.
    sweeps: how often each block has its turn; it ends early where none moves.

  Returns:
    The coefficients; ties stay where they were.
  """
  now = np.full(len(blocks), start)
  told: list[float] = []
  total = sweeps * len(blocks)
  with progress.bar('alpha by block', total, unit='blocks') as advance:
    for _ in range(sweeps):
      before = now.copy()
      for b in range(len(blocks)):
        # The place where it stands comes first, so that a tie is no move.
        tried = np.repeat(now[None, :], len(grid) + 1, axis=0)
        tried[1:, b] = grid
        found = score(tried)
        told = told or [float(found[0])]
        now = tried[int(found.argmax())]
        best = float(found.max())
        advance()
      told.append(best)
      if np.array_equal(before, now):
        break
  return Climb(blocks, now, start, told)
