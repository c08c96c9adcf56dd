"""Wide ResNets, as published (arXiv 1605.07146) and in a benchmark's variant.

The corrective unlearning benchmark (arXiv 2402.14015) has its own variant. It
differs from the published network in that

* its convolutions have biases, initialised with zeros, and PyTorch's default
  weights;
* the second convolution of a block has the stride, not the first;
* a shortcut starts from the block's input, not from its normalised and
  rectified form, and a convolution there is followed by BatchNorm;
* nothing is between the last block and the mean.
"""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
from jax import numpy as jnp

from cmu_jax.core import errors
from cmu_jax.networks import classifier, conv, layers
from cmu_jax.networks.layers import Features, Images, Maps

_STEM = 16


class Block(nn.Module):
  """BatchNorm, ReLU and a 3x3 convolution, twice, with a shortcut.

  Attributes:
    features: output channels.
    stride: of the block.
    project: True where the shortcut is a 1x1 convolution.
    corrective: True for the benchmark's variant.
  """

  features: int
  stride: int
  project: bool
  corrective: bool
  layer: Callable[..., layers.Conv]

  def setup(self) -> None:
    # A later stride costs more, but the benchmark's results are for it.
    strides = (1, self.stride) if self.corrective else (self.stride, 1)
    self.norm1 = layers.BatchNorm()
    self.conv1 = self.layer(self.features, stride=strides[0])
    self.norm2 = layers.BatchNorm()
    self.conv2 = self.layer(self.features, stride=strides[1])
    if self.project:
      self.shortcut = self.layer(self.features, size=1, stride=self.stride)
      if self.corrective:
        self.shortcut_norm = layers.BatchNorm()

  def __call__(self, x: Images, train: bool) -> Maps:
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
    blocks_per_stage: number of blocks.
    width: factor on the 16, 32 and 64 channels of the stages.
    corrective: True for the benchmark's variant.
  """

  blocks_per_stage: int
  width: int
  corrective: bool
  layer: Callable[..., layers.Conv]

  def setup(self) -> None:
    self.conv1 = self.layer(_STEM)
    self.blocks = [
      Block(
        _STEM * 2**stage * self.width,
        2 if stage and not index else 1,
        # At width 1 the stem already has the channels of the first stage.
        index == 0 and (stage > 0 or self.width > 1),
        self.corrective,
        self.layer,
        name=f'stage{stage + 1}_block{index + 1}',
      )
      for stage in range(3)
      for index in range(self.blocks_per_stage)
    ]
    # Pre-activation blocks end without a norm: the published network has one
    # before the mean.
    if not self.corrective:
      self.norm = layers.BatchNorm()

  def stem(self, image: Images) -> Maps:
    """The first convolution, with a bias in the benchmark's variant."""
    return self.conv1(image)

  def trunk(self, x: Images, train: bool) -> Features:
    for block in self.blocks:
      x = block(x, train)
    if not self.corrective:
      x = nn.relu(self.norm(x, train))
    return jnp.mean(x, (1, 2), dtype=jnp.float32)


def factory(corrective: bool) -> Callable[..., classifier.Classifier]:
  """The factory of Wide ResNets, without dropout.

  Its options are `depth`, 6 m + 4 where a stage has m blocks, and `width`, a
  factor on the 16, 32 and 64 channels of the stages.

  Args:
    corrective: True for the benchmark's variant, arXiv 2402.14015. WRN-28-10
      has 36,547,940 parameters with it for RGB images and 100 classes, and
      36,536,884 without; with 10 classes 36,479,194 without.
  """
  name = 'wrn_corrective' if corrective else 'wrn'
  options: dict[str, Any] = (
    {'bias_init': nn.initializers.zeros}
    if corrective
    else {'kernel_init': layers.kaiming_fan_out}
  )

  def make(
    num_classes: int,
    image_shape: tuple[int, int, int],
    *,
    depth: int = 28,
    width: int = 10,
    dtype: str = 'float32',
    convolve: Callable = conv.convolve,
  ) -> classifier.Classifier:
    del image_shape
    layer = layers.convolution(dtype, convolve, **options)
    body = Body(_blocks_per_stage(name, depth, width), width, corrective, layer)
    return classifier.Classifier(
      body, num_classes, dense=layers.dense_zero_bias
    )

  return make


def layer_modules(
  corrective: bool, *, depth: int = 28, width: int = 10, **options: Any
) -> tuple[tuple[str, ...], ...]:
  """The modules of each layer, from first to last.

  Args:
    corrective: True for the benchmark's variant.
    depth: of the network.
    width: of the network.
    **options: other options of the network, without effect here.
  """
  del options
  modules: list[tuple[str, ...]] = [('body/conv1',)]
  shortcut = ('shortcut', 'shortcut_norm') if corrective else ('shortcut',)
  for stage in range(3):
    for index in range(_blocks_per_stage('wrn', depth, width)):
      # A block is two layers. A shortcut is trained with the first of them, as
      # both read the block's input.
      project = index == 0 and (stage > 0 or width > 1)
      names = ('norm1', 'conv1', *(shortcut if project else ()))
      block = f'body/stage{stage + 1}_block{index + 1}'
      modules.append(tuple(f'{block}/{name}' for name in names))
      modules.append((f'{block}/norm2', f'{block}/conv2'))
  # The norm after the last block, which only the published network has, is
  # trained with the head.
  return (*modules, ('head',) if corrective else ('body/norm', 'head'))


def torch_name(module: str) -> str:
  """Renames 'body/stage2_block1/norm2' to the usual 'block2.layer.0.bn2'."""
  outer = {'head': 'fc', 'body/norm': 'bn1'}
  return outer.get(module) or layers.torch_path(
    module, 'block{stage}.layer.{index}', {'shortcut': 'convShortcut'}
  )


def torch_name_corrective(module: str) -> str:
  """Renames 'body/stage2_block1/norm2' to the benchmark's 'layer2.0.bn2'."""
  if module == 'head':
    return 'fc'
  renamed = {'shortcut': 'shortcut.0', 'shortcut_norm': 'shortcut.1'}
  return layers.torch_path(module, 'layer{stage}.{index}', renamed)


def _blocks_per_stage(name: str, depth: int, width: int) -> int:
  """The number of blocks; UserError for an impossible depth or width."""
  errors.check(
    depth >= 10 and depth % 6 == 4,
    f'{name}: depth {depth} must be 6 m + 4, for example 16, 28 or 40',
  )
  errors.check(width >= 1, f'{name}: width {width} must be 1 or more')
  return (depth - 4) // 6
