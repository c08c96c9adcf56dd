r"""Diagonal importances of parameters for a set of samples.

With g_b the gradient of the mean cross-entropy of batch b, g_i that of sample
i, h_b that of the batch mean of |f|_2 and k_b that of the mean of |f|_2^2, all
of the network in evaluation mode:

  batch       (1/B) sum_b g_b^2      the practice of the SSD paper
  per_sample  (1/n) sum_i g_i^2      the diagonal empirical Fisher
  xlf         (1/B) sum_b |h_b|      label-free (Potion)
  lfssd       (1/B) sum_b |k_b|      label-free (LFSSD)

Batches are consecutive pieces of a shuffled order. The last batch may be
smaller and weighs as much as the others.

References:
  Selective Synaptic Dampening, arXiv 2308.07707, section 3.
  Corrective Machine Unlearning, arXiv 2402.14015, section 3.2.
  LFSSD, arXiv 2402.19308; Potion, arXiv 2406.09173 (XLF).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from cmu_jax.core import errors, jit, rng, tree, vectorize
from cmu_jax.core.types import (
  Batch,
  Network,
  PRNGKey,
  Samples,
  Variables,
)
from cmu_jax.training import metrics

KINDS = ('batch', 'per_sample', 'xlf', 'lfssd')

# A chunk of single samples holds one gradient each: bounds on its memory and
# on its number of samples.
_CHUNK_BYTES, _CHUNK = 2**28, 64

_zeros_like = jax.jit(lambda params: jax.tree.map(jnp.zeros_like, params))
_divide = jax.jit(
  lambda sums, n: jax.tree.map(lambda x: x / jnp.maximum(n, 1), sums)
)


class ImportanceConfig(NamedTuple):
  """The static part of a computation; each value compiles once.

  Attributes:
    network: the model, used in evaluation mode, and its input step.
    kind: the importance, see the module's docstring.
    batch_size: samples in a batch, for kinds with batches.
    augment: whether images are augmented as in training.
  """

  network: Network
  kind: str = 'batch'
  batch_size: int = 512
  augment: bool = True


class ImportanceRequest(NamedTuple):
  """The importances that a dampening method compares.

  Attributes:
    config: the importance and its network.
    denominator: the samples that S_f is compared with: 'retain', S_tr without
      S_f, or 'full', all of S_tr.
  """

  config: ImportanceConfig
  denominator: str


class Importances(NamedTuple):
  """The two sides that dampening methods compare.

  Attributes:
    retain: importances for the retained samples, shaped as the parameters.
    forget: importances for S_f, shaped as the parameters.
    cost: gradients of single images that both sides took.
  """

  retain: PyTree
  forget: PyTree
  cost: Int[Array, '']


def _rows_per_step(
  config: ImportanceConfig, variables: Variables, samples: Samples
) -> int:
  size = config.batch_size
  if config.kind == 'per_sample':
    # Batches have no meaning here: memory alone limits the chunk.
    size = vectorize.chunk_size(
      sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(variables[0])),
      _CHUNK_BYTES,
      _CHUNK,
    )
  return min(size, samples.valid.shape[0])


def _sample_scores(
  kind: str, logits: Float[Array, 'b k'], label: Int[Array, 'b']
) -> Float[Array, 'b']:
  wide = logits.astype(jnp.float32)
  if kind == 'xlf':
    # The gradient of a plain norm is NaN at logits of zero.
    return optax.safe_norm(wide, 1e-12, axis=-1)
  if kind == 'lfssd':
    return jnp.square(wide).sum(-1)
  return metrics.cross_entropy(wide, label)


def _network_input(
  config: ImportanceConfig, key: PRNGKey, batch: Batch
) -> Float[Array, 'b h w c']:
  if config.augment:
    return config.network.inputs.train(key, batch.image, batch.has_trigger)
  return config.network.inputs.eval(batch.image, batch.has_trigger)


def shuffle_rows(key: PRNGKey, valid: Bool[Array, 'n']) -> Int[Array, 'n']:
  """Returns a random order of the rows in which valid rows come first."""
  bits = jax.random.uniform(key, valid.shape, jnp.float32)
  # Draws lie below 1, so 2 sends a row behind all valid rows. The number of
  # valid rows may be traced: shapes must not depend on it.
  return jnp.argsort(jnp.where(valid, bits, 2.0)).astype(jnp.int32)


def select_rows(
  ordered: Int[Array, 'n'], valid: Bool[Array, 'n'], size: int, step: Any
) -> tuple[Int[Array, 'b'], Float[Array, 'b']]:
  """Selects the rows of a batch from an order that starts with valid rows.

  Args:
    ordered: row numbers, see `shuffle_rows`.
    valid: rows that count.
    size: rows in a batch.
    step: number of the batch.

  Returns:
    Row numbers and their weights; weight 0 pads the last batch.
  """
  position = step * size + jnp.arange(size)
  index = ordered[position % valid.shape[0]]
  return index, (position < valid.sum()).astype(jnp.float32)


def _batch_term(
  config: ImportanceConfig,
  key: PRNGKey,
  variables: Variables,
  samples: Samples,
) -> Callable[..., PyTree]:
  """step -> the square or absolute value of a batch's mean gradient."""
  ordered = shuffle_rows(rng.fold_in(key, 'order'), samples.valid)
  augment = rng.fold_in(key, 'augment')
  size = _rows_per_step(config, variables, samples)

  def term(step):
    index, weight = select_rows(ordered, samples.valid, size, step)
    batch = jax.tree.map(lambda x: x[index], samples.batch)
    image = _network_input(config, jax.random.fold_in(augment, step), batch)

    def mean_score(params):
      logits = config.network.model.apply(
        variables._replace(params=params), image
      )
      score = _sample_scores(config.kind, logits, batch.label)
      return jnp.sum(weight * score) / weight.sum()

    power = jnp.square if config.kind == 'batch' else jnp.abs
    return jax.tree.map(power, jax.grad(mean_score)(variables.params))

  return term


def _sample_term(
  config: ImportanceConfig,
  key: PRNGKey,
  variables: Variables,
  samples: Samples,
) -> Callable[..., PyTree]:
  """step -> the sum over a chunk of squared gradients of single samples."""
  ordered = jnp.argsort(~samples.valid, stable=True).astype(jnp.int32)
  augment = rng.fold_in(key, 'augment')
  size = _rows_per_step(config, variables, samples)

  def squared_gradient(row, batch):
    single = jax.tree.map(lambda x: x[None], batch)
    # The key depends on the row number alone: sums over parts of the rows then
    # add up to the sum over all of them.
    image = _network_input(config, jax.random.fold_in(augment, row), single)

    def loss(params):
      logits = config.network.model.apply(
        variables._replace(params=params), image
      )
      return _sample_scores(config.kind, logits, single.label).sum()

    return jax.tree.map(jnp.square, jax.grad(loss)(variables.params))

  def term(step):
    index, weight = select_rows(ordered, samples.valid, size, step)
    batch = jax.tree.map(lambda x: x[index], samples.batch)
    squares = jax.vmap(squared_gradient)(index, batch)
    return jax.tree.map(lambda x: jnp.tensordot(weight, x, 1), squares)

  return term


# Configs are hashable: equal ones share a compilation.
@functools.lru_cache(maxsize=32)
def _accumulator(config: ImportanceConfig) -> Callable:
  """A program that adds the terms of batches [start, stop) to a total."""
  term_of = _sample_term if config.kind == 'per_sample' else _batch_term

  def run(key, variables, samples, total, start, stop):
    term = term_of(config, key, variables, samples)
    add = lambda step, sums: jax.tree.map(jnp.add, sums, term(step))
    return jax.lax.fori_loop(start, stop, add, total)

  # Donation halves the memory: the total is as large as the network.
  return jit.compile_loop(run, donate_argnums=3)


def sum_terms(
  key: PRNGKey,
  config: ImportanceConfig,
  variables: Variables,
  samples: Samples,
  title: str = 'importances',
) -> tuple[PyTree, Int[Array, '']]:
  """Returns the sum that `compute` averages, and its number of terms.

  Per-sample sums over parts of the rows add up, because a key augments a row
  equally in all parts. Arguments and errors as for `compute`.
  """
  if config.kind not in KINDS:
    raise errors.unknown_name('importance', config.kind, KINDS)
  count = samples.valid.sum()
  batches = -(-count // _rows_per_step(config, variables, samples))
  run = _accumulator(config)
  total = vectorize.fold_batches(
    lambda total, start, stop: run(key, variables, samples, total, start, stop),
    _zeros_like(variables.params),
    batches,
    title,
  )
  return total, count if config.kind == 'per_sample' else batches


def compute(
  key: PRNGKey,
  config: ImportanceConfig,
  variables: Variables,
  samples: Samples,
  title: str = 'importances',
) -> PyTree:
  """Computes the importance of every parameter for the valid samples.

  Args:
    key: seeds the sample order and the augmentation.
    config: the importance and its network.
    variables: the point at which gradients are taken.
    samples: labels as trained with; invalid rows have no effect.
    title: name of the progress bar.

  Returns:
    A pytree shaped as the parameters, nowhere negative.

  Raises:
    UserError: the kind is unknown.
  """
  total, count = sum_terms(key, config, variables, samples, title)
  return _divide(total, count)


def compute_nested(
  key: PRNGKey,
  config: ImportanceConfig,
  variables: Variables,
  batch: Batch,
  rank: Int[np.ndarray, 'n'],
  counts: Int[np.ndarray, 'f'],
) -> Importances:
  """Computes per-sample importances for every identified fraction in one pass.

  Args:
    key: seeds the augmentation.
    config: of kind 'per_sample'.
    variables: the original network.
    batch: S_tr.
    rank: position of each sample in the order of identification; -1 outside
      S_m.
    counts: |S_f| of each fraction, rising.

  Returns:
    Importances whose leaves have a leading axis f.

  Raises:
    UserError: another kind, because squared batch means do not add up.
  """
  errors.check(
    config.kind == 'per_sample',
    f"importances '{config.kind}' are not additive; use kind 'per_sample'",
  )
  # Squared gradients of single samples add up, and the sets S_f are nested: the
  # sums over slices between two counts give all sets as prefix sums.
  slices = np.searchsorted(counts, rank, side='right')
  slices = np.where(rank < 0, counts.size, slices)
  nothing, sums = jnp.zeros(rank.shape, bool), []
  for position in range(counts.size + 1):
    title = f'importances (part {position + 1} of {counts.size + 1})'
    samples = Samples(batch, nothing, jnp.asarray(slices == position))
    sums.append(sum_terms(key, config, variables, samples, title)[0])
  forget, retain = _split_sums(tree.stack(sums))
  average = lambda x, n: x / np.maximum(n, 1).reshape(-1, *(1,) * (x.ndim - 1))
  return Importances(
    jax.tree.map(lambda x: average(x, rank.size - counts), retain),
    jax.tree.map(lambda x: average(x, counts), forget),
    jnp.int32(rank.size),
  )


def _split_sums(sums: PyTree) -> tuple[PyTree, PyTree]:
  """Returns the sums before and after every split of the leading axis."""
  prefix = jax.tree.map(lambda x: jnp.cumsum(x[:-1], axis=0), sums)
  # Summed from the end: subtracting prefixes from the total would cancel.
  suffix = jax.tree.map(lambda x: jnp.cumsum(x[:0:-1], axis=0)[::-1], sums)
  return prefix, suffix
