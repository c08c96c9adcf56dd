r"""Running statistics of BatchNorm, estimated anew from images.

The weights do not change. Networks without BatchNorm do not change at all.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from cmu_jax.core import jit, rng, tree
from cmu_jax.core.types import Batch, Model, Network, PRNGKey, Variables


def _batch_statistics(
  model: Model, variables: Variables, image: Float[Array, 'n h w c']
) -> PyTree:
  """Statistics of one batch, independent of the network's momentum."""

  def update(value):
    stats = jax.tree.map(
      lambda x: jnp.full_like(x, value) if tree.is_float(x) else x,
      variables.batch_stats,
    )
    return model.update(variables._replace(batch_stats=stats), image)[1]

  # A running statistic becomes m old + (1 - m) new. Updates from zeros and from
  # ones tell m, which no module reveals, and with it the new value.
  def solve(old, from_zero, from_one):
    if not tree.is_float(old):
      return old
    weight = 1 - (from_one - from_zero)
    # With m = 1 a statistic never moves and keeps its value.
    moves = weight > 0
    return jnp.where(moves, from_zero / jnp.where(moves, weight, 1), old)

  return jax.tree.map(solve, variables.batch_stats, update(0), update(1))


def _pool_blocks(blocks: PyTree, weight: Float[Array, 'b']) -> PyTree:
  """Pools statistics of blocks [b, ...] into statistics of all images.

  A variance with a mean of the same module is the variance within blocks plus
  the variance between them; any other statistic is averaged.
  """
  named = tree.leaves_by_path(blocks)
  share = weight / weight.sum()

  def average(x):
    # A constant statistic, such as a frozen head, keeps its bits.
    constant = jnp.all(x == x[:1], 0)
    return jnp.where(constant, x[0], jnp.tensordot(share, x, 1).astype(x.dtype))

  def pool(path, leaf):
    names = tree.path_names(path)
    mean = named.get((*names[:-1], 'mean'))
    if not tree.is_float(leaf):
      return leaf[0]
    if names[-1] != 'var' or mean is None:
      return average(leaf)
    between = jnp.square(mean - average(mean)[None])
    return average(leaf) + average(between)

  return jax.tree_util.tree_map_with_path(pool, blocks)


@functools.lru_cache(maxsize=32)
def _compile_statistics(network: Network) -> Callable:
  """A jitted function from rows of images [b, n] to statistics by block."""

  def run(variables: Variables, image: jax.Array, rows: Int[Array, 'b n']):
    def block(index):
      return _batch_statistics(
        network.model, variables, network.inputs.eval(image[index], None)
      )

    return jax.lax.map(block, rows)

  return jit.compile_loop(run)


def recalibrate(
  key: PRNGKey,
  network: Network,
  variables: Variables,
  batch: Batch,
  batch_size: int = 512,
) -> Variables:
  """Replaces the running statistics by the statistics of `batch`.

  Every image counts once. As in training, each layer gets the output of the
  layer before it, normalised by the statistics of the batch.

  Args:
    key: of the order of the images.
    network: the model and its input step, without augmentation.
    batch: n images; labels and triggers are ignored.
    batch_size: largest number of images at a time.
  """
  if not jax.tree.leaves(variables.batch_stats):
    return variables
  count = batch.label.shape[0]
  order = np.asarray(jax.random.permutation(rng.fold_in(key, 'order'), count))
  # Sizes of blocks differ by at most one: a small last block would give noisy
  # statistics, and one program for each size is enough.
  blocks = np.array_split(order, -(-count // batch_size))
  run = _compile_statistics(network)
  groups = [
    np.stack([block for block in blocks if block.size == size])
    for size in sorted({block.size for block in blocks})
  ]
  results = [run(variables, batch.image, jnp.asarray(rows)) for rows in groups]
  sizes = [np.full(rows.shape[0], rows.shape[1]) for rows in groups]
  weight = jnp.asarray(np.concatenate(sizes), jnp.float32)
  joined = jax.tree.map(lambda *x: jnp.concatenate(x), *results)
  return variables._replace(batch_stats=_pool_blocks(joined, weight))
