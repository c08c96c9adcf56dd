"""Inputs and outputs of shadow trainings: halves of the data, and memory."""

import functools
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool, Int, Shaped

from cmu_jax import audits
from cmu_jax.audits import signals
from cmu_jax.core import errors, jit, rng, vectorize
from cmu_jax.core.types import (
  Batch,
  InputStep,
  Network,
  PRNGKey,
  Variables,
)
from cmu_jax.training import metrics, segment

Unlearn = Callable[
  [PRNGKey, Variables, Int[np.ndarray, '_'], Int[np.ndarray, '_']], Variables
]
"""(key, variables, points to retain, points to forget) -> variables."""


class ShadowTraining(NamedTuple):
  """The recipe of each training.

  Attributes:
    inputs: raw pixels to network input.
    optimizer: an optax transformation; its schedule counts these steps.
    steps: optimiser steps.
    batch_size: samples a step; reduced to the training points of a model.
    loss: (logits, label) -> a value for each sample.
  """

  inputs: InputStep
  optimizer: optax.GradientTransformation
  steps: int
  batch_size: int
  loss: segment.Loss = metrics.cross_entropy


class Plan(NamedTuple):
  """Devices, memory and files of the models; numbers differ by rounding only.

  Attributes:
    group: number of models trained together, in whole blocks (see
      `training.train`); 0 for the limit by memory.
    memory_bytes: memory of a group, from which its size follows.
    strategy: see `vectorize.map_members`; None for the best on this backend.
    devices: devices that share a group; None for all local ones.
    threads: threads that share a group on a device; 0 for a thread a core.
    save_seconds: a kill loses at most so much work.
    folder: of the files of groups; None for no files.
    address: digest of everything that the models depend on besides key, data
      and membership: two trainings in a folder must not share it.
    method: likewise, for everything that the unlearning depends on.
    images_at_once: images of a model in memory while its signals are measured.
    title: name of the models in progress and errors.
  """

  group: int = 0
  memory_bytes: int = 4 * 2**30
  strategy: vectorize.Strategy | None = None
  devices: tuple[jax.Device, ...] | None = None
  threads: int = 0
  save_seconds: float = 20.0
  folder: pathlib.Path | None = None
  address: str = ''
  method: str = ''
  images_at_once: int = 1024
  title: str = 'shadow models'


DEFAULT_PLAN = Plan()


class Shadows(NamedTuple):
  """The outputs of K models.

  Attributes:
    inside: marks the training points of each model.
    statistics: signal -> its value at each point under each trained model.
    unlearned: the same after the unlearning; None without unlearning.
    variables: the final models, stacked, on the host; None unless requested.
  """

  inside: Bool[np.ndarray, 'k n']
  statistics: dict[str, Shaped[np.ndarray, 'k n']]
  unlearned: dict[str, Shaped[np.ndarray, 'k n']] | None
  variables: Variables | None


DEFAULT_SIGNALS: dict[str, signals.Signal] = {
  name: audits.SIGNALS[name] for name in ('softmax', 'logit_confidence')
}


@functools.lru_cache(maxsize=8)
def _random_orders(n: int) -> Callable:
  """(key, numbers [m]) -> a random order of n points for each, [m, n]."""
  draw = lambda key, i: jax.random.permutation(jax.random.fold_in(key, i), n)
  return jit.compile_cheaply(jax.vmap(draw, (None, 0)))


def assign_halves(key: PRNGKey, k: int, n: int) -> Bool[np.ndarray, 'k n']:
  """Assigns each point to half of the models, half of the points to each model.

  Models 2i and 2i + 1 split the points at random; with an odd number of points,
  one of the two has a point more.

  Args:
    key: random key.
    k: number of models, even.
    n: number of points, 2 or more.

  Raises:
    UserError: an odd number of models, or too few points.

  References:
    Membership Inference Attacks From First Principles, arXiv 2112.03570,
    section 5.
  """
  errors.check(
    k >= 2 and k % 2 == 0,
    f'{k} shadow models cannot each have half of the points; use an even '
    'number',
  )
  errors.check(n >= 2, f'{n} points cannot be split by two models; give more')
  # An order depends on the number of its pair alone: with more models, the
  # existing ones keep their points, and their files.
  order = _random_orders(n)(key, np.arange(k // 2))
  rank = np.argsort(np.asarray(order), axis=1)
  size = (n + np.arange(k // 2) % 2) // 2
  # The first half of a random order.
  half = rank < size[:, None]
  return np.stack([half, ~half], axis=1).reshape(k, n)


def training_rows(
  key: PRNGKey, inside: Bool[np.ndarray, 'k n']
) -> Int[np.ndarray, 'k m']:
  """The training points of each model, ascending, padded to the largest model.

  Args:
    key: of the repeated points.
    inside: marks the training points of each model.

  Raises:
    UserError: a model without points.
  """
  sizes = inside.sum(axis=1)
  errors.check(
    sizes.size and sizes.min() > 0,
    f'shadow model {int(sizes.argmin()) if sizes.size else 0} is trained on no '
    'point; give every model at least a point',
  )

  def pad(number: int) -> np.ndarray:
    points = np.flatnonzero(inside[number])
    lacking = int(sizes.max()) - points.size
    if not lacking:
      return points
    # All models need epochs of equal length. Only a model's points may fill
    # them: BatchNorm would see other points even with weight 0.
    bits = np.asarray(jax.random.bits(rng.fold_in(key, number), (lacking,)))
    return np.sort(np.concatenate([points, points[bits % points.size]]))

  return np.stack([pad(i) for i in range(len(inside))]).astype(np.int32)


# Copies of a state: a step reads a state, writes another and holds a gradient;
# the host reads a fourth to save it.
_COPIES = 4


class MemoryNeed(NamedTuple):
  """Bytes of a training of K models, without the shared data.

  Attributes:
    per_model: of every model of a group: states, history and rows.
    per_step: of each model that currently takes a step: residuals of the
      forward pass, and its batch.
  """

  per_model: int
  per_step: int


def variable_shapes(network: Network, data: Batch) -> Variables:
  """Shapes and types of a model's variables, without computing them."""
  image = jax.eval_shape(lambda x: network.inputs.eval(x, None), data.image[:1])
  return jax.eval_shape(network.model.init, jax.random.key(0), image)


def _count_bytes(tree: object) -> int:
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def memory_need(
  recipe: segment.SegmentSpec, batch: Batch, rows: int, steps: int
) -> MemoryNeed:
  """The memory of a model, computed from shapes alone.

  Args:
    recipe: network, loss, optimiser, input step and batch size.
    batch: the data, for their shape.
    rows: number of training points of a model.
    steps: of the training, for its history.
  """
  image = jax.ShapeDtypeStruct(
    (recipe.batch_size, *batch.image.shape[1:]), batch.image.dtype
  )
  label = jax.ShapeDtypeStruct((recipe.batch_size,), batch.label.dtype)
  pixels = jax.eval_shape(lambda x: recipe.network.inputs.eval(x, None), image)
  variables = variable_shapes(recipe.network, batch)
  state = jax.eval_shape(
    lambda v: (v, recipe.optimizer.init(v.params)), variables
  )

  def pull_back(variables, x, y):
    def loss(params):
      model = recipe.network.model
      logits, _ = model.update(variables._replace(params=params), x)
      return jnp.mean(recipe.loss(logits, y))

    # The leaves of this closure are the residuals of the forward pass.
    return jax.vjp(loss, variables.params)[1]

  residuals = _count_bytes(jax.eval_shape(pull_back, variables, pixels, label))
  # Loss and accuracy of each step, as float32.
  history = 2 * 4 * steps
  # The rows of the model, and the sample order of two epochs, as int32.
  orders = 3 * 4 * rows
  return MemoryNeed(
    _COPIES * (_count_bytes(state) + history) + orders,
    residuals + _count_bytes(image) + _count_bytes(pixels),
  )


def largest_group(
  memory: MemoryNeed, count: int, memory_bytes: int, at_once: int
) -> int:
  """The number of models that fit the memory together.

  Args:
    memory: of each model.
    count: number of all models.
    memory_bytes: bytes.
    at_once: number of models that take a step together.

  Raises:
    UserError: the models that take a step together do not fit.
  """
  needed = at_once * (memory.per_model + memory.per_step)
  errors.check(
    memory_bytes >= needed,
    f'{at_once} shadow models take a step together and about '
    f'{needed / 2**20:,.0f} MiB, the budget is {memory_bytes / 2**20:,.0f} '
    'MiB; raise it, or use a smaller network or batch',
  )
  return min(
    count, (memory_bytes - at_once * memory.per_step) // memory.per_model
  )
