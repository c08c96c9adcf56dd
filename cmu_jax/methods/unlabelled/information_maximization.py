r"""Information maximisation: a repair from unlabelled pictures alone.

With the probabilities p(x) of a network at picture x, and a class prior q:

  L(theta) = E_x[H(p(x))] + KL(E_x[p(x)] || q)

The first term asks for sure answers. The second asks for answers that are as
varied as the classes are, because a network that always gives one class is
sure as well. With a uniform q, -L is the mutual information of pictures and
predicted classes, up to log k. The features are trained and the head stays.

References:
  The information maximisation of SHOT: Do We Really Need to Access the Source
  Data?, arXiv 2002.08546, equations 3 and 4.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from cmu_jax.core import errors, jit
from cmu_jax.core.types import (
  Method,
  Model,
  Network,
  PRNGKey,
  Samples,
  Training,
  Variables,
)
from cmu_jax.methods import finetuning, relabelling
from cmu_jax.training import descent, metrics

LEARNING_RATE = 5e-3
STEPS = 150
BATCH_SIZE = 256
# Agreement by confidence of a network that knows an augmentation.
_KNOWN = 0.75
# Probabilities below this count as 0 in a logarithm.
_TINY = 1e-12


class _Context(NamedTuple):
  """Arrays of the objective.

  Attributes:
    log_prior: log q, [k].
    mask: true for weights that move.
  """

  log_prior: Float[Array, 'k']
  mask: PyTree


def information_loss(
  logits: Float[Array, 'n k'], log_prior: Float[Array, 'k']
) -> Float[Array, '']:
  """L of a batch, in nats.

  Args:
    logits: of n pictures.
    log_prior: log q.
  """
  # A network may compute in bfloat16, which is too coarse for an entropy.
  wide = jnp.promote_types(logits.dtype, jnp.float32)
  log_p = jax.nn.log_softmax(logits.astype(wide))
  p = jnp.exp(log_p)
  entropy = -(p * log_p).sum(-1).mean()
  mean = p.mean(0)
  divergence = (mean * (jnp.log(mean + _TINY) - log_prior)).sum()
  return entropy + divergence


def make_training(pictures: int, **changes: Any) -> Training:
  """The training that our trials settled on, for a number of pictures.

  Args:
    pictures: n; a batch has min(n, 256) of them.
    **changes: learning_rate, steps or batch_size; None for the default.
  """
  defaults = {
    'learning_rate': LEARNING_RATE,
    'steps': STEPS,
    'batch_size': BATCH_SIZE,
  }
  return finetuning.make_plain_training(pictures, defaults, changes)


# Keyed by the identity of the network's functions and of the optimizer.
@functools.lru_cache(maxsize=32)
def _recipe(
  network: Network, optimizer: optax.GradientTransformation, batch_size: int
) -> descent.Recipe:
  """L on the stream of ordinary pictures; the mask freezes weights."""

  def objective(variables, draws, context, hyper, time):
    del hyper, time
    # Training mode: the statistics of BatchNorm are adapted as well.
    logits, stats = network.model.update(variables, draws['ordinary'].image)
    return information_loss(logits, context.log_prior), stats

  def project(tree, context):
    return relabelling.apply_mask(tree, context.mask)

  phase = descent.Phase(objective, (('ordinary', batch_size),))
  return descent.Recipe((phase,), optimizer, network.inputs, project)


@functools.lru_cache(maxsize=32)
def _mask_program(model: Model) -> Callable[[Variables, jax.Array], PyTree]:
  """A jitted function (variables, network input) -> see `mask_features`."""

  def run(variables, image):
    features = model.features(variables, image)

    def weigh(params):
      logits = model.head(variables._replace(params=params), features)
      # Different weights, because equal ones cancel in a softmax-like head.
      return (logits @ jnp.arange(1.0, 1 + logits.shape[-1])).sum()

    gradient = jax.grad(weigh)(variables.params)
    return jax.tree.map(lambda g: jnp.full(g.shape, ~jnp.any(g != 0)), gradient)

  return jit.compile_cheaply(run)


def mask_features(
  network: Network, variables: Variables, samples: Samples
) -> PyTree:
  """Masks the weights of the features: true for all leaves but the head's.

  Args:
    network: its model has `features` and `head`, by any names of parameters.
    samples: any pictures.
  """
  image = network.inputs.eval(samples.batch.image[:1], None)
  return _mask_program(network.model)(variables, image)


def augment_evaluation(key: PRNGKey, network: Network) -> Network:
  """A network that reads augmented pictures in evaluation mode as well."""
  train = network.inputs.train
  return network._replace(
    inputs=network.inputs._replace(
      eval=lambda image, flags: train(key, image, flags)
    )
  )


def knows_augmentation(
  key: PRNGKey, network: Network, variables: Variables, samples: Samples
) -> bool:
  """Tests if a network answers augmented pictures as it answers plain ones.

  A network that was trained without crops takes them for other pictures, and
  would be adapted to these. Crops also have other statistics: a network that
  was trained with crops loses accuracy if BatchNorm sees plain pictures. So a
  run should augment as the training did, which this tells without labels.

  Args:
    key: of the augmentation.
    network: its input step augments in training.
    variables: of the network.
    samples: pictures.

  Returns:
    True if both answers agree about as often as the network is sure.
  """
  batch = samples.batch
  plain = metrics.probabilities(network, variables, batch, BATCH_SIZE)
  changed = metrics.probabilities(
    augment_evaluation(key, network), variables, batch, BATCH_SIZE
  )
  agreement = np.mean(plain.argmax(1) == changed.argmax(1))
  # In our trials the quotient was .96 to 1.26 for networks trained with crops,
  # and .34 to .52 for networks trained without.
  return bool(agreement >= _KNOWN * plain.max(1).mean())


def wrap_pictures(image: Any) -> Samples:
  """Wraps unlabelled raw pictures, uint8 [n, h, w, c], as data of a method."""
  return descent.whole_batch(descent.blank_batch(image))


@finetuning.check_settings
def information_maximization(
  network: Network,
  training: Training,
  *,
  prior: Sequence[float] | None = None,
  freeze_head: bool = True,
) -> Method:
  """Adapts the features to unlabelled pictures of the task.

  Args:
    network: the model, updated in training mode, and its input step.
    training: see `make_training`.
    prior: q, the share of each class in the pictures, [k]; None for uniform.
    freeze_head: False trains the head as well, and needs no `features`.

  Raises:
    UserError: when called, a prior that is no distribution over the classes.

  References:
    See the module.
  """
  recipe = _recipe(network, training.optimizer, training.batch_size)

  def prepare(key, variables: Variables, data) -> _Context:
    del key
    samples = data.ordinary
    image = network.inputs.eval(samples.batch.image[:1], None)
    classes = jax.eval_shape(network.model.apply, variables, image).shape[-1]
    mask = (
      mask_features(network, variables, samples)
      if freeze_head
      else jax.tree.map(lambda x: jnp.ones(x.shape, bool), variables.params)
    )
    return _Context(_log_prior(prior, classes), mask)

  def start(key, variables: Variables, data, prepared) -> descent.Start:
    del key
    streams = {'ordinary': data.ordinary}
    return descent.Start(variables, streams, training.steps, prepared)

  return finetuning.method(
    recipe,
    training.steps,
    'information maximisation',
    prepare=prepare,
    start=start,
  )


def _log_prior(
  prior: Sequence[float] | None, classes: int
) -> Float[Array, 'k']:
  share = np.full(classes, 1 / classes) if prior is None else np.asarray(prior)
  errors.check(
    share.shape == (classes,)
    and bool(np.all(share > 0))
    and abs(float(share.sum()) - 1) < 1e-3,
    f'the class prior has shape {share.shape} and sum {share.sum():g}; give '
    f'{classes} shares above 0 with sum 1',
  )
  return jnp.log(jnp.asarray(share, jnp.float32))
