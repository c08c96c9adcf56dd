"""Losses: one value a sample, never reduced.

Predictions on the device, metrics from them in NumPy.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from cmu_jax.core import jit
from cmu_jax.core.types import Batch, InputStep, Model, Variables


def cross_entropy(
  logits: Float[Array, 'n k'], label: Int[Array, 'n']
) -> Float[Array, 'n']:
  """Softmax cross-entropy, in float32 whatever the network computes in."""
  return optax.softmax_cross_entropy_with_integer_labels(
    logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), label
  )


def map_blocks(
  see: Callable[[jax.Array], jax.Array],
  inputs: InputStep,
  batch: Batch,
  size: int,
) -> jax.Array:
  """What `see` makes of every image of a split, `size` images at a time.

  Args:
    see: network input [b, h, w, c] -> values [b, ...]; traceable.
    inputs: raw pixels to network input; paints the stamps.
    batch: n images.
    size: images in memory at once, at most n.

  Returns:
    Values [n, ...].
  """
  count = batch.label.shape[0]
  blocks = -(-count // size)
  rows = jnp.minimum(jnp.arange(blocks * size), count - 1)

  def block(index):
    stamp = None if batch.has_trigger is None else batch.has_trigger[index]
    return see(inputs.eval(batch.image[index], stamp))

  found = jax.lax.map(block, rows.reshape(blocks, size))
  return found.reshape(-1, *found.shape[2:])[:count]


@functools.lru_cache(maxsize=32)
def predictor(model: Model, inputs: InputStep, size: int) -> Callable:
  """(variables, batch) -> predictions [n], jitted, `size` images at a time."""

  def predict(variables, batch):
    def see(image):
      return jnp.argmax(model.apply(variables, image), axis=-1)

    return map_blocks(see, inputs, batch, size).astype(jnp.int32)

  return jit.compile_loop(predict)


def predict(
  model: Model,
  inputs: InputStep,
  variables: Variables,
  batch: Batch,
  batch_size: int = 1024,
) -> Int[np.ndarray, 'n']:
  """Predicted classes of a split, in evaluation mode; stamps are painted."""
  size = min(batch_size, batch.label.shape[0])
  return np.asarray(predictor(model, inputs, size)(variables, batch))


@functools.lru_cache(maxsize=64)
def _output_program(
  model: Model, inputs: InputStep, size: int, scale: Callable
) -> Callable:
  """A jitted function from a split to its scaled logits, `size` at a time."""

  def run(variables, batch):
    def see(image):
      return scale(model.apply(variables, image))

    return map_blocks(see, inputs, batch, size)

  return jit.compile_loop(run)


def probabilities(
  model: Model,
  inputs: InputStep,
  variables: Variables,
  batch: Batch,
  batch_size: int = 1024,
) -> Float[np.ndarray, 'n k']:
  """Class probabilities of a split, in evaluation mode; stamps are painted."""
  size = min(batch_size, batch.label.shape[0])
  run = _output_program(model, inputs, size, jax.nn.softmax)
  return np.asarray(run(variables, batch))


def logits(
  model: Model,
  inputs: InputStep,
  variables: Variables,
  batch: Batch,
  batch_size: int = 1024,
) -> Float[np.ndarray, 'n k']:
  """Logits of a split, in evaluation mode; stamps are painted."""
  size = min(batch_size, batch.label.shape[0])
  run = _output_program(model, inputs, size, jnp.float32)
  return np.asarray(run(variables, batch))


def json_list(values: Any) -> list:
  """Numbers as JSON has them; None where one is not finite."""
  return [
    v if not isinstance(v, float) or math.isfinite(v) else None
    for v in np.asarray(values).tolist()
  ]


def confusion(
  label: Int[np.ndarray, 'n'], predicted: Int[np.ndarray, 'n'], classes: int
) -> Int[np.ndarray, 'k k']:
  """Counts by true class (row) and predicted class (column)."""
  flat = np.bincount(
    np.asarray(label) * classes + predicted, minlength=classes * classes
  )
  return flat.reshape(classes, classes)


def accuracy(counts: Int[np.ndarray, 'k k']) -> float:
  """The share on the diagonal of a confusion matrix."""
  return float(np.trace(counts) / max(counts.sum(), 1))


def class_accuracy(counts: Int[np.ndarray, 'k k']) -> list[float | None]:
  """Accuracy by true class; None for a class without samples."""
  totals = counts.sum(axis=1)
  return [
    float(counts[c, c] / total) if total else None
    for c, total in enumerate(totals)
  ]


def attack_success(
  label: Int[np.ndarray, 'n'], predicted: Int[np.ndarray, 'n'], target: int
) -> float:
  """ASR: the share of triggered images with label != target that hit it."""
  others = np.asarray(label) != target
  return float(np.mean(predicted[others] == target))


def recovery_rate(
  accuracy: float, before: float, oracle: float
) -> float | None:
  """RR in percent: (UT - UT_mix) / (UT_oracle - UT_mix); None if undefined."""
  gap = oracle - before
  return None if abs(gap) < 1e-12 else 100 * (accuracy - before) / gap
