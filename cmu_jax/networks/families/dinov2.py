"""DINOv2's vision transformers (arXiv 2304.07193) in HF's layout.

With `registers` they are those of arXiv 2309.16588. Pictures may have any size:
position embeddings are interpolated to their patches, as in HF.
"""

import os
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn
from jax import numpy as jnp
from jaxtyping import Array, Float

from cmu_jax.core import errors, files
from cmu_jax.networks import classifier, layers
from cmu_jax.networks.families import vit
from cmu_jax.networks.layers import Images, Tokens

# PyTorch's bicubic kernel has -0.75; with antialiasing, as Pillow's, -0.5.
_SHARP, _SMOOTH = -0.75, -0.5
_TORCH_BLOCK = {
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
_TORCH = {
  'cls_token': 'embeddings.cls_token',
  'position_embeddings': 'embeddings.position_embeddings',
  'register_tokens': 'embeddings.register_tokens',
  'projection': 'embeddings.patch_embeddings.projection',
  'layernorm': 'layernorm',
}
_MODEL_TYPES = ('dinov2', 'dinov2_with_registers')
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


class Sizes(NamedTuple):
  """The options of `dinov2`; the defaults are those of ViT-B/14.

  Attributes:
    patch: side of a patch in pixels.
    width: of a token.
    depth: transformer blocks.
    heads: attention heads; they divide the width.
    ratio: inner width of a perceptron divided by that of a token.
    gated: True for SwiGLUs, of two thirds of that inner width.
    registers: register tokens, after the class token and without a position.
    side: of the pictures that position embeddings are stored for, in pixels.
  """

  patch: int = 14
  width: int = 768
  depth: int = 12
  heads: int = 12
  ratio: int | float = 4
  gated: bool = False
  registers: int = 0
  # The published weights were last trained on pictures of this size.
  side: int = 518


class Block(nn.Module):
  """Attention and perceptron after a LayerNorm each, each scaled.

  Attributes:
    sizes: of the network.
    dtype: of the products; LayerNorm and softmax are float32.
  """

  sizes: Sizes
  dtype: Any

  @nn.compact
  def __call__(self, x: Tokens) -> Tokens:
    width = self.sizes.width

    def dense(features: int, name: str) -> nn.Dense:
      init = nn.initializers.truncated_normal(0.02)
      return nn.Dense(features, dtype=self.dtype, kernel_init=init, name=name)

    def scale(name: str, y: Tokens) -> Tokens:
      factor = self.param(name, nn.initializers.ones, (width,), jnp.float32)
      return y * factor.astype(y.dtype)[None, None, :]

    y = vit.layer_norm('norm1')(x)
    # HF stores three matrices where torchvision stores one.
    qkv = [dense(width, name)(y) for name in ('query', 'key', 'value')]
    y = vit.attention(jnp.concatenate(qkv, -1), self.sizes.heads)
    x = x + scale('scale1', dense(width, 'out')(y))
    y, inner = vit.layer_norm('norm2')(x), int(width * self.sizes.ratio)
    if self.sizes.gated:
      # Two thirds keep the parameter count of the ungated perceptron; HF
      # rounds them up to a multiple of 8.
      inner = (int(inner * 2 / 3) + 7) // 8 * 8
      gate, value = jnp.split(dense(2 * inner, 'weights_in')(y), 2, -1)
      y = dense(width, 'weights_out')(nn.silu(gate) * value)
    else:
      y = nn.gelu(dense(inner, 'fc1')(y), approximate=False)
      y = dense(width, 'fc2')(y)
    return x + scale('scale2', y)


class Body(layers.StemTrunk):
  """Patches, tokens, positions, blocks; features are token and mean patch.

  Attributes:
    grid: rows and columns of patches in a picture.
    sizes: of the network.
    dtype: of the products.
  """

  grid: tuple[int, int]
  sizes: Sizes
  dtype: Any

  def setup(self) -> None:
    sizes = self.sizes
    self.projection = vit.Patches(sizes.width, sizes.patch, self.dtype)
    normal = nn.initializers.truncated_normal(0.02)
    count = (sizes.side // sizes.patch) ** 2 + 1
    self.cls_token = self.param(
      'cls_token', normal, (1, 1, sizes.width), jnp.float32
    )
    self.position_embeddings = self.param(
      'position_embeddings', normal, (1, count, sizes.width), jnp.float32
    )
    if sizes.registers:
      self.register_tokens = self.param(
        'register_tokens',
        normal,
        (1, sizes.registers, sizes.width),
        jnp.float32,
      )
    self.blocks = [
      Block(sizes, self.dtype, name=f'layer_{index}')
      for index in range(sizes.depth)
    ]
    self.layernorm = vit.layer_norm('layernorm')

  def stem(self, image: Images) -> Tokens:
    """The projection of the patches with its bias."""
    return self.projection(image)

  def tokens(self, x: Tokens) -> Float[Array, 'n t2 d']:
    """Computes the normalised tokens: class, registers, patches."""
    positions = self.position_embeddings[0].astype(x.dtype)
    # HF antialiases for networks with registers and for no others.
    smooth = self.sizes.registers > 0
    x = x + interpolate(positions[1:], self.grid, smooth)[None]
    special = [self.cls_token.astype(x.dtype) + positions[:1][None]]
    if self.sizes.registers:
      special.append(self.register_tokens.astype(x.dtype))
    prefix = jnp.concatenate(special, 1)
    prefix = jnp.broadcast_to(prefix, (len(x), *prefix.shape[1:]))
    x = jnp.concatenate([prefix, x], 1)
    for block in self.blocks:
      x = block(x)
    return self.layernorm(x)

  def trunk(self, x: Tokens, train: bool) -> Float[Array, 'n e']:
    """Computes the class token and the mean patch, side by side."""
    del train
    x = self.tokens(x)
    patches = x[:, 1 + self.sizes.registers :].mean(1)
    return jnp.concatenate([x[:, 0], patches], -1)


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
) -> Float[np.ndarray, 'new old']:
  """Weights of bicubic interpolation along one axis.

  They are those of torch.nn.functional.interpolate(mode='bicubic',
  align_corners=False).

  Args:
    old: number of points to interpolate.
    new: number of points of the result.
    antialias: True for a kernel that widens where points become fewer.
  """
  center = (np.arange(new) + 0.5) * old / new - 0.5
  if antialias:
    # Points outside the axis are left out, so that rows are normalised.
    wide = max(old / new, 1.0)
    offset = (np.arange(old)[None] - center[:, None]) / wide
    weight = _cubic_kernel(offset, _SMOOTH)
    return weight / weight.sum(1, keepdims=True)
  matrix = np.zeros((new, old))
  start = np.floor(center).astype(int)
  for step in (-1, 0, 1, 2):
    # Without antialiasing the nearest point replaces those outside the axis.
    column = np.clip(start + step, 0, old - 1)
    weight = _cubic_kernel(start + step - center, _SHARP)
    np.add.at(matrix, (np.arange(new), column), weight)
  return matrix


def interpolate(
  table: Float[Array, 't d'], grid: tuple[int, int], antialias: bool
) -> Float[Array, 'u d']:
  """Resizes the position embeddings of a square grid, row by row.

  Args:
    table: embeddings of a square grid of patches.
    grid: rows and columns of the result.
    antialias: see `interpolation_matrix`.
  """
  side = round(table.shape[0] ** 0.5)
  if grid == (side, side):
    return table
  down, across = (
    jnp.asarray(interpolation_matrix(side, count, antialias), table.dtype)
    for count in grid
  )
  square = table.reshape(side, side, -1)
  resized = jnp.einsum('hi,wj,ijd->hwd', down, across, square)
  return resized.reshape(grid[0] * grid[1], -1)


def dinov2(
  num_classes: int,
  image_shape: tuple[int, int, int],
  *,
  dtype: str = 'float32',
  **options: Any,
) -> classifier.Classifier:
  """A DINOv2 with a linear head on class token and mean patch.

  ViT-B/14 has 86,579,712 parameters below the head. The mask token of its files
  is left out, because only its training needs it.

  Args:
    **options: the fields of `Sizes`.
  """
  sizes = Sizes(**options)
  vit.check_sizes(
    'dinov2',
    {n: getattr(sizes, n) for n in ('patch', 'width', 'depth', 'heads')},
  )
  height, breadth, _ = image_shape
  errors.check(
    min(height, breadth, sizes.side) >= sizes.patch,
    f'dinov2: patches of {sizes.patch} pixels are larger than pictures of '
    f'{height}x{breadth} or than side {sizes.side}; correct one of them',
  )
  grid = (height // sizes.patch, breadth // sizes.patch)
  body = Body(grid, sizes, jnp.dtype(dtype))
  return classifier.Classifier(body, num_classes)


def read_options(path: os.PathLike | str) -> dict[str, Any]:
  """Reads the options of `dinov2` from a config.json.

  Raises:
    UserError: the config of another network, or of another activation or
      LayerNorm.
  """
  stored = files.read_json(path)
  model_type = stored.get('model_type') if isinstance(stored, dict) else None
  errors.check(
    model_type in _MODEL_TYPES,
    f'{path} is no config of a DINOv2; take the config.json that belongs to '
    'the weights',
  )
  # HF leaves out of a config.json the values that equal its defaults.
  for name, usual in (('hidden_act', 'gelu'), ('layer_norm_eps', 1e-6)):
    errors.check(
      stored.get(name, usual) == usual,
      f'{path}: {name} is {stored.get(name)!r}; only {usual!r} is known here',
    )
  errors.check(
    stored.get('qkv_bias', True),
    f'{path}: qkv_bias is false; only queries with a bias are known here',
  )
  options = {
    option: stored.get(name, usual) for option, (name, usual) in _CONFIG.items()
  }
  if model_type == 'dinov2_with_registers' and 'num_register_tokens' not in (
    stored
  ):
    options['registers'] = 4
  for option, value in options.items():
    errors.check(
      isinstance(value, int | float),
      f'{path}: {_CONFIG[option][0]} is {value!r}; only a number is known here',
    )
  return options


def torch_name(module: str) -> str:
  """Renames 'body/layer_3/fc2' to HF's 'encoder.layer.3.mlp.fc2'.

  Leaves that are no kernel, scale or bias are given by their full path.
  """
  # Classifiers have the model below `dinov2.` or `dinov2_with_registers.`,
  # prefixes that `weights.fit` tries.
  if module == 'head':
    return 'classifier'
  _, outer, *inner = module.split('/')
  if not inner:
    return _TORCH[outer]
  layer = outer.removeprefix('layer_')
  return f'encoder.layer.{layer}.{_TORCH_BLOCK[inner[0]]}'
