"""Sizes of a network, read off its weights: width, depth and patch.

The number of arrays tells the depth, the sizes of vectors tell the width, the
first kernel tells the patch of a transformer. All are guesses until the weights
fit, which `weights.fit` decides. The number of attention heads leaves no trace.
"""

import inspect
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cmu_jax import networks
from cmu_jax.core import errors
from cmu_jax.core.types import Model, Variables
from cmu_jax.networks.weights import names
from cmu_jax.networks.weights.names import Layout

# Depths of a family are at most so far apart: 6 m + 4 of a Wide ResNet.
_MAX_STEP = 6
# Channels of an attention head in all published sizes up to ViT-L.
_HEAD_CHANNELS = 64


def variable_shapes(model: Model, image_shape: tuple[int, ...]) -> Variables:
  """Shapes of a network's variables, without memory for them.

  Args:
    model: the network.
    image_shape: (h, w, c).
  """
  image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  return jax.eval_shape(model.init, jax.random.key(0), image)


def list_variants(
  family: str,
  options: Mapping[str, Any],
  classes: int,
  image_shape: tuple[int, int, int],
  arrays: Mapping[str, np.ndarray],
) -> Iterator[tuple[dict[str, Any], tuple[str, ...]]]:
  """Lists options under which the weights may fit, the most plausible first.

  Args:
    family: a key of `networks.REGISTRY`.
    options: as the user gave them; they are never changed.
    classes: k.
    image_shape: (h, w, c).
    arrays: the weights by stored name.

  Yields:
    Options, each with notes on the added ones.
  """
  yield from networks.stem_variants(family, options)
  sizes = _infer_sizes(family, dict(options), classes, image_shape, arrays)
  if not sizes:
    return
  listed = ', '.join(
    f'{name}={value}' for name, value in sizes.items() if name != 'heads'
  )
  added = [f'The weights are for {listed}.']
  if 'heads' in sizes:
    added.append(
      'The number of attention heads leaves no trace in weights: '
      f'{sizes["heads"]} of {_HEAD_CHANNELS} channels are taken. If there were '
      f'others, give --model={family}:heads=N.'
    )
  for variant, notes in networks.stem_variants(family, {**options, **sizes}):
    yield variant, (*added, *notes)


def _infer_sizes(
  family: str,
  options: dict[str, Any],
  classes: int,
  image_shape: tuple[int, int, int],
  arrays: Mapping[str, np.ndarray],
) -> dict[str, Any]:
  """Guesses the sizes that the user did not give."""
  parameters = inspect.signature(networks.REGISTRY[family].make).parameters
  sizes: dict[str, Any] = {}
  if 'patch' in parameters:
    sizes |= _infer_tokens(family, options, image_shape, arrays)

  def make_shapes(**changes: Any) -> dict[str, Any]:
    model = networks.make(family, classes, image_shape, **options, **changes)
    return names.leaves(variable_shapes(model, image_shape))

  try:
    if 'depth' in parameters and 'depth' not in options:
      depth = parameters['depth'].default
      sizes |= _infer_depth(depth, make_shapes, arrays)
    # That of a transformer is known already.
    fixed = 'width' in options or 'patch' in parameters
    if 'width' in parameters and not fixed:
      width = parameters['width'].default
      leaves = make_shapes(**sizes)
      sizes |= _infer_width(width, family, leaves, arrays)
    return sizes
  except errors.UserError:
    # The error of the user's own options says more.
    return {}


def _infer_tokens(
  family: str,
  options: Mapping[str, Any],
  image_shape: tuple[int, int, int],
  arrays: Mapping[str, np.ndarray],
) -> dict[str, Any]:
  """The patch and the width of a transformer, where they are not the default.

  Raises:
    UserError: pictures of another size than the weights are for, or a width of
      an unknown number of heads.
  """
  parameters = inspect.signature(networks.REGISTRY[family].make).parameters
  patch, width, count = read_tokens(arrays)
  values = {'patch': patch, 'width': width}
  sizes = {
    name: value
    for name, value in values.items()
    if value and name not in options and value != parameters[name].default
  }
  side = math.isqrt(count) * patch
  errors.check(
    not side or image_shape[:2] == (side, side),
    f'the weights are for images of {side}x{side} pixels, the pictures have '
    f'{image_shape[0]}x{image_shape[1]}: add --image_size={side}',
  )
  if 'width' not in sizes or 'heads' in options:
    return sizes
  errors.check(
    width % _HEAD_CHANNELS == 0,
    f'the weights are for width={width}, and leave no trace of the number of '
    f'attention heads: give --model={family}:heads=N',
  )
  return {**sizes, 'heads': width // _HEAD_CHANNELS}


def read_tokens(arrays: Mapping[str, np.ndarray]) -> tuple[int, int, int]:
  """Reads a transformer's patch, width and number of patches off its weights.

  Args:
    arrays: the weights by stored name.

  Returns:
    (patch, width, patches of an image); 0 where the weights do not tell.
  """
  patch, width, count = 0, 0, 0
  for name, array in arrays.items():
    words = name.replace('/', '.').removesuffix('.value').split('.')
    if words[-2:] == ['conv_proj', 'weight'] and array.ndim == 4:
      width, _, patch, _ = array.shape
    if words[-2:] == ['conv_proj', 'kernel'] and array.ndim == 4:
      patch, _, _, width = array.shape
    # One position is that of the class token.
    if words[-1] == 'pos_embedding' and array.ndim == 3:
      count = array.shape[1] - 1
  return patch, width, count if math.isqrt(count) ** 2 == count else 0


def _infer_depth(
  default: int, make_shapes: Any, arrays: Mapping[str, np.ndarray]
) -> dict[str, int]:
  """The depth at which the network has as many arrays as the file."""
  anywhere = Layout({}, False)
  count = sum(not names.may_remain(name, anywhere) for name in arrays)
  usual = len(make_shapes(depth=default))
  for step in range(1, _MAX_STEP + 1):
    try:
      growth = len(make_shapes(depth=default + step)) - usual
    except errors.UserError:  # not every number is a depth of the family
      continue
    # Rounded, because another width may add or drop a shortcut.
    steps = round((count - usual) / growth) if growth else 0
    depth = default + step * steps
    return {'depth': depth} if steps and depth > 0 else {}
  return {}


def _infer_width(
  default: int | float,
  family: str,
  leaves: Mapping[str, Any],
  arrays: Mapping[str, np.ndarray],
) -> dict[str, int | float]:
  """The width at which most vectors of the network are as long as stored."""
  layout = names.choose_layout(
    arrays, list(leaves), networks.REGISTRY[family].torch_name, None, family
  )
  ratios: Counter[float] = Counter()
  for path, leaf in leaves.items():
    array = arrays.get(layout.names[path])
    is_vector = len(leaf.shape) == 1 and not path.startswith('params/head/')
    if is_vector and array is not None and array.ndim == 1:
      ratios[array.shape[0] / leaf.shape[0]] += 1
  # Some layers, such as the stem of a Wide ResNet, have the same size always.
  del ratios[1.0]
  if not ratios:
    return {}
  width = default * ratios.most_common(1)[0][0]
  if isinstance(default, float):
    return {'width': round(width, 4)}
  whole = round(width)
  return {'width': whole} if abs(width - whole) < 1e-6 else {}
