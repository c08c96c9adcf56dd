"""Wide ResNets, as published (arXiv 1605.07146) and in a benchmark's variant.

The variant is the one of the corrective unlearning benchmark (arXiv
2402.14015). It differs from the published network in that
* its convolutions have biases, and values start as PyTorch's default weights
  with zero biases;
* the second convolution of a block has the stride, not the first one;
* a shortcut starts from the block's input as it is, not from its normalised
  and rectified form, and a convolution there is followed by BatchNorm;
* nothing is between the last block and the mean.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

from flax import linen as nn
from jax import numpy as jnp
from jaxtyping import Array, Float

from cmu_jax.core import errors
from cmu_jax.networks import classifier, conv, layers

_STEM = 16
_dense = functools.partial(layers.Dense, bias_init=nn.initializers.zeros)


class Block(nn.Module):
  """BatchNorm, ReLU and a 3x3 convolution, twice, beside a shortcut.

  Attributes:
    features: output channels.
    stride: of the block.
    project: True where the shortcut is a 1x1 convolution.
    corrective: True for the benchmark's variant.
    layer: makes a convolution, see `layers.Conv`.
  """

  features: int
  stride: int
  project: bool
  corrective: bool
  layer: Callable[..., layers.Conv]

  def setup(self) -> None:
    first, second = (1, self.stride) if self.corrective else (self.stride, 1)
    self.norm1 = layers.BatchNorm()
    self.conv1 = self.layer(self.features, stride=first)
    self.norm2 = layers.BatchNorm()
    self.conv2 = self.layer(self.features, stride=second)
    if self.project:
      self.shortcut = self.layer(self.features, size=1, stride=self.stride)
      if self.corrective:
        self.shortcut_norm = layers.BatchNorm()

  def __call__(
    self, x: Float[Array, 'n h w c'], train: bool
  ) -> Float[Array, 'n h2 w2 d']:
    active = nn.relu(self.norm1(x, train))
    y = nn.relu(self.norm2(self.conv1(active), train))
    y = self.conv2(y)
    if not self.project:
      return x + y
    if self.corrective:
      return self.shortcut_norm(self.shortcut(x), train) + y
    return self.shortcut(active) + y


class Body(layers.StemTrunk):
  """A 3x3 convolution, three stages of blocks, and the mean over the image.

  Attributes:
    size: how many blocks each stage has.
    width: factor on the 16, 32 and 64 channels of the stages.
    corrective: True for the benchmark's variant.
    layer: makes a convolution, see `layers.Conv`.
  """

  size: int
  width: int
  corrective: bool
  layer: Callable[..., layers.Conv]

  def setup(self) -> None:
    self.conv1 = self.layer(_STEM)
    self.blocks = [
      Block(
        _STEM * 2**stage * self.width,
        2 if stage and not index else 1,
        index == 0 and (stage > 0 or self.width > 1),
        self.corrective,
        self.layer,
        name=f'stage{stage + 1}_block{index + 1}',
      )
      for stage in range(3)
      for index in range(self.size)
    ]
    if not self.corrective:
      self.norm = layers.BatchNorm()

  def stem(self, image: Float[Array, 'n h w c']) -> Float[Array, 'n h w d']:
    """The first convolution, with its bias where it has one."""
    return self.conv1(image)

  def trunk(
    self, x: Float[Array, 'n h w c'], train: bool
  ) -> Float[Array, 'n d']:
    """Everything after the first convolution, to the mean over the image."""
    for block in self.blocks:
      x = block(x, train)
    if not self.corrective:
      x = nn.relu(self.norm(x, train))
    return jnp.mean(x, (1, 2), dtype=jnp.float32)


def wrn(
  num_classes: int,
  image_shape: tuple[int, int, int],
  *,
  depth: int = 28,
  width: int = 10,
  dtype: str = 'float32',
  convolve: Callable = conv.convolve,
) -> classifier.Classifier:
  """The published Wide ResNet, arXiv 1605.07146, without dropout.

  WRN-28-10 has 36,479,194 parameters for RGB images and 10 classes, and
  36,536,884 with 100 classes.

  Args:
    num_classes: k.
    image_shape: (h, w, c); any.
    depth: 6 m + 4, where a stage has m blocks.
    width: factor on the 16, 32 and 64 channels of the stages.
    dtype: 'float32' or 'bfloat16', what the body computes in.
    convolve: the convolution, see `conv.convolve`.

  Raises:
    UserError: depth or width is not possible.
  """
  del image_shape
  layer = functools.partial(
    layers.Conv,
    kernel_init=layers.kaiming_fan_out,
    dtype=jnp.dtype(dtype),
    convolve=convolve,
  )
  body = Body(_blocks_per_stage('wrn', depth, width), width, False, layer)
  return classifier.Classifier(body, num_classes, dense=_dense)


def wrn_corrective(
  num_classes: int,
  image_shape: tuple[int, int, int],
  *,
  depth: int = 28,
  width: int = 10,
  dtype: str = 'float32',
  convolve: Callable = conv.convolve,
) -> classifier.Classifier:
  """The Wide ResNet of the corrective unlearning benchmark, arXiv 2402.14015.

  WRN-28-10 has 36,547,940 parameters for RGB images and 100 classes. See the
  head of this file for the differences; arguments and errors are those of
  `wrn`.
  """
  del image_shape
  layer = functools.partial(
    layers.Conv,
    bias_init=nn.initializers.zeros,
    dtype=jnp.dtype(dtype),
    convolve=convolve,
  )
  body = Body(
    _blocks_per_stage('wrn_corrective', depth, width), width, True, layer
  )
  return classifier.Classifier(body, num_classes, dense=_dense)


def layer_modules(
  corrective: bool, *, depth: int = 28, width: int = 10, **options: Any
) -> tuple[tuple[str, ...], ...]:
  """The modules of each layer, from first to last.

  A block is two layers, the first of which has the shortcut. The norm after
  the last block, which only the published network has, goes with the head.

  Args:
    corrective: True for the benchmark's variant.
    depth: of the network.
    width: of the network.
    **options: others of `wrn`, without effect here.
  """
  del options
  found: list[tuple[str, ...]] = [('body/conv1',)]
  across = ('shortcut', 'shortcut_norm') if corrective else ('shortcut',)
  for stage in range(3):
    for index in range(_blocks_per_stage('wrn', depth, width)):
      project = index == 0 and (stage > 0 or width > 1)
      names = ('norm1', 'conv1', *(across if project else ()))
      block = f'body/stage{stage + 1}_block{index + 1}'
      found.append(tuple(f'{block}/{name}' for name in names))
      found.append((f'{block}/norm2', f'{block}/conv2'))
  return (*found, ('head',) if corrective else ('body/norm', 'head'))


def torch_name(module: str) -> str:
  """A module's path in `wrn` to its usual name in PyTorch.

  Args:
    module: for example 'body/stage2_block1/norm2'.

  Returns:
    For example 'block2.layer.0.bn2'.
  """
  if module == 'body/norm':
    return 'bn1'
  return _translate(module, 'block{}.layer', {'shortcut': 'convShortcut'})


def torch_name_corrective(module: str) -> str:
  """A module's path in `wrn_corrective` to its name in the benchmark.

  Args:
    module: for example 'body/stage2_block1/shortcut_norm'.

  Returns:
    For example 'layer2.0.shortcut.1'.
  """
  names = {'shortcut': 'shortcut.0', 'shortcut_norm': 'shortcut.1'}
  return _translate(module, 'layer{}', names)


def _translate(module: str, stage: str, names: dict[str, str]) -> str:
  if module == 'head':
    return 'fc'
  parts = module.split('/')[1:]
  found = re.fullmatch(r'stage(\d+)_block(\d+)', parts[0])
  layer = [stage.format(found[1]), str(int(found[2]) - 1)] if found else []
  inner = names.get(parts[-1]) or parts[-1].replace('norm', 'bn')
  return '.'.join([*layer, inner])


def _blocks_per_stage(name: str, depth: int, width: int) -> int:
  """Blocks of a stage."""
  errors.check(
    depth >= 10 and depth % 6 == 4,
    f'{name}: depth {depth} must be 6 m + 4, for example 16, 28 or 40',
  )
  errors.check(width >= 1, f'{name}: width {width} must be 1 or more')
  return (depth - 4) // 6
