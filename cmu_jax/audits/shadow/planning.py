"""What is said of shadow models before they are trained, and what is left.

Which shadow model is trained on which point.

How many shadow models may be trained at a time in so much memory.
"""

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
"""(key, variables, points kept, points to forget) -> variables."""


class ShadowTraining(NamedTuple):
  """How each model is trained.

  Attributes:
    inputs: raw pixels to network input.
    optimizer: an optax transformation; its schedule counts these steps.
    steps: optimiser steps.
    batch_size: samples a step; at most as many as a model is trained on.
    loss: (logits, label) -> one value a sample.
  """

  inputs: InputStep
  optimizer: optax.GradientTransformation
  steps: int
  batch_size: int
  loss: segment.Loss = metrics.cross_entropy


class Plan(NamedTuple):
  """How the models are driven; no number depends on it but by rounding.

  Attributes:
    group: how many models are trained at a time, made up to whole blocks (see
      `training.train`); 0 for what the memory takes.
    budget: bytes of memory for a group, from which its size follows.
    how: see `vectorize.map_members`; None for the best on this backend.
    devices: that share a group; None for all local ones.
    threads: that share a group on one device; 0 for one a core of a CPU.
    seconds: how much work may be lost at most.
    folder: where groups are kept; None for nowhere.
    address: of everything that the models depend on besides key, data and
      membership: two trainings of one folder must not share it.
    method: likewise, of what the models depend on once they have forgotten.
    images: of a model in memory at once when it is looked at.
    title: what progress and errors call the models.
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
  """What K models leave behind.

  Attributes:
    inside: which model was trained on which point.
    statistics: signal -> its value at each point under each trained model.
    unlearned: the same once each model has forgotten; None without unlearning.
    variables: the models in their last state, stacked, on the host; None
      unless they were asked for.
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
  """Each point in exactly half of the models, each model with half of them.

  Models 2i and 2i + 1 share the points out at random; of an odd number one of
  the two has a point more. A pair depends on its number alone, so that more
  models leave the first ones as they are.

  Args:
    key: random key.
    k: how many models, an even number.
    n: how many points, 2 or more.

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
  errors.check(n >= 2, f'{n} points cannot be shared by two models; give more')
  order = _random_orders(n)(key, np.arange(k // 2))
  rank = np.argsort(np.asarray(order), axis=1)
  most = (n + np.arange(k // 2) % 2) // 2
  first = rank < most[:, None]
  return np.stack([first, ~first], axis=1).reshape(k, n)


def training_rows(
  key: PRNGKey, inside: Bool[np.ndarray, 'k n']
) -> Int[np.ndarray, 'k m']:
  """The points of each model, ascending, m those of the largest one.

  A smaller model repeats some of its own points, drawn at random: all models
  have batches and epochs of one length, and nothing that is not its own gets
  into a model, not even into its BatchNorm.

  Args:
    key: of what is repeated.
    inside: which model is trained on which point.

  Raises:
    UserError: a model without points.
  """
  sizes = inside.sum(axis=1)
  errors.check(
    sizes.size and sizes.min() > 0,
    f'shadow model {int(sizes.argmin()) if sizes.size else 0} is trained on no '
    'point; give every model some',
  )
  most = int(sizes.max())

  def one(number: int) -> np.ndarray:
    own = np.flatnonzero(inside[number])
    lacking = most - own.size
    if not lacking:
      return own
    bits = np.asarray(jax.random.bits(rng.fold_in(key, number), (lacking,)))
    return np.sort(np.concatenate([own, own[bits % own.size]]))

  return np.stack([one(i) for i in range(len(inside))]).astype(np.int32)


# A step reads a state and writes another one while it holds the gradient; the
# host reads one to save it.
_COPIES = 4


class MemoryNeed(NamedTuple):
  """Bytes that a training of K models takes besides the data they share.

  Attributes:
    member: for every model of the group: states, history and its rows.
    step: for each model that takes a step at the moment: what it keeps of its
      forward pass until the gradient is done.
  """

  per_model: int
  per_step: int


def variable_shapes(network: Network, data: Batch) -> Variables:
  """Shapes and types of one model's variables; nothing is computed."""
  image = jax.eval_shape(lambda x: network.inputs.eval(x, None), data.image[:1])
  return jax.eval_shape(network.model.init, jax.random.key(0), image)


def _count_bytes(tree: object) -> int:
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def memory_need(
  recipe: segment.SegmentSpec, batch: Batch, rows: int, steps: int
) -> MemoryNeed:
  """What one model takes; nothing is computed but shapes.

  Args:
    recipe: network, loss, optimiser, input step and batch size.
    batch: the data, for their shape.
    rows: how many points a model is trained on.
    steps: of the training, whose history is kept.
  """
  image = jax.ShapeDtypeStruct(
    (recipe.batch_size, *batch.image.shape[1:]), batch.image.dtype
  )
  label = jax.ShapeDtypeStruct((recipe.batch_size,), batch.label.dtype)
  seen = jax.eval_shape(lambda x: recipe.network.inputs.eval(x, None), image)
  first = variable_shapes(recipe.network, batch)
  state = jax.eval_shape(lambda v: (v, recipe.optimizer.init(v.params)), first)

  def kept(variables, x, y):
    def loss(params):
      moved = variables._replace(params=params)
      logits, _ = recipe.network.model.update(moved, x)
      return jnp.mean(recipe.loss(logits, y))

    return jax.vjp(loss, variables.params)[1]

  residuals = _count_bytes(jax.eval_shape(kept, first, seen, label))
  history = 2 * 4 * steps
  orders = 3 * 4 * rows  # Its rows, and the sample order of two epochs.
  return MemoryNeed(
    _COPIES * (_count_bytes(state) + history) + orders,
    residuals + _count_bytes(image) + _count_bytes(seen),
  )


def largest_group(
  memory: MemoryNeed, count: int, memory_bytes: int, at_once: int
) -> int:
  """How many of `count` models fit the budget together.

  Args:
    memory: of each model.
    count: how many there are.
    memory_bytes: bytes.
    at_once: how many of them take a step at a time.

  Raises:
    UserError: not even those fit that take a step together.
  """
  least = at_once * (memory.per_model + memory.per_step)
  errors.check(
    memory_bytes >= least,
    f'{at_once} shadow models take a step together and about '
    f'{least / 2**20:,.0f} MiB, the budget is {memory_bytes / 2**20:,.0f} MiB; '
    f'raise '
    'it, or use a smaller network or batch',
  )
  return min(
    count, (memory_bytes - at_once * memory.per_step) // memory.per_model
  )
