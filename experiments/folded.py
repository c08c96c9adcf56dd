"""Networks with batch norm folded into their convolutions, and their weights.

A network is two files. One is a list of layers in JSON:

input_size  side of the square RGB image in pixels
layers      in order of computation, see `LayerSpec`; the first is a convolution
            of 'x', the last but one the global mean, the last the head
feature     the output of the global mean, which the head reads
logits      the output of the head

The other is an .npz with, for each convolution, NAME_w (OIHW; C1HW if
depthwise) and NAME_b. Padding is TensorFlow's SAME, the activation ReLU6, and
there is no normalisation left.
"""

import os
import pathlib
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from jax import numpy as jnp

from cmu_jax.core import errors, files
from cmu_jax.core.types import Model, Variables
from cmu_jax.networks import classifier, conv, layers

_INPUTS = {'conv': 1, 'depthwise': 1, 'add': 2, 'global_average_pool': 1}
_IMAGE = 'x'
_UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)


class LayerSpec(NamedTuple):
  """One step of the computation.

  Attributes:
    kind: 'conv', 'depthwise', 'add' or 'global_average_pool'.
    inputs: names of the values that are read; two for 'add'.
    output: name of the value that is computed.
    name: of the arrays of a convolution; '' for other kinds.
    stride: of a convolution.
    relu6: True if ReLU6 follows the convolution.
    shape: of the kernel as it is stored; () for other kinds.
  """

  kind: str
  inputs: tuple[str, ...]
  output: str
  name: str = ''
  stride: int = 1
  relu6: bool = False
  shape: tuple[int, ...] = ()


class NetworkSpec(NamedTuple):
  """The content of the JSON file.

  Attributes:
    input_size: side of the image in pixels.
    body: the layers from the image to the features.
    head: a 1x1 convolution from the features to the logits.
  """

  input_size: int
  body: tuple[LayerSpec, ...]
  head: LayerSpec


class FoldedDepthwise(nn.Module):
  """A depthwise convolution with bias and SAME padding.

  Attributes:
    size: kernel height and width.
    stride: step along both axes.
    dtype: of the computation; parameters are float32.
  """

  size: int
  stride: int
  dtype: Any

  # Nothing normalises the signal afterwards, so that all kernels start by
  # fan-in. The fan-out of a depthwise convolution is no measure: an output
  # comes from the few pixels of one channel.
  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    channels = x.shape[-1]
    shape = (self.size, self.size, 1, channels)
    kernel = self.param('kernel', layers.kaiming_fan_in, shape)
    bias = self.param('bias', nn.initializers.zeros, (channels,))
    y = layers.depthwise(x.astype(self.dtype), kernel, self.stride, 'SAME')
    return y + bias.astype(self.dtype)[None, None, None, :]


class FoldedBody(layers.StemTrunk):
  """The layers up to the features.

  Attributes:
    steps: in order; the first is a convolution of the image.
    dtype: of the computation.
    convolve: of the convolutions that are not depthwise, see `conv.convolve`.
  """

  steps: tuple[LayerSpec, ...]
  dtype: Any = jnp.float32
  convolve: Callable = conv.convolve

  def setup(self) -> None:
    self.convs = [self._convolution(step) for step in self.steps if step.name]

  def _convolution(self, step: LayerSpec) -> nn.Module:
    size = step.shape[-1]
    if step.kind == 'depthwise':
      return FoldedDepthwise(size, step.stride, self.dtype, name=step.name)
    return layers.Conv(
      step.shape[0],
      size,
      step.stride,
      'SAME',
      layers.kaiming_fan_in,
      self.dtype,
      self.convolve,
      nn.initializers.zeros,
      name=step.name,
    )

  def stem(self, image: jax.Array) -> jax.Array:
    """The first convolution with its bias."""
    return self.convs[0](image)

  def trunk(self, x: jax.Array, train: bool) -> jax.Array:
    """Computes the features from the first convolution's output."""
    del train
    convs = iter(self.convs[1:])
    stem = self.steps[0]
    values = {stem.output: layers.relu6(x) if stem.relu6 else x}
    for step in self.steps[1:]:
      x = values[step.inputs[0]]
      if step.kind == 'add':
        y = x + values[step.inputs[1]]
      elif step.kind == 'global_average_pool':
        y = jnp.mean(x, (1, 2), dtype=jnp.float32)
      else:
        y = next(convs)(x)
        y = layers.relu6(y) if step.relu6 else y
      values[step.output] = y
    return values[self.steps[-1].output]


def build(
  spec: NetworkSpec, num_classes: int | None = None
) -> classifier.Classifier:
  """Builds the network of a layer list.

  Args:
    spec: from `read_spec`.
    num_classes: k; None for the number of the stored head.
  """
  body = FoldedBody(spec.body)
  return classifier.Classifier(body, num_classes or spec.head.shape[0])


def load(
  path_json: os.PathLike | str, path_npz: os.PathLike | str
) -> tuple[Model, Variables]:
  """Loads a network with its stored weights.

  Images are RGB of input_size, scaled to [-1, 1]: mean and standard deviation
  .5 of pixels in [0, 1].

  Args:
    path_json: the layer list.
    path_npz: the arrays.

  Raises:
    UserError: a file cannot be read, or arrays are missing, have another shape
      or are not finite floats.
  """
  spec = read_spec(path_json)
  arrays = _read_arrays(path_npz)
  body = {
    step.name: _convolution_weights(arrays, step, path_npz)
    for step in spec.body
    if step.name
  }
  head = _convolution_weights(arrays, spec.head, path_npz)
  head['kernel'] = head['kernel'][0, 0]
  model = classifier.bind(build(spec))
  return model, Variables({'body': body, 'head': head}, {})


def _read_arrays(path: os.PathLike | str) -> dict[str, np.ndarray]:
  try:
    # Opened here, because np.load leaves the file open if it is cut short.
    with pathlib.Path(path).open('rb') as file:
      archive = np.load(file, allow_pickle=False)
      if isinstance(archive, np.lib.npyio.NpzFile):
        return dict(archive)
  except _UNREADABLE as error:
    raise errors.UserError(
      f'{path} is not a readable .npz of plain arrays '
      f'({errors.first_line(error)}); copy it again'
    ) from error
  raise errors.UserError(f'{path} is one array, not an .npz; give the .npz')


def _convolution_weights(
  arrays: dict[str, np.ndarray], step: LayerSpec, source: Any
) -> dict[str, jax.Array]:
  """Kernel (HWIO) and bias of a convolution."""
  kernel = _check_array(arrays, f'{step.name}_w', step.shape, source)
  bias = _check_array(arrays, f'{step.name}_b', step.shape[:1], source)
  return {
    'kernel': jnp.asarray(np.transpose(kernel, (2, 3, 1, 0))),
    'bias': jnp.asarray(bias),
  }


def _check_array(
  arrays: dict[str, np.ndarray], name: str, shape: tuple[int, ...], source: Any
) -> np.ndarray:
  """Returns an array in float32; UserError if it does not fit."""
  errors.check(
    name in arrays, f"{source} has no '{name}'; is it of another layer list?"
  )
  array = arrays[name]
  errors.check(
    array.shape == shape,
    f"{source}: '{name}' has shape {array.shape}, the layer list says {shape}; "
    'take files that belong together',
  )
  errors.check(
    array.dtype.kind == 'f' and np.isfinite(array).all(),
    f"{source}: '{name}' is not all finite floats; the weights are damaged",
  )
  return array.astype(np.float32)


def read_spec(path: os.PathLike | str) -> NetworkSpec:
  """Reads a layer list.

  Raises:
    UserError: no readable JSON of the layout at the top of this module.
  """
  stored = files.read_json(path)
  try:
    steps = [_parse_layer(entry) for entry in stored['layers']]
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
    len(steps) > 2 and _has_valid_ends(steps, feature, logits),
    f"{path}: the layers do not lead from a convolution of '{_IMAGE}' to the "
    f'features {feature!r} and a 1x1 convolution to {logits!r}; correct them',
  )
  _check_shapes(steps, size, path)
  return NetworkSpec(size, tuple(steps[:-1]), steps[-1])


def _parse_layer(entry: dict[str, Any]) -> LayerSpec:
  """Parses an entry; KeyError, TypeError or ValueError for a bad entry."""
  kind, inputs, output = entry['type'], entry['in'], entry['out']
  inputs = (inputs,) if isinstance(inputs, str) else tuple(inputs)
  if _INPUTS.get(kind) != len(inputs):
    raise ValueError(f'a layer of type {kind!r} with {len(inputs)} inputs')
  if kind not in ('conv', 'depthwise'):
    return LayerSpec(kind, inputs, output)
  name, stride = entry['name'], entry['stride']
  shape, relu6 = tuple(entry['w_shape']), entry['relu6']
  positive = all(isinstance(n, int) and n > 0 for n in (*shape, stride))
  square = len(shape) == 4 and shape[2] == shape[3]
  if not (positive and square and isinstance(relu6, bool)):
    raise ValueError(f'w_shape, stride or relu6 of layer {name!r}')
  if not (isinstance(name, str) and name.isidentifier()):
    raise ValueError(f'the name {name!r} of a layer')
  return LayerSpec(kind, inputs, output, name, stride, relu6, shape)


def _has_valid_ends(steps: list[LayerSpec], feature: str, logits: str) -> bool:
  """True if the first layer, the mean and the head are as they must be."""
  stem, pool, head = steps[0], steps[-2], steps[-1]
  names = [step.name for step in steps if step.name]
  return (
    (stem.kind, stem.inputs) == ('conv', (_IMAGE,))
    and (pool.kind, pool.output) == ('global_average_pool', feature)
    and [step.kind for step in steps].count(pool.kind) == 1
    and (head.kind, head.inputs, head.output) == ('conv', (feature,), logits)
    and head.shape[2:] == (1, 1)
    and not head.relu6
    and len(set(names)) == len(names)
  )


def _check_shapes(steps: list[LayerSpec], side: int, source: Any) -> None:
  """Checks that every layer reads values that exist and fit it."""
  # Channels and side of every value.
  values = {_IMAGE: (3, side)}
  for step in steps:
    for name in step.inputs:
      errors.check(
        name in values,
        f'{source}: {name!r} is read before it is made; reorder the layers',
      )
    shapes = {values[name] for name in step.inputs}
    channels, side = min(shapes)
    depthwise = step.kind == 'depthwise'
    fits = not step.name or (
      step.shape[not depthwise] == channels
      and (not depthwise or step.shape[1] == 1)
    )
    errors.check(
      fits and len(shapes) == 1,
      f'{source}: layer {step.name or step.output} with w_shape '
      f'{list(step.shape)} reads (channels, side) '
      f'{", ".join(map(str, sorted(shapes)))}, which do not fit; correct it',
    )
    values[step.output] = (
      step.shape[0] if step.name else channels,
      1 if step.kind == 'global_average_pool' else -(-side // step.stride),
    )
