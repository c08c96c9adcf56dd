"""Pictures fed to a network in its own reading and in the common others."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from cmu_jax.core import jit
from cmu_jax.core.types import Model
from cmu_jax.networks.shipped import ShippedNetwork

# Pictures of a trial, and pictures at a time.
_PICTURES, _BLOCK = 128, 64
# Weights times pixels of all trials that take a CPU some seconds.
_QUICK = 2e13
# Mean and standard deviation of pixels from 0 to 1, by their custom.
_NORMALISATIONS = (
  ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # ImageNet
  ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),  # CIFAR-10
  ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),  # CIFAR-100
  ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
  ((0.1307,), (0.3081,)),  # MNIST
  ((0.286,), (0.353,)),  # Fashion-MNIST
  ((0.5,), (0.5,)),
  ((0.0,), (1.0,)),
  ((0.0,), (0.00392157,)),  # pixels from 0 to 255
  ((0.485, 0.456, 0.406), (0.00392157,) * 3),  # likewise, less their mean
)


class Reading(NamedTuple):
  """A way to read pictures.

  Attributes:
    remedy: flags or changes of the pictures that lead to it; '' for none.
    convert: raw pixels [n, h, w, c] to network input.
  """

  remedy: str
  convert: Callable[[np.ndarray], np.ndarray]


def spread(count: int, least: int = 0) -> np.ndarray:
  """Rows at equal distances: folders are sorted by class."""
  size = min(count, max(_PICTURES, least))
  return np.linspace(0, count - 1, size).astype(int)


def is_quick(
  network: ShippedNetwork, image: UInt8[Any, 'n h w c'], tries: int
) -> bool:
  """Tests whether a CPU makes so many trials within some seconds."""
  leaves = jax.tree.leaves(network.variables.params)
  pixels = math.prod(image.shape[1:]) * min(image.shape[0], _PICTURES)
  return float(sum(map(np.size, leaves))) * pixels * tries < _QUICK


@functools.lru_cache(maxsize=8)
def _outputs(model: Model) -> Callable:
  """(variables, network input) -> features and logits, jitted."""

  def run(variables, image):
    features = model.features(variables, image)
    return features, model.head(variables, features)

  return jit.compile_loop(run)


def try_all(
  network: ShippedNetwork, image: UInt8[Any, 'n h w c'], tries: list[Reading]
) -> Iterator[tuple[Reading, np.ndarray, np.ndarray]]:
  """Features and logits of the same pictures in each reading."""
  raw, run = np.asarray(image), _outputs(network.model)
  # Full blocks have one shape, hence one compilation.
  starts = range(0, len(raw), _BLOCK)
  for reading in tries:
    fed = reading.convert(raw)
    parts = [run(network.variables, fed[i : i + _BLOCK]) for i in starts]
    features, logits = (
      np.concatenate([np.asarray(x) for x in column])
      for column in zip(*parts, strict=True)
    )
    yield reading, features, logits


def list_readings(
  network: ShippedNetwork, image: UInt8[np.ndarray, 'n h w c']
) -> Iterator[Reading]:
  """The given reading, first of all, and each of the common ones."""
  # An input step of somebody's own has no other readings.
  if not network.mean:
    yield Reading(
      '', lambda x: np.asarray(network.inputs.eval(jnp.asarray(x), None))
    )
    return
  channels = image.shape[3]
  pixels = image.astype(np.float32) / 255
  # Those of the pictures themselves are as common as any.
  flat = pixels.reshape(-1, channels).astype(np.float64)
  own = tuple(tuple(x.round(4).tolist()) for x in (flat.mean(0), flat.std(0)))
  given = (_fill(network.mean, channels), _fill(network.std, channels))
  pairs = [given]
  for mean, std in (*_NORMALISATIONS, own):
    if len(mean) in (1, channels) and min(std) > 0:
      pairs.append((_fill(mean, channels), _fill(std, channels)))
  orders = sorted(['rgb', 'bgr'], key=lambda order: order != network.channels)
  orders = orders[:1] if channels == 1 else orders
  turns = [False] if image.shape[1] != image.shape[2] else [False, True]
  # Without repetition: the given one may be a common one.
  for pair, order, turn, invert in itertools.product(
    dict.fromkeys(pairs), orders, turns, (False, True)
  ):
    # Two mistakes at once are rare. Grey pictures have few normalisations.
    odd = (channels > 1 and pair != given) + (order != network.channels)
    if turn + invert + (turn or invert) * odd > 1:
      continue
    changes = [
      pair != given and f'--mean={_text(pair[0])} --std={_text(pair[1])}',
      order != network.channels and f'--channels={order}',
      turn and 'rows and columns of the pictures exchanged',
      invert and 'black and white of the pictures exchanged',
    ]
    yield Reading(
      ' and '.join(filter(None, changes)),
      functools.partial(_convert, pair, order == 'bgr', turn, invert),
    )


def _convert(
  pair: tuple[tuple[float, ...], tuple[float, ...]],
  reverse: bool,
  turn: bool,
  invert: bool,
  image: UInt8[np.ndarray, 'n h w c'],
) -> Float[np.ndarray, 'n h w c']:
  mean, std = (np.asarray(values, np.float32) for values in pair)
  pixels = (255 - image if invert else image).astype(np.float32) / 255
  if turn:
    pixels = pixels.swapaxes(1, 2)
  normal = (pixels - mean) / std
  return normal[..., ::-1] if reverse else normal


def _fill(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
  """One value a channel."""
  numbers = tuple(map(float, values))
  return numbers * channels if len(numbers) == 1 else numbers


def _text(values: tuple[float, ...]) -> str:
  return ','.join(f'{value:.8g}' for value in values)
