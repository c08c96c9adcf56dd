"""Signals of membership: one number a point, higher for members.

All are functions of (logits, label) that JAX can trace. A shadow model computes
them on the device and leaves nothing else behind.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cmu_jax.core import array_checks, errors
from cmu_jax.training import metrics

Logits = Float[Array, '*b n k']
Labels = Int[Array, 'n']
Signal = Callable[[Any, Any], jax.Array]

_MIN_PROBABILITY = 1e-30


def _check(logits: Logits, label: Labels) -> None:
  """Refuses logits and labels that do not fit each other."""
  array_checks.check_array('logits', logits)
  # A single row would broadcast over the labels.
  errors.check(
    logits.ndim >= 2,
    f'logits have shape {logits.shape}; give one row an image, [n, k]',
  )
  # A gather takes -1 for the last class, and clamps.
  array_checks.check_labels('labels', label, logits.shape[-1])


def _label_value(values: Logits, label: Labels) -> Float[Array, '*b n']:
  index = jnp.broadcast_to(label, values.shape[:-1])[..., None]
  return jnp.take_along_axis(values, index, axis=-1)[..., 0]


def _replace_label(values: Logits, label: Labels, fill: float) -> Logits:
  """The values with that of the label replaced."""
  is_label = jax.nn.one_hot(label, values.shape[-1], dtype=bool)
  return jnp.where(jnp.broadcast_to(is_label, values.shape), fill, values)


def softmax(logits: Logits, label: Labels) -> Float[Array, '*b n']:
  """The probability of the label."""
  return jnp.exp(log_likelihood(logits, label))


def log_likelihood(logits: Logits, label: Labels) -> Float[Array, '*b n']:
  """The negative cross-entropy: the attack that thresholds the loss."""
  _check(logits, label)
  classes = logits.shape[-1]
  # The loss of the package takes a single batch axis.
  flat = logits.reshape(-1, classes)
  labels = jnp.broadcast_to(label, logits.shape[:-1]).reshape(-1)
  return -metrics.cross_entropy(flat, labels).reshape(logits.shape[:-1])


def negative_entropy(logits: Logits, label: Labels) -> Float[Array, '*b n']:
  """The negative entropy of the prediction; it ignores the label."""
  del label
  array_checks.check_array('logits', logits)
  log_probability = jax.nn.log_softmax(logits.astype(jnp.float32))
  return jnp.sum(jnp.exp(log_probability) * log_probability, axis=-1)


def logit_confidence(logits: Logits, label: Labels) -> Float[Array, '*b n']:
  """log p_y / (1 - p_y) = z_y - logsumexp of the other logits.

  It is nearly Gaussian over members and over non-members.

  References:
    Membership Inference Attacks From First Principles, arXiv 2112.03570,
    section 4.
  """
  _check(logits, label)
  wide = logits.astype(jnp.float32)
  # Not by p_y, which rounds to 0 or 1 where the difference is still exact.
  others = jax.nn.logsumexp(_replace_label(wide, label, -jnp.inf), axis=-1)
  return _label_value(wide, label) - others


def taylor_softmax(
  logits: Logits,
  label: Labels,
  *,
  order: int = 4,
  temperature: float = 2.0,
  margin: float = 0.6,
) -> Float[Array, '*b n']:
  """SM-Taylor-softmax: a soft margin, and exp by its Taylor polynomial t.

    t(u_y - m) / (t(u_y - m) + sum over j != y of t(u_j)),   u = z / T

  Even orders are positive everywhere. Order 3 is negative for u < -1.596, so
  that 'probabilities' leave [0, 1]. Published code stops at order 3 when asked
  for order 4; we offer 3 for parity.

  Args:
    logits: of the network.
    label: the labels.
    order: of the polynomial: 4, or 3 for parity.
    temperature: T.
    margin: m.

  Returns:
    At least 1e-30, so that ratios are defined.

  References:
    Low-Cost High-Power Membership Inference Attacks (RMIA),
    arXiv 2312.03262, appendix.
  """
  _check(logits, label)
  # No maximum is subtracted: a polynomial, unlike exp, is not shift-invariant.
  scaled = logits.astype(jnp.float32) / temperature

  def polynomial(u):
    total = jnp.ones_like(u)
    for i in range(order, 0, -1):
      total = 1 + u / i * total
    return total

  power = polynomial(_label_value(scaled, label) - margin)
  powers = polynomial(scaled)
  others = powers.sum(axis=-1) - _label_value(powers, label)
  return jnp.maximum(power / (power + others), _MIN_PROBABILITY)


SIGNALS: dict[str, Signal] = {
  'taylor_softmax': taylor_softmax,
  'softmax': softmax,
  'logit_confidence': logit_confidence,
  'log_likelihood': log_likelihood,
  'negative_entropy': negative_entropy,
}
# RMIA needs ratios, which only probabilities have.
PROBABILITIES = ('taylor_softmax', 'softmax')
