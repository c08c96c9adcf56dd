"""Vision transformers (arXiv 2010.11929) in torchvision's layout."""

import functools
from typing import Any

import jax
from flax import linen as nn
from jax import numpy as jnp
from jaxtyping import Array, Float

from cmu_jax.core import errors
from cmu_jax.networks import classifier, layers
from cmu_jax.networks.layers import Features, Images, Tokens

# PyTorch joins the queries' name with its leaf by '_', not by a dot:
# self_attention.in_proj_weight.
_TORCH_BLOCK = {
  'ln_1': 'ln_1',
  'in_proj': 'self_attention.in_proj_',
  'out_proj': 'self_attention.out_proj',
  'ln_2': 'ln_2',
  'mlp_1': 'mlp.0',
  'mlp_2': 'mlp.3',
}
_TORCH = {
  'head': 'heads.head',
  'body/class_token': 'class_token',
  'body/pos_embedding': 'encoder.pos_embedding',
  'body/conv_proj': 'conv_proj',
  'body/ln': 'encoder.ln',
}


class Patches(nn.Module):
  """A convolution whose stride is its size, as one matrix product.

  Pixels of an incomplete patch at the right and at the bottom are cut off.

  Attributes:
    features: output channels.
    size: side of a patch.
    dtype: of the computation.
    kernel_init: initialiser of the kernel.
    use_bias: False for a layer without bias.
  """

  features: int
  size: int
  dtype: Any
  # torchvision initialises this layer with LeCun's variance, truncated.
  kernel_init: layers.Initializer = nn.initializers.lecun_normal()
  use_bias: bool = True

  @nn.compact
  def __call__(self, image: Images) -> Tokens:
    p, (n, _, _, c) = self.size, image.shape
    h, w = (side // p * p for side in image.shape[1:3])
    shape = (p, p, c, self.features)
    kernel = self.param('kernel', self.kernel_init, shape, jnp.float32)
    cut = (
      image[:, :h, :w].astype(self.dtype).reshape(n, h // p, p, w // p, p, c)
    )
    rows = jnp.transpose(cut, (0, 1, 3, 2, 4, 5)).reshape(n, -1, p * p * c)
    y = rows @ kernel.reshape(p * p * c, -1).astype(self.dtype)
    if not self.use_bias:
      return y
    bias = self.param(
      'bias', nn.initializers.zeros, (self.features,), jnp.float32
    )
    return y + bias.astype(self.dtype)[None, None, :]


class Block(nn.Module):
  """Self-attention and a two-layer perceptron, each after a LayerNorm.

  Attributes:
    heads: attention heads; they divide the width.
    dtype: of the products; LayerNorm and softmax are float32.
  """

  heads: int
  dtype: Any

  @nn.compact
  def __call__(self, x: Tokens) -> Tokens:
    width = x.shape[-1]
    glorot = nn.initializers.glorot_uniform

    def dense(features: int, name: str, init: Any) -> nn.Dense:
      # torchvision starts these biases near zero, not at zero.
      bias = nn.initializers.normal(1e-6)
      return nn.Dense(
        features, dtype=self.dtype, kernel_init=init, bias_init=bias, name=name
      )

    y = dense(3 * width, 'in_proj', glorot())(layer_norm('ln_1')(x))
    y = attention(y, self.heads)
    x = x + dense(width, 'out_proj', glorot())(y)
    y = dense(4 * width, 'mlp_1', glorot())(layer_norm('ln_2')(x))
    # PyTorch's GELU is exact; that of Flax is an approximation by default.
    y = nn.gelu(y, approximate=False)
    return x + dense(width, 'mlp_2', glorot())(y)


def layer_norm(name: str) -> nn.LayerNorm:
  """LayerNorm with the epsilon of torchvision's transformers, in float32."""
  # Flax's fast variance, a difference of squares, loses digits.
  return nn.LayerNorm(
    1e-6, dtype=jnp.float32, use_fast_variance=False, name=name
  )


def attention(qkv: Float[Array, 'n t e'], heads: int) -> Tokens:
  """softmax(q k^T / sqrt(d / heads)) v, head by head.

  Args:
    qkv: queries, keys and values side by side; e is 3 d.
    heads: number of pieces that d is cut into.
  """
  n, t, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
  q, k, v = jnp.split(qkv.reshape(n, t, 3 * heads, width // heads), 3, 2)
  # In bfloat16 the exponentials of the softmax would keep two digits.
  score = jnp.einsum('nqhd,nkhd->nhqk', q, k).astype(jnp.float32)
  weight = jax.nn.softmax(score * (width // heads) ** -0.5)
  mixed = jnp.einsum('nhqk,nkhd->nqhd', weight.astype(v.dtype), v)
  return mixed.reshape(n, t, width)


class Body(layers.StemTrunk):
  """Patches, a class token, positions, blocks; the token is the feature.

  Attributes:
    patch: side of a patch.
    tokens: patches of an image.
    width: of a token.
    depth: blocks.
    heads: attention heads.
    dtype: of the products.
  """

  patch: int
  tokens: int
  width: int
  depth: int
  heads: int
  dtype: Any

  def setup(self) -> None:
    self.conv_proj = Patches(self.width, self.patch, self.dtype)
    shape = (1, 1, self.width)
    self.class_token = self.param(
      'class_token', nn.initializers.zeros, shape, jnp.float32
    )
    self.pos_embedding = self.param(
      'pos_embedding',
      nn.initializers.normal(0.02),
      (1, self.tokens + 1, self.width),
      jnp.float32,
    )
    self.blocks = [
      Block(self.heads, self.dtype, name=f'layer_{index}')
      for index in range(self.depth)
    ]
    self.ln = layer_norm('ln')

  def stem(self, image: Images) -> Tokens:
    """The projection of the patches with its bias."""
    return self.conv_proj(image)

  def trunk(self, x: Tokens, train: bool) -> Features:
    """Computes the normalised class token from the projected patches."""
    del train
    token = jnp.broadcast_to(self.class_token, (len(x), 1, self.width))
    x = jnp.concatenate([token.astype(x.dtype), x], 1)
    x = x + self.pos_embedding.astype(x.dtype)
    for block in self.blocks:
      x = block(x)
    # LayerNorm works token by token, and only the class token is read.
    return self.ln(x[:, 0])


def vit(
  num_classes: int,
  image_shape: tuple[int, int, int],
  *,
  patch: int = 16,
  width: int = 768,
  depth: int = 12,
  heads: int = 12,
  dtype: str = 'float32',
) -> classifier.Classifier:
  """A vision transformer without dropout; the defaults are those of B/16.

  For 224x224 RGB images and 1000 classes B/16 has 86,567,656 parameters, S/16
  has 22,050,664 and `vit_tiny` with patch 16 has 5,717,416.

  Args:
    patch: side of a patch in pixels; patches must fill the image.
    width: of a token.
    depth: transformer blocks.
    heads: attention heads; they divide the width.
  """
  sizes = {'patch': patch, 'width': width, 'depth': depth, 'heads': heads}
  check_sizes('vit', sizes)
  height, breadth, _ = image_shape
  errors.check(
    height % patch == 0 and breadth % patch == 0,
    f'vit: patches of {patch}x{patch} do not fill images of '
    f'{height}x{breadth}; set patch to a divisor, or resize the images',
  )
  tokens = (height // patch) * (breadth // patch)
  body = Body(patch, tokens, width, depth, heads, jnp.dtype(dtype))
  return classifier.Classifier(body, num_classes)


def check_sizes(name: str, sizes: dict[str, int]) -> None:
  """Refuses sizes below 1, and heads that do not divide the width."""
  for size, value in sizes.items():
    errors.check(
      value >= 1, f'{name}: {size} {value} is below 1; use 1 or more'
    )
  errors.check(
    sizes['width'] % sizes['heads'] == 0,
    f'{name}: {sizes["heads"]} heads do not divide width {sizes["width"]}; set '
    'heads to a divisor',
  )


vit_b_16 = vit
vit_s_16 = functools.partial(vit, width=384, heads=6)
# DeiT's tiny width (arXiv 2012.12877), with patches for images of 32x32.
vit_tiny = functools.partial(vit, patch=4, width=192, heads=3)


def torch_name(module: str) -> str:
  """Renames 'body/ln' to torchvision's 'encoder.ln'.

  A name that ends in '_' is joined with the leaf's name without a dot. Leaves
  that are no layer, such as 'body/class_token', are given by their full path.
  """
  if module in _TORCH:
    return _TORCH[module]
  _, layer, inner = module.split('/')
  return f'encoder.layers.encoder_{layer}.{_TORCH_BLOCK[inner]}'
