"""Losses and predictions on the device, and metrics of predictions in NumPy."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import errors as flax_errors
from jaxtyping import Array, Float, Int

from cmu_jax.core import array_checks, errors, jit
from cmu_jax.core.types import Batch, InputStep, Network, Variables

# Accuracies that are closer together differ by chance on thousands of images.
_LEAST_GAP = 0.005


def cross_entropy(
  logits: Float[Array, 'n k'], label: Int[Array, 'n']
) -> Float[Array, 'n']:
  """Softmax cross-entropy of each sample, not reduced."""
  # At least float32: in bfloat16 small losses would round to zero.
  return optax.softmax_cross_entropy_with_integer_labels(
    logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), label
  )


@contextlib.contextmanager
def explain_misfit(shape: tuple[int, ...]) -> Iterator[None]:
  """Turns the error of another library about shapes into one of one line.

  Args:
    shape: of the images that the block hands to a network.

  Raises:
    UserError: images, network and variables that do not fit each other.
  """
  array_checks.check_image_axes('the images', shape)
  try:
    yield
  except errors.UserError:
    raise
  # Each framework has errors of its own: Flax's are of no usual type.
  except (TypeError, ValueError, flax_errors.FlaxError) as error:
    raise errors.UserError(
      f'images of shape {tuple(shape)} do not fit the network or its '
      f'variables: {errors.first_line(error)}; give the height, width and '
      'channels that it was made for'
    ) from error


def map_blocks(
  function: Callable[[jax.Array], jax.Array],
  inputs: InputStep,
  batch: Batch,
  size: int,
) -> jax.Array:
  """Applies a function to every image of a split, `size` images at a time.

  Args:
    function: network input [b, h, w, c] -> values [b, ...]; traceable.
    inputs: raw pixels to network input; paints the triggers.
    batch: n images.
    size: images in memory at once, at most n.

  Returns:
    Values [n, ...].
  """
  count = batch.label.shape[0]
  blocks = -(-count // size)
  # Copies of the last image fill the last block, so all blocks have one shape.
  rows = jnp.minimum(jnp.arange(blocks * size), count - 1)

  def block(index):
    stamp = None if batch.has_trigger is None else batch.has_trigger[index]
    with explain_misfit(batch.image.shape):
      return function(inputs.eval(batch.image[index], stamp))

  values = jax.lax.map(block, rows.reshape(blocks, size))
  return values.reshape(-1, *values.shape[2:])[:count]


# Both caches are keyed by the identity of a network's functions, so that all
# variables of a sweep share one compilation.
@functools.lru_cache(maxsize=32)
def predictor(network: Network, size: int) -> Callable:
  """(variables, batch) -> predictions [n], jitted, `size` images at a time."""

  def run(variables, batch):
    def classify(image):
      return jnp.argmax(network.model.apply(variables, image), axis=-1)

    return map_blocks(classify, network.inputs, batch, size).astype(jnp.int32)

  return jit.compile_loop(run)


def _block_size(
  network: Network, variables: Variables, batch: Batch, batch_size: int
) -> int:
  """The images of a block, at most all; refuses arguments of other types."""
  array_checks.check_type('network', network, Network)
  array_checks.check_type('variables', variables, Variables)
  array_checks.check_type('batch', batch, Batch)
  return min(batch_size, batch.label.shape[0])


def predict(
  network: Network, variables: Variables, batch: Batch, batch_size: int = 1024
) -> Int[np.ndarray, 'n']:
  """Predicts classes of a split, in evaluation mode; paints triggers."""
  size = _block_size(network, variables, batch, batch_size)
  return np.asarray(predictor(network, size)(variables, batch))


def count_classes(network: Network, variables: Variables, image: Any) -> int:
  """Returns k, the number of logits of raw images, without any computation.

  Args:
    image: [n, h, w, c], or its jax.ShapeDtypeStruct.

  Raises:
    UserError: images, network and variables that do not fit each other.
  """
  apply = lambda v, x: network.model.apply(v, network.inputs.eval(x, None))
  with explain_misfit(image.shape):
    sample = jax.ShapeDtypeStruct((1, *image.shape[1:]), image.dtype)
    return jax.eval_shape(apply, variables, sample).shape[-1]


@functools.lru_cache(maxsize=64)
def _output_program(network: Network, size: int, scale: Callable) -> Callable:
  """(variables, batch) -> scaled logits [n, k], jitted, `size` at a time."""

  def run(variables, batch):
    def scaled_logits(image):
      return scale(network.model.apply(variables, image))

    return map_blocks(scaled_logits, network.inputs, batch, size)

  return jit.compile_loop(run)


def probabilities(
  network: Network, variables: Variables, batch: Batch, batch_size: int = 1024
) -> Float[np.ndarray, 'n k']:
  """Class probabilities of a split, in evaluation mode; paints triggers."""
  size = _block_size(network, variables, batch, batch_size)
  run = _output_program(network, size, jax.nn.softmax)
  return np.asarray(run(variables, batch))


def logits(
  network: Network, variables: Variables, batch: Batch, batch_size: int = 1024
) -> Float[np.ndarray, 'n k']:
  """Logits of a split, in evaluation mode; paints triggers."""
  size = _block_size(network, variables, batch, batch_size)
  run = _output_program(network, size, jnp.float32)
  return np.asarray(run(variables, batch))


def json_list(values: Any) -> list:
  """Converts numbers to JSON, with None for numbers that are not finite."""
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
  # An empty split has accuracy 0, not NaN, which JSON cannot hold.
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
  # Images of the target class would count as hits without any backdoor.
  others = np.asarray(label) != target
  return float(np.mean(predicted[others] == target))


def recovery_rate(
  accuracy: float, before: float, oracle: float
) -> float | None:
  """RR in percent: (UT - UT_mix) / (UT_oracle - UT_mix).

  None if the oracle is not above the corrupted network by `_LEAST_GAP`: there
  is no gap to close, and the quotient would praise a loss.
  """
  gap = oracle - before
  return None if gap < _LEAST_GAP else 100 * (accuracy - before) / gap
