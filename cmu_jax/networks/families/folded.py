"""A network as a list of layers in a JSON file, read and checked.

input_size  side of the square RGB image in pixels
layers      in order of computation, see `Layer`; the first is a convolution
            of 'x', the last but one the global mean, the last the head
feature     the output of the global mean, which the head reads
logits      the output of the head

Networks with batch norm folded into their convolutions, and their weights.

A network is two files: the layer list of `folded_spec`, and an .npz with, for
each convolution, NAME_w (OIHW; C1HW if depthwise) and NAME_b. Padding is
TensorFlow's SAME, the activation ReLU6, and there is no normalisation left.
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
from jaxtyping import Array, Float

from cmu_jax.core import errors, files
from cmu_jax.core.types import Model, Variables
from cmu_jax.networks import classifier, conv, layers

_KINDS = {'conv': 1, 'depthwise': 1, 'add': 2, 'global_average_pool': 1}
_IMAGE = 'x'


class LayerSpec(NamedTuple):
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


class NetworkSpec(NamedTuple):
  """What the JSON says.

  Attributes:
    input_size: side of the image in pixels.
    body: the layers from the image to the features.
    head: a 1x1 convolution from the features to the logits.
  """

  input_size: int
  body: tuple[LayerSpec, ...]
  head: LayerSpec


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
  """One entry of the JSON; KeyError, TypeError or ValueError if it is not."""
  kind, inputs, output = entry['type'], entry['in'], entry['out']
  inputs = (inputs,) if isinstance(inputs, str) else tuple(inputs)
  if _KINDS.get(kind) != len(inputs):
    raise ValueError(f'a layer of type {kind!r} with {len(inputs)} inputs')
  if kind not in ('conv', 'depthwise'):
    return LayerSpec(kind, inputs, output)
  name, stride = entry['name'], entry['stride']
  shape, relu6 = tuple(entry['w_shape']), entry['relu6']
  whole = all(isinstance(n, int) and n > 0 for n in (*shape, stride))
  if not (whole and len(shape) == 4 and isinstance(relu6, bool)):
    raise ValueError(f'w_shape, stride or relu6 of layer {name!r}')
  if not (isinstance(name, str) and name.isidentifier()):
    raise ValueError(f'the name {name!r} of a layer')
  return LayerSpec(kind, inputs, output, name, stride, relu6, shape)


def _has_valid_ends(steps: list[LayerSpec], feature: str, logits: str) -> bool:
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


def _check_shapes(steps: list[LayerSpec], side: int, where: Any) -> None:
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


_BROKEN = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)


class FoldedConv(nn.Module):
  """A convolution with bias and SAME padding, without its activation.

  Attributes:
    layer: which one.
    dtype: what is computed in; parameters are float32.
    convolve: see `conv.convolve`.
  """

  layer: LayerSpec
  dtype: Any
  convolve: Callable

  @nn.compact
  def __call__(self, x: Float[Array, 'n h w c']) -> Float[Array, 'n h2 w2 d']:
    outer, inner, high, wide = self.layer.shape
    shape = (high, wide, inner, outer)
    # Nothing normalises the signal afterwards. Of a depthwise convolution the
    # outputs are no measure: each comes from the few pixels of one channel.
    kernel = self.param('kernel', layers.kaiming_fan_in, shape)
    bias = self.param('bias', nn.initializers.zeros, (outer,))
    x, stride = x.astype(self.dtype), self.layer.stride
    if self.layer.kind == 'depthwise':
      y = layers.depthwise(x, kernel, stride, 'SAME')
    else:
      kernel = kernel.astype(self.dtype)
      y = self.convolve(x, kernel, (stride, stride), 'SAME')
    return y + bias.astype(self.dtype)[None, None, None, :]


class FoldedBody(layers.StemTrunk):
  """The layers up to the features.

  Attributes:
    steps: in order; the first is a convolution of the image.
    dtype: what is computed in.
    convolve: see `conv.convolve`.
  """

  steps: tuple[LayerSpec, ...]
  dtype: Any
  convolve: Callable

  def setup(self) -> None:
    self.convs = [
      FoldedConv(layer, self.dtype, self.convolve, name=layer.name)
      for layer in self.steps
      if layer.name
    ]

  def stem(self, image: Float[Array, 'n h w c']) -> Float[Array, 'n h2 w2 d']:
    """The first convolution with its bias."""
    return self.convs[0](image)

  def trunk(
    self, x: Float[Array, 'n h w c'], train: bool
  ) -> Float[Array, 'n d']:
    """Everything after the first convolution."""
    del train
    convs = iter(self.convs[1:])
    first = self.steps[0]
    values = {first.output: layers.relu6(x) if first.relu6 else x}
    for layer in self.steps[1:]:
      x = values[layer.inputs[0]]
      if layer.kind == 'add':
        y = x + values[layer.inputs[1]]
      elif layer.kind == 'global_average_pool':
        y = jnp.mean(x, (1, 2), dtype=jnp.float32)
      else:
        y = next(convs)(x)
        y = layers.relu6(y) if layer.relu6 else y
      values[layer.output] = y
    return values[self.steps[-1].output]


def build(
  spec: NetworkSpec,
  num_classes: int | None = None,
  *,
  dtype: str = 'float32',
  convolve: Callable = conv.convolve,
) -> classifier.Classifier:
  """The network of a layer list.

  Args:
    spec: from `folded.read_spec`.
    num_classes: k; None for as many as the stored head has.
    dtype: 'float32' or 'bfloat16', what the body computes in.
    convolve: of the convolutions that are not depthwise, see `conv.convolve`.
  """
  body = FoldedBody(spec.body, jnp.dtype(dtype), convolve)
  return classifier.Classifier(body, num_classes or spec.head.shape[0])


def load(
  path_json: os.PathLike | str, path_npz: os.PathLike | str
) -> tuple[Model, Variables]:
  """A network with its stored weights.

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
    layer.name: _convolution_weights(arrays, layer, path_npz)
    for layer in spec.body
    if layer.name
  }
  head = _convolution_weights(arrays, spec.head, path_npz)
  head['kernel'] = head['kernel'][0, 0]
  model = classifier.bind(build(spec))
  return model, Variables({'body': body, 'head': head}, {})


def _read_arrays(path: os.PathLike | str) -> dict[str, np.ndarray]:
  """All arrays of an .npz, or UserError."""
  try:
    # Opened here, since np.load leaves the file open if it is cut short.
    with pathlib.Path(path).open('rb') as file:
      archive = np.load(file, allow_pickle=False)
      if isinstance(archive, np.lib.npyio.NpzFile):
        return dict(archive)
  except _BROKEN as error:
    reason = str(error).partition('\n')[0]
    raise errors.UserError(
      f'{path} is not a readable .npz of plain arrays ({reason}); copy it again'
    ) from error
  raise errors.UserError(f'{path} is one array, not an .npz; give the .npz')


def _convolution_weights(
  arrays: dict[str, np.ndarray], layer: LayerSpec, where: Any
) -> dict[str, jax.Array]:
  """Kernel (HWIO) and bias of a convolution."""
  kernel = _check_array(arrays, f'{layer.name}_w', layer.shape, where)
  bias = _check_array(arrays, f'{layer.name}_b', layer.shape[:1], where)
  return {
    'kernel': jnp.asarray(np.transpose(kernel, (2, 3, 1, 0))),
    'bias': jnp.asarray(bias),
  }


def _check_array(
  arrays: dict[str, np.ndarray], name: str, shape: tuple[int, ...], where: Any
) -> np.ndarray:
  """One array in float32, or UserError."""
  errors.check(
    name in arrays, f"{where} has no '{name}'; is it of another layer list?"
  )
  array = arrays[name]
  errors.check(
    array.shape == shape,
    f"{where}: '{name}' has shape {array.shape}, the layer list says {shape}; "
    'take files that belong together',
  )
  errors.check(
    array.dtype.kind == 'f' and np.isfinite(array).all(),
    f"{where}: '{name}' is not all finite floats; the weights are damaged",
  )
  return array.astype(np.float32)
