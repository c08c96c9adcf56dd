"""Objectives that the methods which fine-tune are made of.

Each is a factory of a `descent.Phase`'s objective: (variables, draws, context,
hyper, time) -> (loss, batch_stats). Teachers lie in the context, which no
gradient is taken of.
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
  """T^2 KL(softmax(wanted / T) || softmax(logits / T)) of each sample.

  The factor keeps the size of gradients at any temperature T (Distilling the
  Knowledge in a Neural Network, arXiv 1503.02531, section 2).
  """
  target = jax.nn.log_softmax(target_logits.astype(jnp.float32) / temperature)
  found = jax.nn.log_softmax(logits.astype(jnp.float32) / temperature)
  return temperature**2 * jnp.sum(jnp.exp(target) * (target - found), -1)


def single_term(model: Model, stream: str, term: Term) -> Objective:
  """One term on one stream.

  Args:
    model: the network, updated in training mode.
    stream: what the term is of.
    term: of the logits and the draw.
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
  """The mean cross-entropy with the labels that were trained with: a term."""
  del context, hyper
  return metrics.cross_entropy(logits, draw.label).mean()


def cross_entropy(model: Model, stream: str = 'retain') -> Objective:
  """Plain training on one stream.

  Args:
    model: the network, updated in training mode.
    stream: whose labels count.
  """
  return single_term(model, stream, cross_entropy_term)


def retain_plus_term(
  model: Model,
  term: Term,
  weight: Callable[[Any], Any] = lambda hyper: 1.0,
) -> Objective:
  """weight CE(R) + term(S_f), a batch of each in every step.

  Both go through the network as one batch. Normalised apart, as in published
  code, BatchNorm lets the network tell S_f by the statistics of its batch: it
  unlearns in training mode alone, and S_f stays learned in evaluation.

  Args:
    model: the network, updated in training mode.
    term: of the logits and the draw of S_f.
    weight: hyper -> weight of the cross-entropy on R.
  """

  def objective(variables, draws, context, hyper, time):
    del time
    retain, forget = draws['retain'], draws['forget']
    image = jnp.concatenate([retain.image, forget.image])
    logits, stats = model.update(variables, image)
    kept, other = jnp.split(logits, [retain.image.shape[0]])
    plain = cross_entropy_term(kept, retain, context, hyper)
    return weight(hyper) * plain + term(other, forget, context, hyper), stats

  return objective


def paired_streams(batch_size: int) -> tuple[tuple[str, int], ...]:
  """The streams of `with_retain`: as many samples of R as of S_f."""
  return ('retain', batch_size), ('forget', batch_size)
