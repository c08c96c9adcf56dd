"""Objectives of the methods that fine-tune.

Each function makes the objective of a `descent.Phase`: (variables, draws,
context, hyper, time) -> (loss, batch_stats). Teachers lie in the context, which
has no gradient.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from cmu_jax.core.types import Model
from cmu_jax.training import descent, metrics

Objective = Callable[..., tuple[jax.Array, PyTree]]
# (logits, draw, context, hyper) -> one number.
Term = Callable[[jax.Array, descent.StreamBatch, Any, Any], jax.Array]


def divergence(
  target_logits: Float[Array, 'n k'],
  logits: Float[Array, 'n k'],
  temperature: float = 1.0,
) -> Float[Array, 'n']:
  """T^2 KL(softmax(target / T) || softmax(logits / T)) of each sample.

  Args:
    target_logits: of the teacher.
    logits: of the student.
    temperature: T.
  """
  # In float32 even for a network in bfloat16, which is too coarse for the
  # log-probabilities of a confident teacher.
  # The factor T^2 keeps the size of gradients at any temperature (Distilling
  # the Knowledge in a Neural Network, arXiv 1503.02531, section 2).
  target = jax.nn.log_softmax(target_logits.astype(jnp.float32) / temperature)
  log_p = jax.nn.log_softmax(logits.astype(jnp.float32) / temperature)
  return temperature**2 * jnp.sum(jnp.exp(target) * (target - log_p), -1)


def single_term(model: Model, stream: str, term: Term) -> Objective:
  """A single term on a single stream.

  Args:
    model: the network, updated in training mode.
    stream: the name of the stream.
    term: of the logits and the batch.
  """

  def objective(variables, draws, context, hyper, time):
    del time
    logits, stats = model.update(variables, draws[stream].image)
    return term(logits, draws[stream], context, hyper), stats

  return objective


def cross_entropy_term(
  logits: Float[Array, 'n k'],
  draw: descent.StreamBatch,
  context: Any,
  hyper: Any,
) -> Float[Array, '']:
  """The mean cross-entropy with the trained labels: a term."""
  del context, hyper
  return metrics.cross_entropy(logits, draw.label).mean()


def cross_entropy(model: Model, stream: str = 'retain') -> Objective:
  """Plain training on one stream."""
  return single_term(model, stream, cross_entropy_term)


def retain_plus_term(
  model: Model,
  term: Term,
  weight: Callable[[Any], Any] = lambda hyper: 1.0,
) -> Objective:
  """weight CE(R) + term(S_f), a batch of each in every step.

  Args:
    model: the network, updated in training mode.
    term: of the logits and the batch of S_f.
    weight: hyper -> weight of the cross-entropy on R.
  """

  def objective(variables, draws, context, hyper, time):
    del time
    retain, forget = draws['retain'], draws['forget']
    # One batch for both. Normalised apart, as in published code, BatchNorm
    # lets the network tell S_f by the statistics of its batch: it unlearns in
    # training mode alone, and S_f stays learned in evaluation.
    image = jnp.concatenate([retain.image, forget.image])
    logits, stats = model.update(variables, image)
    on_retain, on_forget = jnp.split(logits, [retain.image.shape[0]])
    loss = weight(hyper) * cross_entropy_term(on_retain, retain, context, hyper)
    return loss + term(on_forget, forget, context, hyper), stats

  return objective


def training_phase(model: Model, stream: str, batch_size: int) -> descent.Phase:
  """Plain training on one stream, as a phase."""
  return descent.Phase(cross_entropy(model, stream), ((stream, batch_size),))


def forget_phase(
  model: Model,
  term: Term,
  batch_size: int,
  weight: Callable[[Any], Any] = lambda hyper: 1.0,
  retain: bool = True,
) -> descent.Phase:
  """A term on S_f as a phase, with as many samples of R beside it.

  Args:
    model: the network, updated in training mode.
    term: of the logits and the batch of S_f.
    batch_size: of S_f.
    weight: hyper -> weight of the cross-entropy on R.
    retain: False for S_f alone.
  """
  forget = (('forget', batch_size),)
  if not retain:
    return descent.Phase(single_term(model, 'forget', term), forget)
  objective = retain_plus_term(model, term, weight)
  return descent.Phase(objective, (('retain', batch_size), *forget))
