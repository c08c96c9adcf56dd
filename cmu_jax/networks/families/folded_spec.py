"""A network as a list of layers in a JSON file, read and checked.

input_size  side of the square RGB image in pixels
layers      in order of computation, see `Layer`; the first is a convolution
            of 'x', the last but one the global mean, the last the head
feature     the output of the global mean, which the head reads
logits      the output of the head
"""

import os
from typing import Any, NamedTuple

from cmu_jax.core import errors, files

_KINDS = {'conv': 1, 'depthwise': 1, 'add': 2, 'global_average_pool': 1}
_IMAGE = 'x'


class Layer(NamedTuple):
  """One step of the computation.

  Attributes:
    kind: 'conv', 'depthwise', 'add' or 'global_average_pool'.
    inputs: names of the values that are read; two for 'add'.
    output: name of the value that is made.
    name: of the arrays of a convolution; '' for other kinds.
    stride: of a convolution.
    relu6: whether ReLU6 follows the convolution.
    shape: of the kernel as it is stored; () for other kinds.
  """

  kind: str
  inputs: tuple[str, ...]
  output: str
  name: str = ''
  stride: int = 1
  relu6: bool = False
  shape: tuple[int, ...] = ()


class Spec(NamedTuple):
  """What the JSON says.

  Attributes:
    input_size: side of the image in pixels.
    body: the layers from the image to the features.
    head: a 1x1 convolution from the features to the logits.
  """

  input_size: int
  body: tuple[Layer, ...]
  head: Layer


def read(path: os.PathLike | str) -> Spec:
  """Reads a layer list.

  Raises:
    UserError: no readable JSON of the layout at the top of this module.
  """
  stored = files.read_json(path)
  try:
    steps = [_layer(entry) for entry in stored['layers']]
    facts = [stored[name] for name in ('input_size', 'feature', 'logits')]
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise errors.UserError(
      f'{path} is no layer list ({type(error).__name__}: {error}); it needs '
      'input_size, layers, feature and logits'
    ) from error
  size, feature, logits = facts
  errors.check(
    isinstance(size, int) and size > 0,
    f'{path}: input_size {size!r} is no positive number of pixels; correct it',
  )
  errors.check(
    len(steps) > 2 and _ends(steps, feature, logits),
    f"{path}: the layers do not lead from a convolution of '{_IMAGE}' to the "
    f'features {feature!r} and a 1x1 convolution to {logits!r}; correct them',
  )
  _follow(steps, size, path)
  return Spec(size, tuple(steps[:-1]), steps[-1])


def _layer(entry: dict[str, Any]) -> Layer:
  """One entry of the JSON; KeyError, TypeError or ValueError if it is not."""
  kind, inputs, output = entry['type'], entry['in'], entry['out']
  inputs = (inputs,) if isinstance(inputs, str) else tuple(inputs)
  if _KINDS.get(kind) != len(inputs):
    raise ValueError(f'a layer of type {kind!r} with {len(inputs)} inputs')
  if kind not in ('conv', 'depthwise'):
    return Layer(kind, inputs, output)
  name, stride = entry['name'], entry['stride']
  shape, relu6 = tuple(entry['w_shape']), entry['relu6']
  whole = all(isinstance(n, int) and n > 0 for n in (*shape, stride))
  if not (whole and len(shape) == 4 and isinstance(relu6, bool)):
    raise ValueError(f'w_shape, stride or relu6 of layer {name!r}')
  if not (isinstance(name, str) and name.isidentifier()):
    raise ValueError(f'the name {name!r} of a layer')
  return Layer(kind, inputs, output, name, stride, relu6, shape)


def _ends(steps: list[Layer], feature: str, logits: str) -> bool:
  """Whether the first layer, the mean and the head are what they must be."""
  first, pool, head = steps[0], steps[-2], steps[-1]
  names = [layer.name for layer in steps if layer.name]
  return (
    (first.kind, first.inputs) == ('conv', (_IMAGE,))
    and (pool.kind, pool.output) == ('global_average_pool', feature)
    and [layer.kind for layer in steps].count(pool.kind) == 1
    and (head.kind, head.inputs, head.output) == ('conv', (feature,), logits)
    and head.shape[2:] == (1, 1)
    and not head.relu6
    and len(set(names)) == len(names)
  )


def _follow(steps: list[Layer], side: int, where: Any) -> None:
  """Checks that every layer reads values that are there and fit it."""
  # Channels and side of every value.
  values = {_IMAGE: (3, side)}
  for layer in steps:
    for name in layer.inputs:
      errors.check(
        name in values,
        f'{where}: {name!r} is read before it is made; reorder the layers',
      )
    found = {values[name] for name in layer.inputs}
    channels, side = min(found)
    depthwise = layer.kind == 'depthwise'
    fits = not layer.name or (
      layer.shape[not depthwise] == channels
      and (not depthwise or layer.shape[1] == 1)
    )
    errors.check(
      fits and len(found) == 1,
      f'{where}: layer {layer.name or layer.output} with w_shape '
      f'{list(layer.shape)} reads (channels, side) '
      f'{", ".join(map(str, sorted(found)))}, which do not fit; correct it',
    )
    values[layer.output] = (
      layer.shape[0] if layer.name else channels,
      1 if layer.kind == 'global_average_pool' else -(-side // layer.stride),
    )
