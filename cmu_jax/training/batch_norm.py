r"""Running statistics of BatchNorm, estimated anew from images.

Weights stay; every running mean and variance becomes that of the images.
Networks without BatchNorm stay as they are.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from cmu_jax.core import jit, rng, tree
from cmu_jax.core.types import Batch, InputStep, Model, PRNGKey, Variables


def _batch_statistics(
  model: Model, variables: Variables, image: Float[Array, 'n h w c']
) -> PyTree:
  """Statistics of one batch, whatever the network's momentum is.

  A running statistic becomes m old + (1 - m) new. Updates from zeros and from
  ones tell m, and with it the new one; m = 1 never moves and stays.
  """

  def update(value):
    stats = jax.tree.map(
      lambda x: jnp.full_like(x, value) if tree.is_float(x) else x,
      variables.batch_stats,
    )
    return model.update(variables._replace(batch_stats=stats), image)[1]

  def solve(old, from_zero, from_one):
    if not tree.is_float(old):
      return old
    weight = 1 - (from_one - from_zero)
    moves = weight > 0
    return jnp.where(moves, from_zero / jnp.where(moves, weight, 1), old)

  return jax.tree.map(solve, variables.batch_stats, update(0), update(1))


def _pool_blocks(blocks: PyTree, weight: Float[Array, 'b']) -> PyTree:
  """Statistics of all blocks together, from those of each block [b, ...].

  A variance beside a mean is that within blocks plus that between them; any
  other statistic is averaged.
  """
  named = tree.leaves_by_path(blocks)
  share = weight / weight.sum()

  def average(x):
    # What no block moved, a head kept among the statistics, stays bit for bit.
    still = jnp.all(x == x[:1], 0)
    return jnp.where(still, x[0], jnp.tensordot(share, x, 1).astype(x.dtype))

  def pool(path, leaf):
    names = tree.path_names(path)
    beside = named.get((*names[:-1], 'mean'))
    if not tree.is_float(leaf):
      return leaf[0]
    if names[-1] != 'var' or beside is None:
      return average(leaf)
    centre = average(beside)
    between = jnp.square(beside - centre[None])
    return average(leaf) + average(between)

  return jax.tree_util.tree_map_with_path(pool, blocks)


@functools.lru_cache(maxsize=32)
def _compile_statistics(model: Model, inputs: InputStep) -> Callable:
  """A jitted function from rows of images [b, n] to statistics a block."""

  def look(variables: Variables, image: jax.Array, rows: Int[Array, 'b n']):
    def block(index):
      return _batch_statistics(
        model, variables, inputs.eval(image[index], None)
      )

    return jax.lax.map(block, rows)

  return jit.compile_loop(look)


def recalibrate(
  key: PRNGKey,
  model: Model,
  inputs: InputStep,
  variables: Variables,
  batch: Batch,
  batch_size: int = 512,
) -> Variables:
  """The same weights with the running statistics of `batch`.

  Every image counts once, in batches whose sizes differ by at most one. Each
  layer sees what the one before it makes of its batch, as in training.

  Args:
    key: of the order of the images.
    model: the network.
    inputs: raw pixels to network input; images are not augmented.
    variables: the network's weights.
    batch: n images; labels and stamps are not looked at.
    batch_size: largest number of images at a time.
  """
  if not jax.tree.leaves(variables.batch_stats):
    return variables
  count = batch.label.shape[0]
  order = np.asarray(jax.random.permutation(rng.fold_in(key, 'order'), count))
  blocks = np.array_split(order, -(-count // batch_size))
  run = _compile_statistics(model, inputs)
  groups = [
    np.stack([block for block in blocks if block.size == size])
    for size in sorted({block.size for block in blocks})
  ]
  found = [run(variables, batch.image, jnp.asarray(rows)) for rows in groups]
  sizes = [np.full(rows.shape[0], rows.shape[1]) for rows in groups]
  weight = jnp.asarray(np.concatenate(sizes), jnp.float32)
  joined = jax.tree.map(lambda *x: jnp.concatenate(x), *found)
  return variables._replace(batch_stats=_pool_blocks(joined, weight))
