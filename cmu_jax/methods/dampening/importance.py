"""Diagonal importances of parameters for a set of samples.

With g_b the gradient of the mean cross-entropy of batch b, g_i that of sample
i, h_b that of the batch mean of |f|_2 and k_b that of the mean of |f|_2^2, all
of the network in evaluation mode:

  batch       (1/B) sum_b g_b^2      what SSD computes in practice
  per_sample  (1/n) sum_i g_i^2      the diagonal empirical Fisher
  xlf         (1/B) sum_b |h_b|      label-free (Potion)
  lfssd       (1/B) sum_b |k_b|      label-free (LFSSD)

Batches are consecutive pieces of a shuffled order; a last, smaller one weighs
as much as the others. Only sums over samples are additive.

References:
  Selective Synaptic Dampening, arXiv 2308.07707, section 3.
  Corrective Machine Unlearning, arXiv 2402.14015, section 3.2.
  LFSSD, arXiv 2402.19308; Potion, arXiv 2406.09173 (XLF).

Importances for every identified fraction, from one pass over S_tr.

Squared gradients of single samples add up, so that those of nested sets S_f are
prefix sums over the order of identification (arXiv 2402.14015, section 3.2,
with the importances of `importance` of kind 'per_sample').
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
  InputStep,
  Model,
  PRNGKey,
  Samples,
  Variables,
)
from cmu_jax.training import metrics

KINDS = ('batch', 'per_sample', 'xlf', 'lfssd')

# What the gradients of a chunk of single samples may take, and how many.
_CHUNK_BYTES, _CHUNK = 2**28, 64

_zeros_like = jax.jit(lambda params: jax.tree.map(jnp.zeros_like, params))
_divide = jax.jit(
  lambda sums, n: jax.tree.map(lambda x: x / jnp.maximum(n, 1), sums)
)


class ImportanceConfig(NamedTuple):
  """What is measured: the static part, on which one compilation depends.

  Attributes:
    model: the network, used in evaluation mode.
    inputs: raw pixels to network input.
    kind: which importance, see the module's docstring.
    batch_size: samples a batch, where there are batches.
    augment: whether images are augmented as in training.
  """

  model: Model
  inputs: InputStep
  kind: str = 'batch'
  batch_size: int = 512
  augment: bool = True


class ImportanceRequest(NamedTuple):
  """Which importances a dampening method compares.

  Attributes:
    measure: which importance.
    denominator: what S_f is compared with: 'retain', S_tr without S_f, or
      'full', all of S_tr.
  """

  config: ImportanceConfig
  denominator: str


class Importances(NamedTuple):
  """What dampening methods compare.

  Attributes:
    retain: importances for what is to be kept.
    forget: importances for S_f, likewise a pytree of the parameters' shape.
    cost: gradients of single images that both took.
  """

  retain: PyTree
  forget: PyTree
  cost: Int[Array, '']


def _rows_per_step(
  measure: ImportanceConfig, variables: Variables, samples: Samples
) -> int:
  """Rows that are looked at together."""
  most = measure.batch_size
  if measure.kind == 'per_sample':
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(variables[0]))
    most = vectorize.chunk_size(size, _CHUNK_BYTES, _CHUNK)
  return min(most, samples.valid.shape[0])


def _sample_scores(
  kind: str, logits: Float[Array, 'b k'], label: Int[Array, 'b']
) -> Float[Array, 'b']:
  wide = logits.astype(jnp.float32)
  if kind == 'xlf':
    return optax.safe_norm(wide, 1e-12, axis=-1)
  if kind == 'lfssd':
    return jnp.square(wide).sum(-1)
  return metrics.cross_entropy(wide, label)


def _network_input(
  measure: ImportanceConfig, key: PRNGKey, batch: Batch
) -> Float[Array, 'b h w c']:
  if measure.augment:
    return measure.inputs.train(key, batch.image, batch.has_trigger)
  return measure.inputs.eval(batch.image, batch.has_trigger)


def shuffle_rows(key: PRNGKey, valid: Bool[Array, 'n']) -> Int[Array, 'n']:
  """A random order of the rows in which those that are valid come first."""
  bits = jax.random.uniform(key, valid.shape)
  return jnp.argsort(jnp.where(valid, bits, 2.0)).astype(jnp.int32)


def select_rows(
  ordered: Int[Array, 'n'], valid: Bool[Array, 'n'], size: int, step: Any
) -> tuple[Int[Array, 'b'], Float[Array, 'b']]:
  """The rows of a batch of an order that starts with those that are valid.

  Args:
    ordered: rows, see `order`.
    valid: which of them count.
    size: rows a batch.
    step: which batch.

  Returns:
    Rows, and 1 where they count; 0 pads the last batch.
  """
  place = step * size + jnp.arange(size)
  index = ordered[place % valid.shape[0]]
  return index, (place < valid.sum()).astype(jnp.float32)


def _batch_term(
  measure: ImportanceConfig,
  key: PRNGKey,
  variables: Variables,
  samples: Samples,
) -> Callable[..., PyTree]:
  """step -> the square or absolute value of a batch's mean gradient."""
  ordered = shuffle_rows(rng.fold_in(key, 'order'), samples.valid)
  augment = rng.fold_in(key, 'augment')
  size = _rows_per_step(measure, variables, samples)

  def term(step):
    index, weight = select_rows(ordered, samples.valid, size, step)
    batch = jax.tree.map(lambda x: x[index], samples.batch)
    image = _network_input(measure, jax.random.fold_in(augment, step), batch)

    def mean(params):
      logits = measure.model.apply(variables._replace(params=params), image)
      score = _sample_scores(measure.kind, logits, batch.label)
      return jnp.sum(weight * score) / weight.sum()

    power = jnp.square if measure.kind == 'batch' else jnp.abs
    return jax.tree.map(power, jax.grad(mean)(variables.params))

  return term


def _sample_term(
  measure: ImportanceConfig,
  key: PRNGKey,
  variables: Variables,
  samples: Samples,
) -> Callable[..., PyTree]:
  """step -> the sum over a chunk of squared gradients of single samples.

  How a row is augmented depends on its number alone, so that sums over parts
  of the rows add up.
  """
  ordered = jnp.argsort(~samples.valid, stable=True).astype(jnp.int32)
  augment = rng.fold_in(key, 'augment')
  size = _rows_per_step(measure, variables, samples)

  def squared(row, batch):
    one = jax.tree.map(lambda x: x[None], batch)
    image = _network_input(measure, jax.random.fold_in(augment, row), one)

    def loss(params):
      logits = measure.model.apply(variables._replace(params=params), image)
      return _sample_scores(measure.kind, logits, one.label).sum()

    return jax.tree.map(jnp.square, jax.grad(loss)(variables.params))

  def term(step):
    index, weight = select_rows(ordered, samples.valid, size, step)
    batch = jax.tree.map(lambda x: x[index], samples.batch)
    found = jax.vmap(squared)(index, batch)
    return jax.tree.map(lambda x: jnp.tensordot(weight, x, 1), found)

  return term


@functools.lru_cache(maxsize=32)
def _accumulator(measure: ImportanceConfig) -> Callable:
  """Adds the terms of batches [start, stop) to a total, as one program."""
  term_of = _sample_term if measure.kind == 'per_sample' else _batch_term

  def run(key, variables, samples, total, start, stop):
    term = term_of(measure, key, variables, samples)
    add = lambda step, sums: jax.tree.map(jnp.add, sums, term(step))
    return jax.lax.fori_loop(start, stop, add, total)

  return jit.compile_loop(run, donate_argnums=3)


def sum_terms(
  key: PRNGKey,
  config: ImportanceConfig,
  variables: Variables,
  samples: Samples,
  title: str = 'importances',
) -> tuple[PyTree, Int[Array, '']]:
  """What `importance` averages: the sum over terms, and their number.

  Per-sample sums over parts of the rows add up: a key augments a row alike in
  all of them. Arguments and errors as for `importance`.
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
  """The importance of every parameter for the valid rows of some samples.

  Args:
    key: of sample order and augmentation.
    config: which importance, of which network.
    variables: where gradients are taken.
    samples: labels as trained with; rows that are not valid do not matter.
    title: what the progress bar calls this.

  Returns:
    A pytree of the parameters' shape, nowhere negative.

  Raises:
    UserError: an unknown kind.
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
  """Per-sample importances for every identified fraction, from one pass.

  Args:
    key: of augmentation.
    config: of kind 'per_sample'.
    variables: the original network.
    batch: S_tr.
    rank: place of each sample in the order of identification; -1 outside S_m.
    counts: |S_f| of each fraction, rising.

  Returns:
    A pair whose leaves have a leading axis f: for S_f prefix sums over the
    order of identification, and what is left, each over its samples.

  Raises:
    UserError: another kind; squared batch means do not add up.
  """
  errors.check(
    config.kind == 'per_sample',
    f"importances '{config.kind}' are not additive; use kind 'per_sample'",
  )
  found = np.searchsorted(counts, rank, side='right')
  part = np.where(rank < 0, counts.size, found)
  nothing, parts = jnp.zeros(rank.shape, bool), []
  for position in range(counts.size + 1):
    title = f'importances (part {position + 1} of {counts.size + 1})'
    samples = Samples(batch, nothing, jnp.asarray(part == position))
    parts.append(sum_terms(key, config, variables, samples, title)[0])
  forget, retain = _split_sums(tree.stack(parts))
  share = lambda x, n: x / np.maximum(n, 1).reshape(-1, *(1,) * (x.ndim - 1))
  return Importances(
    jax.tree.map(lambda x: share(x, rank.size - counts), retain),
    jax.tree.map(lambda x: share(x, counts), forget),
    jnp.int32(rank.size),
  )


def _split_sums(parts: PyTree) -> tuple[PyTree, PyTree]:
  """For every split of the leading axis, sums before and from it on."""
  before = jax.tree.map(lambda x: jnp.cumsum(x[:-1], axis=0), parts)
  after = jax.tree.map(lambda x: jnp.cumsum(x[:0:-1], axis=0)[::-1], parts)
  return before, after
