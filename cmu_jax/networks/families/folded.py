"""Networks with batch norm folded into their convolutions, and their weights.

A network is two files: the layer list of `folded_spec`, and an .npz with, for
each convolution, NAME_w (OIHW; C1HW if depthwise) and NAME_b. Padding is
TensorFlow's SAME, the activation ReLU6, and there is no normalisation left.
"""

import os
import pathlib
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax import numpy as jnp
from jaxtyping import Array, Float

from cmu_jax.core import errors
from cmu_jax.core.types import Model, Variables
from cmu_jax.networks import classifier, conv, layers
from cmu_jax.networks.families import folded_spec, mobile
from cmu_jax.networks.families.folded_spec import Layer, Spec

_BROKEN = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)


class Folded(nn.Module):
  """A convolution with bias and SAME padding, without its activation.

  Attributes:
    layer: which one.
    dtype: what is computed in; parameters are float32.
    convolve: see `conv.convolve`.
  """

  layer: Layer
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
      y = mobile.depthwise(x, kernel, stride, 'SAME')
    else:
      kernel = kernel.astype(self.dtype)
      y = self.convolve(x, kernel, (stride, stride), 'SAME')
    return y + bias.astype(self.dtype)[None, None, None, :]


class Body(layers.Stemmed):
  """The layers up to the features.

  Attributes:
    steps: in order; the first is a convolution of the image.
    dtype: what is computed in.
    convolve: see `conv.convolve`.
  """

  steps: tuple[Layer, ...]
  dtype: Any
  convolve: Callable

  def setup(self) -> None:
    self.convs = [
      Folded(layer, self.dtype, self.convolve, name=layer.name)
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
    values = {first.output: mobile.relu6(x) if first.relu6 else x}
    for layer in self.steps[1:]:
      x = values[layer.inputs[0]]
      if layer.kind == 'add':
        y = x + values[layer.inputs[1]]
      elif layer.kind == 'global_average_pool':
        y = jnp.mean(x, (1, 2), dtype=jnp.float32)
      else:
        y = next(convs)(x)
        y = mobile.relu6(y) if layer.relu6 else y
      values[layer.output] = y
    return values[self.steps[-1].output]


def network(
  spec: Spec,
  num_classes: int | None = None,
  *,
  dtype: str = 'float32',
  convolve: Callable = conv.convolve,
) -> classifier.Classifier:
  """The network of a layer list.

  Args:
    spec: from `folded_spec.read`.
    num_classes: k; None for as many as the stored head has.
    dtype: 'float32' or 'bfloat16', what the body computes in.
    convolve: of the convolutions that are not depthwise, see `conv.convolve`.
  """
  body = Body(spec.body, jnp.dtype(dtype), convolve)
  return classifier.Classifier(body, num_classes or spec.head.shape[0])


def from_spec(
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
  spec = folded_spec.read(path_json)
  arrays = _read(path_npz)
  body = {
    layer.name: _weights(arrays, layer, path_npz)
    for layer in spec.body
    if layer.name
  }
  head = _weights(arrays, spec.head, path_npz)
  head['kernel'] = head['kernel'][0, 0]
  model = classifier.bind(network(spec))
  return model, Variables({'body': body, 'head': head}, {})


def _read(path: os.PathLike | str) -> dict[str, np.ndarray]:
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


def _weights(
  arrays: dict[str, np.ndarray], layer: Layer, where: Any
) -> dict[str, jax.Array]:
  """Kernel (HWIO) and bias of a convolution."""
  kernel = _array(arrays, f'{layer.name}_w', layer.shape, where)
  bias = _array(arrays, f'{layer.name}_b', layer.shape[:1], where)
  return {
    'kernel': jnp.asarray(np.transpose(kernel, (2, 3, 1, 0))),
    'bias': jnp.asarray(bias),
  }


def _array(
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
