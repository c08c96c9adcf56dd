"""Position embeddings of a grid of patches for a grid of another size.

DINOv2's vision transformers (arXiv 2304.07193) in HF's layout.

With `registers` those of arXiv 2309.16588. Pictures may have any size: position
embeddings are interpolated to their patches, as in HF.
"""

import os
from typing import Any

import numpy as np
from flax import linen as nn
from jax import numpy as jnp
from jaxtyping import Array, Float

from cmu_jax.core import errors, files
from cmu_jax.networks import classifier, layers
from cmu_jax.networks.families import vit

# PyTorch's bicubic kernel has -0.75; with antialiasing, as Pillow's, -0.5.
_SHARP, _SMOOTH = -0.75, -0.5


def _cubic_kernel(
  x: Float[np.ndarray, '*b'], a: float
) -> Float[np.ndarray, '*b']:
  """Keys' kernel of support 2 (IEEE ASSP 29(6), 1981, equation 4)."""
  x = np.abs(x)
  near = ((a + 2) * x - (a + 3)) * x * x + 1
  far = (((x - 5) * x + 8) * x - 4) * a
  return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def interpolation_matrix(
  old: int, new: int, antialias: bool
) -> Float[np.ndarray, 'm n']:
  """What each of `new` points along an axis takes from each of `old` ones.

  As torch.nn.functional.interpolate(mode='bicubic', align_corners=False). With
  antialiasing the kernel is as wide as the old points are dense, and what lies
  outside is left out; without, it is that of the nearest point.

  Args:
    old: points there are.
    new: points that are wanted.
    antialias: whether the kernel grows where points become fewer.
  """
  centre = (np.arange(new) + 0.5) * old / new - 0.5
  if antialias:
    wide = max(old / new, 1.0)
    weight = _cubic_kernel(
      (np.arange(old)[None] - centre[:, None]) / wide, _SMOOTH
    )
    return weight / weight.sum(1, keepdims=True)
  first = np.floor(centre).astype(int)
  found = np.zeros((new, old))
  for step in (-1, 0, 1, 2):
    place = np.clip(first + step, 0, old - 1)
    weight = _cubic_kernel(first + step - centre, _SHARP)
    np.add.at(found, (np.arange(new), place), weight)
  return found


def interpolate(
  table: Float[Array, 't d'], grid: tuple[int, int], antialias: bool
) -> Float[Array, 'u d']:
  """The embeddings of a square grid for another grid, row by row.

  Args:
    table: of a square grid of patches.
    grid: rows and columns that are wanted.
    antialias: see `rows`.
  """
  side = round(table.shape[0] ** 0.5)
  if grid == (side, side):
    return table
  down, across = (
    jnp.asarray(interpolation_matrix(side, new, antialias), table.dtype)
    for new in grid
  )
  square = table.reshape(side, side, -1)
  found = jnp.einsum('hi,wj,ijd->hwd', down, across, square)
  return found.reshape(grid[0] * grid[1], -1)


_BLOCK = {
  'norm1': 'norm1',
  'query': 'attention.attention.query',
  'key': 'attention.attention.key',
  'value': 'attention.attention.value',
  'out': 'attention.output.dense',
  'scale1': 'layer_scale1.lambda1',
  'norm2': 'norm2',
  'fc1': 'mlp.fc1',
  'fc2': 'mlp.fc2',
  'weights_in': 'mlp.weights_in',
  'weights_out': 'mlp.weights_out',
  'scale2': 'layer_scale2.lambda1',
}
_OUTER = {
  'cls_token': 'embeddings.cls_token',
  'position_embeddings': 'embeddings.position_embeddings',
  'register_tokens': 'embeddings.register_tokens',
  'projection': 'embeddings.patch_embeddings.projection',
  'layernorm': 'layernorm',
}
_TYPES = ('dinov2', 'dinov2_with_registers')
# Options here, their names in a config.json and HF's defaults.
_CONFIG: dict[str, tuple[str, Any]] = {
  'patch': ('patch_size', 14),
  'width': ('hidden_size', 768),
  'depth': ('num_hidden_layers', 12),
  'heads': ('num_attention_heads', 12),
  'ratio': ('mlp_ratio', 4),
  'gated': ('use_swiglu_ffn', False),
  'registers': ('num_register_tokens', 0),
  'side': ('image_size', 224),
}


class Block(nn.Module):
  """Attention and perceptron after a LayerNorm each, each scaled.

  Attributes:
    heads: attention heads; they divide the width.
    ratio: inner width of the perceptron by that of a token.
    gated: whether the perceptron is a SwiGLU, of two thirds of that width.
    dtype: what the products are computed in; LayerNorm and softmax are float32.
  """

  heads: int
  ratio: int | float
  gated: bool
  dtype: Any

  @nn.compact
  def __call__(self, x: Float[Array, 'n t d']) -> Float[Array, 'n t d']:
    width = x.shape[-1]

    def dense(features: int, name: str) -> nn.Dense:
      init = nn.initializers.truncated_normal(0.02)
      return nn.Dense(features, dtype=self.dtype, kernel_init=init, name=name)

    def scaled(name: str, y: Float[Array, 'n t d']) -> Float[Array, 'n t d']:
      by = self.param(name, nn.initializers.ones, (width,))
      return y * by.astype(y.dtype)[None, None, :]

    y = vit.layer_norm('norm1')(x)
    qkv = [dense(width, name)(y) for name in ('query', 'key', 'value')]
    y = vit.attention(jnp.concatenate(qkv, -1), self.heads)
    x = x + scaled('scale1', dense(width, 'out')(y))
    y, inner = vit.layer_norm('norm2')(x), int(width * self.ratio)
    if self.gated:
      inner = (int(inner * 2 / 3) + 7) // 8 * 8
      gate, value = jnp.split(dense(2 * inner, 'weights_in')(y), 2, -1)
      y = dense(width, 'weights_out')(nn.silu(gate) * value)
    else:
      y = nn.gelu(dense(inner, 'fc1')(y), approximate=False)
      y = dense(width, 'fc2')(y)
    return x + scaled('scale2', y)


class Body(layers.StemTrunk):
  """Patches, tokens, positions, blocks; features are token and mean patch.

  Attributes:
    grid: rows and columns of patches in a picture.
    table: side of the grid that position embeddings are stored for.
    patch: side of a patch.
    width: of a token.
    depth: blocks.
    registers: tokens without a place, after the class token.
    block: heads, ratio and gate of `Block`.
    dtype: what the products are computed in.
  """

  grid: tuple[int, int]
  table: int
  patch: int
  width: int
  depth: int
  registers: int
  block: tuple[int, int | float, bool]
  dtype: Any

  def setup(self) -> None:
    self.projection = vit.Patches(self.width, self.patch, self.dtype)
    normal = nn.initializers.truncated_normal(0.02)
    count = self.table**2 + 1
    self.cls_token = self.param('cls_token', normal, (1, 1, self.width))
    self.position_embeddings = self.param(
      'position_embeddings', normal, (1, count, self.width)
    )
    if self.registers:
      self.register_tokens = self.param(
        'register_tokens', normal, (1, self.registers, self.width)
      )
    self.blocks = [
      Block(*self.block, self.dtype, name=f'layer_{index}')
      for index in range(self.depth)
    ]
    self.layernorm = vit.layer_norm('layernorm')

  def stem(self, image: Float[Array, 'n h w c']) -> Float[Array, 'n t d']:
    """The projection of the patches with its bias."""
    # What is left over of a patch at the right and at the bottom is not seen.
    h, w = (count * self.patch for count in self.grid)
    return self.projection(image[:, :h, :w])

  def tokens(self, x: Float[Array, 'n t d']) -> Float[Array, 'n t2 d']:
    """From patches to normalised tokens: class, registers, patches."""
    place = self.position_embeddings[0].astype(x.dtype)
    # Those with registers were resized with antialiasing, the others without.
    smooth = self.registers > 0
    x = x + interpolate(place[1:], self.grid, smooth)[None]
    first = [self.cls_token.astype(x.dtype) + place[:1][None]]
    if self.registers:
      first.append(self.register_tokens.astype(x.dtype))
    before = jnp.concatenate(first, 1)
    before = jnp.broadcast_to(before, (len(x), *before.shape[1:]))
    x = jnp.concatenate([before, x], 1)
    for block in self.blocks:
      x = block(x)
    return self.layernorm(x)

  def trunk(self, x: Float[Array, 'n t d'], train: bool) -> Float[Array, 'n e']:
    """From patches to the class token beside the mean of the patches."""
    del train
    x = self.tokens(x)
    patches = x[:, 1 + self.registers :].mean(1)
    return jnp.concatenate([x[:, 0], patches], -1)


def dinov2(
  num_classes: int,
  image_shape: tuple[int, int, int],
  *,
  patch: int = 14,
  width: int = 768,
  depth: int = 12,
  heads: int = 12,
  ratio: int | float = 4,
  gated: bool = False,
  registers: int = 0,
  side: int = 518,
  dtype: str = 'float32',
) -> classifier.Classifier:
  """A DINOv2 with a linear head on class token and mean patch.

  The defaults are those of ViT-B/14: 86,579,712 parameters below the head, and
  the mask token of its files, which only its training needs.

  Args:
    num_classes: k.
    image_shape: (h, w, c).
    patch: side of a patch in pixels.
    width: of a token.
    depth: transformer blocks.
    heads: attention heads; they divide the width.
    ratio: inner width of a perceptron by that of a token.
    gated: SwiGLU in place of the perceptron.
    registers: register tokens.
    side: of the pictures that position embeddings are stored for, in pixels.
    dtype: 'float32' or 'bfloat16', what the products are computed in.

  Raises:
    UserError: sizes that cannot be.
  """
  sizes = {'patch': patch, 'width': width, 'depth': depth, 'heads': heads}
  for name, size in sizes.items():
    errors.check(size >= 1, f'dinov2: {name} {size} is below 1; use 1 or more')
  height, breadth, _ = image_shape
  errors.check(
    min(height, breadth, side) >= patch,
    f'dinov2: patches of {patch} pixels are larger than pictures of '
    f'{height}x{breadth} or than side {side}; correct one of them',
  )
  errors.check(
    width % heads == 0,
    f'dinov2: {heads} heads do not divide width {width}; set heads to a '
    'divisor',
  )
  body = Body(
    (height // patch, breadth // patch),
    side // patch,
    patch,
    width,
    depth,
    registers,
    (heads, ratio, gated),
    jnp.dtype(dtype),
  )
  return classifier.Classifier(body, num_classes)


def read_options(path: os.PathLike | str) -> dict[str, Any]:
  """The options of `dinov2` that a config.json says.

  Raises:
    UserError: the config of another network, or one with another activation or
      LayerNorm.
  """
  stored = files.read_json(path)
  kind = stored.get('model_type') if isinstance(stored, dict) else None
  errors.check(
    kind in _TYPES,
    f'{path} is no config of a DINOv2; take the config.json that belongs to '
    'the weights',
  )
  for name, usual in (('hidden_act', 'gelu'), ('layer_norm_eps', 1e-6)):
    errors.check(
      stored.get(name, usual) == usual,
      f'{path}: {name} is {stored.get(name)!r}; only {usual!r} is known here',
    )
  errors.check(
    stored.get('qkv_bias', True),
    f'{path}: qkv_bias is false; only queries with a bias are known here',
  )
  found = {
    option: stored.get(name, usual) for option, (name, usual) in _CONFIG.items()
  }
  if kind == 'dinov2_with_registers' and 'num_register_tokens' not in stored:
    found['registers'] = 4
  for option, value in found.items():
    errors.check(
      isinstance(value, int | float),
      f'{path}: {_CONFIG[option][0]} is {value!r}; only a number is known here',
    )
  return found


def torch_name(module: str) -> str:
  """A module's path here to its name in HF's Dinov2Model.

  Classifiers have it below `dinov2.` or `dinov2_with_registers.`, which
  `weights.fit` looks for.

  Args:
    module: for example 'body/layer_3/fc2'; the whole path of leaves that are no
      kernel, scale or bias.

  Returns:
    For example 'encoder.layer.3.mlp.fc2'; 'classifier' for the head.
  """
  if module == 'head':
    return 'classifier'
  _, outer, *inner = module.split('/')
  if not inner:
    return _OUTER[outer]
  layer = outer.removeprefix('layer_')
  return f'encoder.layer.{layer}.{_BLOCK[inner[0]]}'
