"""ResNets (arXiv 1512.03385): torchvision's, and those for 32x32 images.

ResNet-18, -34 and -50 have torchvision's layout and initialisation: the stride
of a bottleneck block is that of its 3x3 convolution. ResNet-20, -32, -44 and
-56 are those of the paper's section 4.2: three stages of n blocks, depth
6 n + 2, and shortcuts without parameters (option A).
"""

from collections.abc import Callable

from flax import linen as nn
from jax import numpy as jnp

from cmu_jax.core import errors
from cmu_jax.networks import classifier, conv, layers
from cmu_jax.networks.layers import Features, Images, Maps

_STEMS = ('cifar', 'imagenet')
_STAGE_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
_BOTTLENECK = (50,)
_EXPANSION = 4
_TORCH = {'shortcut': 'downsample.0', 'shortcut_norm': 'downsample.1'}


class Block(nn.Module):
  """Convolutions with a shortcut.

  These are two 3x3 convolutions, or as a bottleneck 1x1, 3x3 and 1x1 with four
  times the channels.

  Attributes:
    features: channels of the 3x3 convolutions.
    stride: of the first 3x3 convolution and of the shortcut.
    bottleneck: True for the bottleneck.
    shortcut_kind: 'identity', 'projection' (a 1x1 convolution with BatchNorm),
      or 'padding' (every stride-th pixel, channels padded with zeros).
    norm: 'batch', or 'none' for no BatchNorm.
    halve: True to halve the sum of the two branches.
  """

  features: int
  stride: int
  bottleneck: bool
  shortcut_kind: str
  layer: Callable[..., layers.Conv]
  norm: str = 'batch'
  halve: bool = False

  def setup(self) -> None:
    thin, stride = self.features, self.stride
    plan = [(thin, 3, stride), (thin, 3, 1)]
    if self.bottleneck:
      # The paper strides the first 1x1 convolution; torchvision the 3x3.
      plan = [(thin, 1, 1), (thin, 3, stride), (thin * _EXPANSION, 1, 1)]
    self.convs = [
      self.layer(*shape, name=f'conv{i}') for i, shape in enumerate(plan, 1)
    ]
    # BatchNorm would cancel a bias, so that convolutions have none.
    norm = layers.NORMS[self.norm]
    self.norms = [norm(name=f'norm{i}') for i in range(1, len(plan) + 1)]
    if self.shortcut_kind == 'projection':
      self.shortcut = self.layer(plan[-1][0], 1, stride)
      self.shortcut_norm = norm()

  def __call__(self, x: Images, train: bool) -> Maps:
    y = x
    for layer, norm in zip(self.convs[:-1], self.norms[:-1], strict=True):
      y = nn.relu(norm(layer(y), train))
    y = self.norms[-1](self.convs[-1](y), train)
    if self.shortcut_kind == 'projection':
      x = self.shortcut_norm(self.shortcut(x), train)
    elif self.shortcut_kind == 'padding':
      missing = (self.features - x.shape[-1]) // 2
      thinned = x[:, :: self.stride, :: self.stride, :]
      x = jnp.pad(thinned, ((0, 0), (0, 0), (0, 0), (missing, missing)))
    return nn.relu((x + y) / 2 if self.halve else x + y)


class Body(layers.StemTrunk):
  """The stem, stages of blocks, and the mean over the image.

  Attributes:
    stage_blocks: number of blocks of each stage.
    width: channels of the stem and of the first stage; each stage doubles them.
    stem_kind: 'cifar' (3x3) or 'imagenet' (7x7 with stride 2, max-pooling).
    bottleneck: True for bottleneck blocks.
    pad_shortcuts: True for shortcuts without parameters.
    norm: 'batch', or 'none' for no BatchNorm.
    halve_projections: see `factory`.
  """

  stage_blocks: tuple[int, ...]
  width: int
  stem_kind: str
  layer: Callable[..., layers.Conv]
  bottleneck: bool = False
  pad_shortcuts: bool = False
  norm: str = 'batch'
  halve_projections: bool = False

  def setup(self) -> None:
    size, stride = (3, 1) if self.stem_kind == 'cifar' else (7, 2)
    self.conv1 = self.layer(self.width, size, stride)
    self.norm1 = layers.NORMS[self.norm]()
    self.blocks = [
      self._block(stage, index)
      for stage, count in enumerate(self.stage_blocks)
      for index in range(count)
    ]

  def _block(self, stage: int, index: int) -> Block:
    # A bottleneck widens its input fourfold, so that even the first stage
    # starts with a projection.
    changes_shape = index == 0 and (self.bottleneck or stage > 0)
    shortcut = 'padding' if self.pad_shortcuts else 'projection'
    return Block(
      self.width * 2**stage,
      2 if stage and not index else 1,
      self.bottleneck,
      shortcut if changes_shape else 'identity',
      self.layer,
      self.norm,
      changes_shape and self.halve_projections,
      name=f'stage{stage + 1}_block{index + 1}',
    )

  def stem(self, image: Images) -> Maps:
    return self.conv1(image)

  def trunk(self, x: Images, train: bool) -> Features:
    # A 32x32 image pooled at once would leave the last stage a single pixel.
    x = nn.relu(self.norm1(x, train))
    if self.stem_kind == 'imagenet':
      x = layers.max_pool3(x)
    for block in self.blocks:
      x = block(x, train)
    return jnp.mean(x, (1, 2), dtype=jnp.float32)


def factory(depth: int) -> Callable[..., classifier.Classifier]:
  """The factory of one of torchvision's depths.

  Its options are `width`, the channels of the stem, and

  * `stem`: 'cifar' for images of about 32x32, 'imagenet' for larger images;
  * `norm`: 'batch', or 'none' for a network without BatchNorm;
  * `halve_projections`: True to halve the sum of both branches of blocks with
    a projection.

  It raises a UserError for an unknown stem or norm.

  Args:
    depth: 18, 34 or 50. For RGB images, 10 classes and width 64 they have
      11,173,962, 21,282,122 and 23,520,842 parameters with the 'cifar' stem;
      the 'imagenet' stem has 7,680 more.
  """

  # Two branches of norm 1 add up to a block of norm 2. Halved, their sum keeps
  # the Lipschitz constant of a block of clipped convolutions at 1.
  def make(
    num_classes: int,
    image_shape: tuple[int, int, int],
    *,
    width: int = 64,
    stem: str = 'cifar',
    dtype: str = 'float32',
    convolve: Callable = conv.convolve,
    norm: str = 'batch',
    halve_projections: bool = False,
  ) -> classifier.Classifier:
    del image_shape
    if stem not in _STEMS:
      raise errors.unknown_name(f'stem of model resnet{depth}', stem, _STEMS)
    if norm not in layers.NORMS:
      raise errors.unknown_name(
        f'norm of model resnet{depth}', norm, layers.NORMS
      )
    body = Body(
      _STAGE_BLOCKS[depth],
      width,
      stem,
      layers.convolution(dtype, convolve, kernel_init=layers.kaiming_fan_out),
      bottleneck=depth in _BOTTLENECK,
      norm=norm,
      halve_projections=halve_projections,
    )
    return classifier.Classifier(body, num_classes)

  return make


def cifar_factory(depth: int) -> Callable[..., classifier.Classifier]:
  """The factory of a depth 6 n + 2, for 32x32 images.

  Args:
    depth: 20, 32, 44 or 56; with 10 classes and width 16 they have 269,722,
      464,154, 658,586 and 853,018 parameters.
  """

  def make(
    num_classes: int,
    image_shape: tuple[int, int, int],
    *,
    width: int = 16,
    dtype: str = 'float32',
    convolve: Callable = conv.convolve,
  ) -> classifier.Classifier:
    del image_shape
    # Half of the missing channels are padded on each side.
    errors.check(
      width >= 2 and width % 2 == 0,
      f'resnet{depth}: width {width} must be even, for the padded shortcut',
    )
    layer = layers.convolution(
      dtype, convolve, kernel_init=layers.kaiming_fan_out
    )
    stages = ((depth - 2) // 6,) * 3
    body = Body(stages, width, 'cifar', layer, pad_shortcuts=True)
    return classifier.Classifier(body, num_classes)

  return make


def torch_name(module: str) -> str:
  """Renames 'body/stage2_block1/norm2' to torchvision's 'layer2.0.bn2'."""
  if module == 'head':
    return 'fc'
  return layers.torch_path(module, 'layer{stage}.{index}', _TORCH)


def cifar_torch_name(module: str) -> str:
  """Renames 'head' to 'linear', and blocks as `torch_name` does."""
  # The usual CIFAR implementations name the blocks as torchvision does, but
  # not the head.
  return 'linear' if module == 'head' else torch_name(module)
