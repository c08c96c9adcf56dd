r"""Diagonal importances of parameters for a set of samples.

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
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from cmu_jax.core import errors, folds, jit, rng, vectorize
from cmu_jax.core.types import (
  Batch,
  InputStep,
  Model,
  PRNGKey,
  Samples,
  Variables,
)
from cmu_jax.training import losses

KINDS = ('batch', 'per_sample', 'xlf', 'lfssd')

# What the gradients of a chunk of single samples may take, and how many.
_CHUNK_BYTES, _CHUNK = 2**28, 64

_zeros = jax.jit(lambda params: jax.tree.map(jnp.zeros_like, params))
_mean = jax.jit(
  lambda sums, n: jax.tree.map(lambda x: x / jnp.maximum(n, 1), sums)
)


class Measure(NamedTuple):
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


class Request(NamedTuple):
  """Which importances a dampening method compares.

  Attributes:
    measure: which importance.
    denominator: what S_f is compared with: 'retain', S_tr without S_f, or
      'full', all of S_tr.
  """

  measure: Measure
  denominator: str


class Pair(NamedTuple):
  """What dampening methods compare.

  Attributes:
    retain: importances for what is to be kept.
    forget: importances for S_f, likewise a pytree of the parameters' shape.
    cost: gradients of single images that both took.
  """

  retain: PyTree
  forget: PyTree
  cost: Int[Array, '']


def _size(measure: Measure, variables: Variables, samples: Samples) -> int:
  """Rows that are looked at together."""
  most = measure.batch_size
  if measure.kind == 'per_sample':
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(variables[0]))
    most = vectorize.members(size, _CHUNK_BYTES, _CHUNK)
  return min(most, samples.valid.shape[0])


def _score(
  kind: str, logits: Float[Array, 'b k'], label: Int[Array, 'b']
) -> Float[Array, 'b']:
  wide = logits.astype(jnp.float32)
  if kind == 'xlf':
    return optax.safe_norm(wide, 1e-12, axis=-1)
  if kind == 'lfssd':
    return jnp.square(wide).sum(-1)
  return losses.cross_entropy(wide, label)


def _image(
  measure: Measure, key: PRNGKey, batch: Batch
) -> Float[Array, 'b h w c']:
  if measure.augment:
    return measure.inputs.train(key, batch.image, batch.stamp)
  return measure.inputs.eval(batch.image, batch.stamp)


def order(key: PRNGKey, valid: Bool[Array, 'n']) -> Int[Array, 'n']:
  """A random order of the rows in which those that are valid come first."""
  bits = jax.random.uniform(key, valid.shape)
  return jnp.argsort(jnp.where(valid, bits, 2.0)).astype(jnp.int32)


def rows_of(
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
  measure: Measure, key: PRNGKey, variables: Variables, samples: Samples
) -> Callable[..., PyTree]:
  """step -> the square or absolute value of a batch's mean gradient."""
  ordered = order(rng.named(key, 'order'), samples.valid)
  augment = rng.named(key, 'augment')
  size = _size(measure, variables, samples)

  def term(step):
    index, weight = rows_of(ordered, samples.valid, size, step)
    batch = jax.tree.map(lambda x: x[index], samples.batch)
    image = _image(measure, jax.random.fold_in(augment, step), batch)

    def mean(params):
      logits = measure.model.apply(variables._replace(params=params), image)
      score = _score(measure.kind, logits, batch.label)
      return jnp.sum(weight * score) / weight.sum()

    power = jnp.square if measure.kind == 'batch' else jnp.abs
    return jax.tree.map(power, jax.grad(mean)(variables.params))

  return term


def _sample_term(
  measure: Measure, key: PRNGKey, variables: Variables, samples: Samples
) -> Callable[..., PyTree]:
  """step -> the sum over a chunk of squared gradients of single samples.

  How a row is augmented depends on its number alone, so that sums over parts
  of the rows add up.
  """
  ordered = jnp.argsort(~samples.valid, stable=True).astype(jnp.int32)
  augment = rng.named(key, 'augment')
  size = _size(measure, variables, samples)

  def squared(row, batch):
    one = jax.tree.map(lambda x: x[None], batch)
    image = _image(measure, jax.random.fold_in(augment, row), one)

    def loss(params):
      logits = measure.model.apply(variables._replace(params=params), image)
      return _score(measure.kind, logits, one.label).sum()

    return jax.tree.map(jnp.square, jax.grad(loss)(variables.params))

  def term(step):
    index, weight = rows_of(ordered, samples.valid, size, step)
    batch = jax.tree.map(lambda x: x[index], samples.batch)
    found = jax.vmap(squared)(index, batch)
    return jax.tree.map(lambda x: jnp.tensordot(weight, x, 1), found)

  return term


@functools.lru_cache(maxsize=32)
def _compiled(measure: Measure) -> Callable:
  """Adds the terms of batches [start, stop) to a total, as one program."""
  term_of = _sample_term if measure.kind == 'per_sample' else _batch_term

  def run(key, variables, samples, total, start, stop):
    term = term_of(measure, key, variables, samples)
    add = lambda step, sums: jax.tree.map(jnp.add, sums, term(step))
    return jax.lax.fori_loop(start, stop, add, total)

  return jit.looped(run, donate_argnums=3)


def sums(
  key: PRNGKey,
  measure: Measure,
  variables: Variables,
  samples: Samples,
  title: str = 'importances',
) -> tuple[PyTree, Int[Array, '']]:
  """What `importance` averages: the sum over terms, and their number.

  Per-sample sums over parts of the rows add up: a key augments a row alike in
  all of them. Arguments and errors as for `importance`.
  """
  if measure.kind not in KINDS:
    raise errors.unknown('importance', measure.kind, KINDS)
  count = samples.valid.sum()
  batches = -(-count // _size(measure, variables, samples))
  run = _compiled(measure)
  total = folds.run(
    lambda total, start, stop: run(key, variables, samples, total, start, stop),
    _zeros(variables.params),
    batches,
    title,
  )
  return total, count if measure.kind == 'per_sample' else batches


def importance(
  key: PRNGKey,
  measure: Measure,
  variables: Variables,
  samples: Samples,
  title: str = 'importances',
) -> PyTree:
  """The importance of every parameter for the valid rows of some samples.

  Args:
    key: of sample order and augmentation.
    measure: which importance, of which network.
    variables: where gradients are taken.
    samples: labels as trained with; rows that are not valid do not matter.
    title: what the progress bar calls this.

  Returns:
    A pytree of the parameters' shape, nowhere negative.

  Raises:
    UserError: an unknown kind.
  """
  total, count = sums(key, measure, variables, samples, title)
  return _mean(total, count)
