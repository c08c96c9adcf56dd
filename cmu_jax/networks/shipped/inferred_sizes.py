"""Sizes of a network, read off its weights: width and depth.

The number of arrays tells the depth, the sizes of vectors tell the width. Both
are guesses until the weights fit, which `weights.fit` decides.
"""

import inspect
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
  listed = ', '.join(f'{name}={value}' for name, value in sizes.items())
  note = f'The weights are for {listed}.'
  for variant, notes in networks.stem_variants(family, {**options, **sizes}):
    yield variant, (note, *notes)


def _infer_sizes(
  family: str,
  options: dict[str, Any],
  classes: int,
  image_shape: tuple[int, int, int],
  arrays: Mapping[str, np.ndarray],
) -> dict[str, Any]:
  """Guesses the depth, then the width, where the user gave none of them."""
  parameters = inspect.signature(networks.REGISTRY[family].make).parameters
  sizes: dict[str, Any] = {}

  def make_shapes(**changes: Any) -> dict[str, Any]:
    model = networks.make(family, classes, image_shape, **options, **changes)
    return names.leaves(variable_shapes(model, image_shape))

  try:
    if 'depth' in parameters and 'depth' not in options:
      depth = parameters['depth'].default
      sizes |= _infer_depth(depth, make_shapes, arrays)
    # The number of heads, which must divide a width, leaves no trace.
    fixed = 'width' in options or 'heads' in parameters
    if 'width' in parameters and not fixed:
      width = parameters['width'].default
      leaves = make_shapes(**sizes)
      sizes |= _infer_width(width, family, leaves, arrays)
    return sizes
  except errors.UserError:
    # The error of the user's own options says more.
    return {}


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
