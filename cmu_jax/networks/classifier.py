"""A body (image to features) with a linear head, bound to pure functions."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
from flax import linen as nn
from jax import numpy as jnp
from jaxtyping import Array, Float, PyTree

from cmu_jax.core import array_checks, errors, tree
from cmu_jax.core.types import InputStep, Model, Network, PRNGKey, Variables
from cmu_jax.networks import layers


class Classifier(nn.Module):
  """Parameters {'body': ..., 'head': ...}; features and logits are float32.

  Attributes:
    body: has stem(image), trunk(stem output, train) and, as its call,
      trunk(stem(image), train): the penultimate features [n, d].
    num_classes: k.
    head_bias: False for a head without bias.
    dense: makes the head; for other initial values than those of layers.Dense.
  """

  body: nn.Module
  num_classes: int
  head_bias: bool = True
  dense: Callable[..., layers.Dense] = layers.Dense

  def setup(self) -> None:
    self.head = self.dense(self.num_classes, self.head_bias)

  def __call__(
    self, image: Float[Array, 'n h w c'], train: bool = False
  ) -> Float[Array, 'n k']:
    return self.head(self.features(image, train))

  # A body may compute in bfloat16. The head, the losses and all methods that
  # read features compute in float32.
  def features(
    self, image: Float[Array, 'n h w c'], train: bool = False
  ) -> Float[Array, 'n d']:
    """Penultimate features, float32."""
    return self.body(image, train).astype(jnp.float32)

  def stem(self, image: Float[Array, 'n h w c']) -> Float[Array, 'n ...']:
    """The first layer, linear in its parameters."""
    return self.body.stem(image)

  def trunk(self, x: Float[Array, 'n ...']) -> Float[Array, 'n d']:
    """Computes the features from the stem's output, in evaluation mode."""
    return self.body.trunk(x, False).astype(jnp.float32)

  def logits(self, x: Float[Array, 'n d']) -> Float[Array, 'n k']:
    """Applies the head alone."""
    return self.head(x)


def bind(module: nn.Module) -> Model:
  """Binds a module with the methods of `Classifier` to pure functions.

  Args:
    module: has a call (image, train), features, logits and optionally stem and
      trunk.

  Returns:
    The functions of `types.Model`; stem and trunk are None where the module
    has no stem.
  """

  def method(name: str) -> Callable[..., Any]:
    def call(variables: Variables, x: jax.Array) -> jax.Array:
      return cast(jax.Array, module.apply(variables._asdict(), x, method=name))

    return call

  def init(key: PRNGKey, image: Float[Array, 'n h w c']) -> Variables:
    array_checks.check_key(key)
    # A network without BatchNorm has no statistics: {} keeps the pytree's type.
    collections = module.init(key, image)
    return Variables(collections['params'], collections.get('batch_stats', {}))

  def update(
    variables: Variables, image: Float[Array, 'n h w c']
  ) -> tuple[Float[Array, 'n k'], PyTree]:
    logits, state = module.apply(
      variables._asdict(), image, train=True, mutable=['batch_stats']
    )
    return logits, state.get('batch_stats', {})

  # Methods that walk along a line use stem and trunk if a network has them.
  has_stem = hasattr(module, 'stem')
  return Model(
    init=init,
    apply=method('__call__'),
    update=update,
    features=method('features'),
    head=method('logits'),
    stem=method('stem') if has_stem else None,
    trunk=method('trunk') if has_stem else None,
  )


def as_network(
  caller: str, network: Any, variables: Any
) -> tuple[Network, Variables]:
  """Reads a network that a user gave: a linen module becomes a model.

  Args:
    caller: the function that takes the network, in the error.
    network: a `Network`, see `as_model` for its model.
    variables: its variables, see `as_variables`.

  Raises:
    UserError: the network is no `Network`.
  """
  errors.check(
    isinstance(network, Network),
    f'{caller} takes Network(model, inputs), not {type(network).__name__}: '
    'data.input_step.make makes the inputs',
  )
  model = as_model(network.model)
  array_checks.check_type('model of the network', model, Model)
  array_checks.check_type('inputs of the network', network.inputs, InputStep)
  return network._replace(model=model), as_variables(variables)


def as_model(model: Model | nn.Module) -> Model:
  """Returns a model, bound from a linen module where it is one.

  Args:
    model: a `types.Model`, a module with the methods of `Classifier`, or any
      linen module whose call takes images, and `train` where the modes differ.
      The `features` and `head` of such a module raise a UserError.
  """
  if not isinstance(model, nn.Module):
    return model
  if hasattr(model, 'features') and hasattr(model, 'logits'):
    return bind(model)
  takes_mode = 'train' in inspect.signature(type(model).__call__).parameters
  mode = lambda train: {'train': train} if takes_mode else {}

  def apply(variables: Variables, image: jax.Array) -> jax.Array:
    stored = variables._asdict()
    return cast(jax.Array, model.apply(stored, image, **mode(False)))

  def update(
    variables: Variables, image: jax.Array
  ) -> tuple[jax.Array, PyTree]:
    logits, state = model.apply(
      variables._asdict(), image, **mode(True), mutable=['batch_stats']
    )
    return logits, state.get('batch_stats', {})

  def refuse(*_: Any) -> jax.Array:
    raise errors.UserError(
      f'{type(model).__name__} has no methods features and logits, which this '
      'needs; give them with networks.from_functions, see docs/any_network.md'
    )

  def init(key: PRNGKey, image: jax.Array) -> Variables:
    array_checks.check_key(key)
    return as_variables(model.init(key, image, **mode(False)))

  return Model(init, apply, update, features=refuse, head=refuse)


def as_variables(variables: Variables | Mapping[str, Any]) -> Variables:
  """Returns variables, also of the dict that a linen module's `init` makes.

  Raises:
    UserError: a dict without 'params', or a value of another type.
  """
  if not isinstance(variables, Mapping):
    array_checks.check_type('variables', variables, Variables)
    return variables
  errors.check(
    'params' in variables,
    "these variables have no 'params'; give the result of init, or "
    'Variables(params, batch_stats)',
  )
  return Variables(variables['params'], variables.get('batch_stats', {}))


def freeze_norms(model: Model, frozen: tuple[str, ...]) -> Model:
  """Keeps the BatchNorm of some modules in evaluation mode in training.

  Args:
    model: bound from a linen module.
    frozen: modules by path, such as 'body/conv1'; BatchNorm inside them uses
      its running statistics and leaves them unchanged.

  Returns:
    The same functions and parameters, with another `update`.
  """

  # Interception reaches modules at any depth of any family, so that no family
  # has to pass a flag for each of its layers.
  def evaluate(call, args, kwargs, context):
    # Only BatchNorm differs between the modes: there is no dropout.
    norm = isinstance(context.module, layers.BatchNorm)
    if not norm or not tree.is_under(context.module.path, frozen):
      return call(*args, **kwargs)
    x, _, *offset = args
    return call(x, False, *offset, **kwargs)

  def update(
    variables: Variables, image: Float[Array, 'n h w c']
  ) -> tuple[Float[Array, 'n k'], PyTree]:
    with nn.intercept_methods(evaluate):
      return model.update(variables, image)

  return model._replace(update=update)


def from_functions(
  features: Callable[..., jax.Array],
  head: Callable[..., jax.Array],
  update: Callable[..., tuple[jax.Array, PyTree]] | None = None,
) -> Model:
  """Makes a model from two functions of any framework.

  Args:
    features: (variables, image) -> penultimate features [n, d], evaluation.
    head: (variables, features) -> logits [n, k].
    update: (variables, image) -> (logits, new batch_stats) in training mode;
      None for the evaluation mode, with unchanged statistics.

  Returns:
    The functions of `types.Model`. Its `init` raises a UserError: start from
    the variables that the framework made.
  """

  def apply(variables: Variables, image: jax.Array) -> jax.Array:
    return head(variables, features(variables, image))

  def evaluate(
    variables: Variables, image: jax.Array
  ) -> tuple[jax.Array, PyTree]:
    return apply(variables, image), variables.batch_stats

  def init(key: PRNGKey, image: jax.Array) -> Variables:
    raise errors.UserError(
      'a network from functions cannot be initialised here; start from '
      'variables of your own'
    )

  return Model(init, apply, update or evaluate, features, head)
