"""How many shadow models may be trained at a time in so much memory."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cmu_jax.core import errors
from cmu_jax.core.types import Batch, InputStep, Model, Variables
from cmu_jax.training import segment

# A step reads a state and writes another one while it holds the gradient; the
# host reads one to save it.
_COPIES = 4


class Need(NamedTuple):
  """Bytes that a training of K models takes besides the data they share.

  Attributes:
    member: for every model of the group: states, history and its rows.
    step: for each model that takes a step at the moment: what it keeps of its
      forward pass until the gradient is done.
  """

  member: int
  step: int


def start(model: Model, inputs: InputStep, data: Batch) -> Variables:
  """Shapes and types of one model's variables; nothing is computed."""
  image = jax.eval_shape(lambda x: inputs.eval(x, None), data.image[:1])
  return jax.eval_shape(model.init, jax.random.key(0), image)


def _bytes(tree: object) -> int:
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def need(recipe: segment.Recipe, batch: Batch, rows: int, steps: int) -> Need:
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
  seen = jax.eval_shape(lambda x: recipe.inputs.eval(x, None), image)
  first = start(recipe.model, recipe.inputs, batch)
  state = jax.eval_shape(lambda v: (v, recipe.optimizer.init(v.params)), first)

  def kept(variables, x, y):
    def loss(params):
      logits, _ = recipe.model.update(variables._replace(params=params), x)
      return jnp.mean(recipe.loss(logits, y))

    return jax.vjp(loss, variables.params)[1]

  residuals = _bytes(jax.eval_shape(kept, first, seen, label))
  history = 2 * 4 * steps
  orders = 3 * 4 * rows  # Its rows, and the sample order of two epochs.
  return Need(
    _COPIES * (_bytes(state) + history) + orders,
    residuals + _bytes(image) + _bytes(seen),
  )


def group_size(one: Need, count: int, budget: int, at_once: int) -> int:
  """How many of `count` models fit the budget together.

  Args:
    one: of each model.
    count: how many there are.
    budget: bytes.
    at_once: how many of them take a step at a time.

  Raises:
    UserError: not even those fit that take a step together.
  """
  least = at_once * (one.member + one.step)
  errors.check(
    budget >= least,
    f'{at_once} shadow models take a step together and about '
    f'{least / 2**20:,.0f} MiB, the budget is {budget / 2**20:,.0f} MiB; raise '
    'it, or use a smaller network or batch',
  )
  return min(count, (budget - at_once * one.step) // one.member)
