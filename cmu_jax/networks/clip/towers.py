"""CLIP and SigLIP (arXiv 2303.15343) in linen, named as in HF's Flax port.

So `flax_model.msgpack` needs no table of names, and `model.safetensors` only
that of the leaves: the misspelling `pre_layrnorm` is theirs.

SigLIP has no class token but attention from a learned probe, no causal mask, a
bias beside the temperature, and reads texts at their last token. Its texts must
be padded up to the context, as in its training.
"""

import math
from typing import Any

from flax import linen as nn
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from cmu_jax.networks.clip import blocks
from cmu_jax.networks.clip.architecture import LARGEST_TOKEN, Sizes, Tower
from cmu_jax.networks.families import vit

# Initial log temperatures: 1 / 0.07 for CLIP, whose training ends near 100, and
# 10 with a bias of -10 for SigLIP (section 3.2).
_CLIP_SCALE = math.log(1 / 0.07)
_SIGLIP_SCALE, _SIGLIP_BIAS = math.log(10), -10.0


class SizedModule(nn.Module):
  """A part of a CLIP or SigLIP.

  Attributes:
    sizes: of the network.
    dtype: of the products; parameters, LayerNorm, softmax and embeddings are
      float32.
  """

  sizes: Sizes
  dtype: Any = jnp.float32


class VisionEmbeddings(SizedModule):
  """Patches and positions; in CLIP a class token precedes them."""

  def setup(self) -> None:
    width, clip = self.sizes.vision.width, self.sizes.kind == 'clip'
    tokens = (self.sizes.image_size // self.sizes.patch) ** 2 + clip
    if clip:
      self.class_embedding = self.param(
        'class_embedding',
        nn.initializers.normal(width**-0.5),
        (width,),
        jnp.float32,
      )
    self.patch_embedding = vit.Patches(
      width,
      self.sizes.patch,
      self.dtype,
      kernel_init=nn.initializers.normal(0.02),
      use_bias=not clip,
    )
    self.position_embedding = blocks.embedding_table(
      tokens, width, self.dtype, width**-0.5
    )

  def patches(self, image: Float[Array, 'n h w c']) -> Float[Array, 'n t d']:
    """Projects the patches, row by row."""
    return self.patch_embedding(image)

  def __call__(self, x: Float[Array, 'n t d']) -> Float[Array, 'n t2 d']:
    if self.sizes.kind == 'clip':
      token = self.class_embedding.astype(x.dtype)[None, None, :]
      token = jnp.broadcast_to(token, (len(x), 1, x.shape[-1]))
      x = jnp.concatenate([token, x], 1)
    return x + self.position_embedding(jnp.arange(x.shape[1]))[None]


class Probe(nn.Module):
  """Attention of one learned query to all tokens.

  Attributes:
    tower: width and heads.
    dtype: of the products; the softmax is float32.
  """

  tower: Tower
  dtype: Any

  @nn.compact
  def __call__(
    self, probe: Float[Array, '1 1 d'], x: Float[Array, 'n t d']
  ) -> Float[Array, 'n d']:
    width, heads = self.tower.width, self.tower.heads
    # PyTorch keeps queries, keys and values in one matrix.
    project = nn.Dense(3 * width, dtype=self.dtype, name='in_proj')
    split = lambda y: y.reshape(*y.shape[:2], 3, heads, width // heads)
    q, tokens = split(project(probe))[0, 0, 0], split(project(x))
    k, v = tokens[:, :, 1], tokens[:, :, 2]
    score = jnp.einsum('he,nthe->nht', q, k).astype(jnp.float32)
    weight = nn.softmax(score * (width // heads) ** -0.5).astype(v.dtype)
    mixed = jnp.einsum('nht,nthe->nhe', weight, v).reshape(len(x), width)
    return nn.Dense(width, dtype=self.dtype, name='out_proj')(mixed)


class Pooling(nn.Module):
  """A picture's tokens as one vector: attention, then a perceptron.

  Attributes:
    tower: sizes.
    dtype: of the products.
  """

  tower: Tower
  dtype: Any

  def setup(self) -> None:
    init = nn.initializers.xavier_uniform()
    self.probe = self.param(
      'probe', init, (1, 1, self.tower.width), jnp.float32
    )
    self.attention = Probe(self.tower, self.dtype)
    self.layernorm = blocks.layer_norm(self.tower)
    self.mlp = blocks.Perceptron(self.tower, self.dtype)

  def __call__(self, x: Float[Array, 'n t d']) -> Float[Array, 'n d']:
    # No residual connection leads around this attention: it pools.
    y = self.attention(self.probe, x)[:, None]
    return (y + self.mlp(self.layernorm(y)))[:, 0].astype(jnp.float32)


class VisionModel(SizedModule):
  """The image tower: CLIP's normalised class token, or SigLIP's embedding."""

  def setup(self) -> None:
    tower = self.sizes.vision
    self.embeddings = VisionEmbeddings(self.sizes, self.dtype)
    self.encoder = blocks.Encoder(tower, False, self.dtype)
    self.post_layernorm = blocks.layer_norm(tower)
    if self.sizes.kind == 'clip':
      self.pre_layrnorm = blocks.layer_norm(tower)
    else:
      self.head = Pooling(tower, self.dtype)

  def stem(self, image: Float[Array, 'n h w c']) -> Float[Array, 'n t d']:
    """The projected patches, linear in the parameters."""
    return self.embeddings.patches(image)

  def trunk(self, x: Float[Array, 'n t d']) -> Float[Array, 'n d']:
    """Computes the tower's output from the patches."""
    x = self.embeddings(x)
    if self.sizes.kind == 'siglip':
      # The probe attends to all tokens, so that all are normalised.
      return self.head(self.post_layernorm(self.encoder(x)))
    # Only the class token is normalised: the patches' outputs are not read.
    return self.post_layernorm(self.encoder(self.pre_layrnorm(x))[:, 0])


class TextEmbeddings(SizedModule):
  """Tokens and positions."""

  def setup(self) -> None:
    width = self.sizes.text.width
    self.token_embedding = blocks.embedding_table(
      self.sizes.vocabulary, width, self.dtype
    )
    self.position_embedding = blocks.embedding_table(
      self.sizes.context, width, self.dtype
    )

  def __call__(self, ids: Int[Array, 'n t']) -> Float[Array, 'n t d']:
    positions = self.position_embedding(jnp.arange(ids.shape[1]))
    return self.token_embedding(ids) + positions[None]


class TextModel(SizedModule):
  """The text tower: CLIP's normalised end token, or SigLIP's embedding."""

  def setup(self) -> None:
    clip = self.sizes.kind == 'clip'
    self.embeddings = TextEmbeddings(self.sizes, self.dtype)
    self.encoder = blocks.Encoder(self.sizes.text, clip, self.dtype)
    self.final_layer_norm = blocks.layer_norm(self.sizes.text)
    if not clip:
      self.head = nn.Dense(self.sizes.embed)

  def __call__(self, ids: Int[Array, 'n t']) -> Float[Array, 'n d']:
    x = self.final_layer_norm(self.encoder(self.embeddings(ids)))
    if self.sizes.kind == 'siglip':
      return self.head(x[:, -1])
    # argmax finds the largest token, or the first that equals the end token.
    end = self.sizes.end
    score = ids if end == LARGEST_TOKEN else (ids == end).astype(jnp.int32)
    return x[jnp.arange(len(ids)), jnp.argmax(score, 1)]


class Clip(SizedModule):
  """Both towers and the temperature.

  CLIP projects the towers' outputs; SigLIP adds a bias to the temperature.
  """

  def setup(self) -> None:
    sizes, constant = self.sizes, nn.initializers.constant
    self.vision_model = VisionModel(sizes, self.dtype)
    self.text_model = TextModel(sizes, self.dtype)
    if sizes.kind == 'clip':
      self.visual_projection = projection(sizes.embed, sizes.vision.width)
      self.text_projection = projection(sizes.embed, sizes.text.width)
      self.logit_scale = self.param(
        'logit_scale', constant(_CLIP_SCALE), (), jnp.float32
      )
    else:
      scale, bias = constant(_SIGLIP_SCALE), constant(_SIGLIP_BIAS)
      self.logit_scale = self.param('logit_scale', scale, (1,), jnp.float32)
      self.logit_bias = self.param('logit_bias', bias, (1,), jnp.float32)

  def image(self, image: Float[Array, 'n h w c']) -> Float[Array, 'n e']:
    """Embeddings of pictures, not normalised."""
    x = self.vision_model.trunk(self.vision_model.stem(image))
    return self.visual_projection(x) if self.sizes.kind == 'clip' else x

  def text(self, ids: Int[Array, 'n t']) -> Float[Array, 'n e']:
    """Embeddings of texts, not normalised."""
    x = self.text_model(ids)
    return self.text_projection(x) if self.sizes.kind == 'clip' else x

  def __call__(
    self, image: Float[Array, 'n h w c'], ids: Int[Array, 'm t']
  ) -> Float[Array, 'n m']:
    """Scaled cosines of pictures and texts, as log odds in SigLIP."""
    rows = normalise_rows(self.image(image))
    columns = normalise_rows(self.text(ids))
    scale = jnp.exp(self.logit_scale)
    if self.sizes.kind == 'clip':
      return scale * rows @ columns.T
    cosines = rows @ columns.T
    return scale[None] * cosines + self.logit_bias[None]


def normalise_rows(x: Float[Array, '*b e']) -> Float[Array, '*b e']:
  """Scales rows to length one."""
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def projection(features: int, width: int) -> nn.Dense:
  """A product without bias, in float32."""
  # In float32, because cosines of different classes are close.
  init = nn.initializers.normal(width**-0.5)
  return nn.Dense(features, use_bias=False, kernel_init=init)
