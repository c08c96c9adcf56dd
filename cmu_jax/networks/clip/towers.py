"""The two towers in linen; modules are called as in HF's Flax port of CLIP.

So `flax_model.msgpack` needs no table of names, and `model.safetensors` only
the one for the leaves: the misspelling `pre_layrnorm` is theirs.

SigLIP's two towers in linen (arXiv 2303.15343), called as in HF.

What differs from CLIP: no class token but attention from a learned probe, no
causal mask, texts read off at their last token, a bias beside the temperature.
Texts must be filled up to the context as the tower was trained.
"""

import math
from typing import Any

from flax import linen as nn
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from cmu_jax.networks.clip import blocks
from cmu_jax.networks.clip.architecture import LARGEST_TOKEN, Sizes, Tower

# After training exp(logit_scale) is about 100; it starts at 1 / 0.07.
_INITIAL_SCALE = math.log(1 / 0.07)


class PatchEmbedding(nn.Module):
  """A convolution whose stride is its size, as one product.

  Attributes:
    features: output channels.
    size: side of a patch.
    dtype: what is computed in.
    biased: whether a bias is added; CLIP has none.
  """

  features: int
  size: int
  dtype: Any
  biased: bool = False

  @nn.compact
  def __call__(self, image: Float[Array, 'n h w c']) -> Float[Array, 'n t d']:
    p, (n, _, _, c) = self.size, image.shape
    # What is left over of a patch at the right and at the bottom is not seen.
    h, w = (side // p * p for side in image.shape[1:3])
    image = image[:, :h, :w]
    init = nn.initializers.normal(0.02)
    kernel = self.param('kernel', init, (p, p, c, self.features))
    cut = image.astype(self.dtype).reshape(n, h // p, p, w // p, p, c)
    rows = jnp.transpose(cut, (0, 1, 3, 2, 4, 5)).reshape(n, -1, p * p * c)
    y = rows @ kernel.reshape(p * p * c, -1).astype(self.dtype)
    if not self.biased:
      return y
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    return y + bias.astype(self.dtype)[None, None, :]


class VisionEmbeddings(nn.Module):
  """Patches, a class token before them, positions.

  Attributes:
    sizes: of the CLIP.
    dtype: what is computed in.
  """

  sizes: Sizes
  dtype: Any

  def setup(self) -> None:
    width = self.sizes.vision.width
    tokens = (self.sizes.image_size // self.sizes.patch) ** 2 + 1
    self.class_embedding = self.param(
      'class_embedding', nn.initializers.normal(width**-0.5), (width,)
    )
    self.patch_embedding = PatchEmbedding(width, self.sizes.patch, self.dtype)
    self.position_embedding = blocks.embedding_table(
      tokens, width, self.dtype, width**-0.5
    )

  def patches(self, image: Float[Array, 'n h w c']) -> Float[Array, 'n t d']:
    """The projected patches, row by row."""
    return self.patch_embedding(image)

  def __call__(self, x: Float[Array, 'n t d']) -> Float[Array, 'n t2 d']:
    token = self.class_embedding.astype(x.dtype)[None, None, :]
    token = jnp.broadcast_to(token, (len(x), 1, x.shape[-1]))
    x = jnp.concatenate([token, x], 1)
    return x + self.position_embedding(jnp.arange(x.shape[1]))[None]


class VisionModel(nn.Module):
  """The image tower up to the normalised class token.

  Attributes:
    sizes: of the CLIP.
    dtype: what the products are computed in.
  """

  sizes: Sizes
  dtype: Any

  def setup(self) -> None:
    self.embeddings = VisionEmbeddings(self.sizes, self.dtype)
    self.pre_layrnorm = blocks.layer_norm(self.sizes.vision)
    self.encoder = blocks.Encoder(self.sizes.vision, False, self.dtype)
    self.post_layernorm = blocks.layer_norm(self.sizes.vision)

  def stem(self, image: Float[Array, 'n h w c']) -> Float[Array, 'n t d']:
    """The projected patches, linear in the parameters."""
    return self.embeddings.patches(image)

  def trunk(self, x: Float[Array, 'n t d']) -> Float[Array, 'n d']:
    """From patches to the class token."""
    x = self.encoder(self.pre_layrnorm(self.embeddings(x)))
    return self.post_layernorm(x[:, 0])


class TextEmbeddings(nn.Module):
  """Tokens and positions.

  Attributes:
    sizes: of the CLIP.
    dtype: what is computed in.
  """

  sizes: Sizes
  dtype: Any

  def setup(self) -> None:
    width = self.sizes.text.width
    self.token_embedding = blocks.embedding_table(
      self.sizes.vocabulary, width, self.dtype
    )
    self.position_embedding = blocks.embedding_table(
      self.sizes.context, width, self.dtype
    )

  def __call__(self, ids: Int[Array, 'n t']) -> Float[Array, 'n t d']:
    place = self.position_embedding(jnp.arange(ids.shape[1]))
    return self.token_embedding(ids) + place[None]


class TextModel(nn.Module):
  """The text tower up to the normalised end token.

  Attributes:
    sizes: of the CLIP.
    dtype: what the products are computed in.
  """

  sizes: Sizes
  dtype: Any

  def setup(self) -> None:
    self.embeddings = TextEmbeddings(self.sizes, self.dtype)
    self.encoder = blocks.Encoder(self.sizes.text, True, self.dtype)
    self.final_layer_norm = blocks.layer_norm(self.sizes.text)

  def __call__(self, ids: Int[Array, 'n t']) -> Float[Array, 'n d']:
    x = self.final_layer_norm(self.encoder(self.embeddings(ids)))
    end = self.sizes.end
    found = ids if end == LARGEST_TOKEN else (ids == end).astype(jnp.int32)
    return x[jnp.arange(len(ids)), jnp.argmax(found, 1)]


class Clip(nn.Module):
  """Both towers, their projections and the temperature.

  Attributes:
    sizes: of the CLIP.
    dtype: what the products are computed in; parameters, LayerNorm, softmax
      and embeddings are float32.
  """

  sizes: Sizes
  dtype: Any = jnp.float32

  def setup(self) -> None:
    vision, text = self.sizes.vision.width, self.sizes.text.width
    self.vision_model = VisionModel(self.sizes, self.dtype)
    self.text_model = TextModel(self.sizes, self.dtype)
    self.visual_projection = projection(self.sizes.embed, vision)
    self.text_projection = projection(self.sizes.embed, text)
    self.logit_scale = self.param(
      'logit_scale', nn.initializers.constant(_INITIAL_SCALE), ()
    )

  def image(self, image: Float[Array, 'n h w c']) -> Float[Array, 'n e']:
    """Embeddings of pictures, not normalised."""
    token = self.vision_model.trunk(self.vision_model.stem(image))
    return self.visual_projection(token)

  def text(self, ids: Int[Array, 'n t']) -> Float[Array, 'n e']:
    """Embeddings of texts, not normalised."""
    return self.text_projection(self.text_model(ids))

  def scale(self) -> Float[Array, '']:
    """What cosines are multiplied by, exp(logit_scale)."""
    return jnp.exp(self.logit_scale)

  def __call__(
    self, image: Float[Array, 'n h w c'], ids: Int[Array, 'm t']
  ) -> Float[Array, 'n m']:
    """Scaled cosines of every picture and every text."""
    rows, columns = (
      normalise_rows(self.image(image)),
      normalise_rows(self.text(ids)),
    )
    return self.scale() * rows @ columns.T


def normalise_rows(x: Float[Array, '*b e']) -> Float[Array, '*b e']:
  """Rows of length one."""
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def projection(features: int, width: int) -> nn.Dense:
  """A product without bias, in float32."""
  init = nn.initializers.normal(width**-0.5)
  return nn.Dense(features, use_bias=False, kernel_init=init)


# Where their training starts (section 3.2).
_SCALE, _BIAS = math.log(10), -10.0


class SiglipVisionEmbeddings(nn.Module):
  """Patches and positions.

  Attributes:
    sizes: of the SigLIP.
    dtype: what is computed in.
  """

  sizes: Sizes
  dtype: Any

  def setup(self) -> None:
    width = self.sizes.vision.width
    count = (self.sizes.image_size // self.sizes.patch) ** 2
    self.patch_embedding = PatchEmbedding(
      width, self.sizes.patch, self.dtype, biased=True
    )
    self.position_embedding = blocks.embedding_table(
      count, width, self.dtype, width**-0.5
    )

  def patches(self, image: Float[Array, 'n h w c']) -> Float[Array, 'n t d']:
    """The projected patches, row by row."""
    return self.patch_embedding(image)

  def __call__(self, x: Float[Array, 'n t d']) -> Float[Array, 'n t d']:
    return x + self.position_embedding(jnp.arange(x.shape[1]))[None]


class Probe(nn.Module):
  """Attention of one learned query to all tokens.

  Attributes:
    tower: width and heads.
    dtype: what the products are computed in; the softmax is float32.
  """

  tower: Tower
  dtype: Any

  @nn.compact
  def __call__(
    self, probe: Float[Array, '1 1 d'], x: Float[Array, 'n t d']
  ) -> Float[Array, 'n d']:
    width, heads = self.tower.width, self.tower.heads
    # One matrix for queries, keys and values, as PyTorch keeps it.
    project = nn.Dense(3 * width, dtype=self.dtype, name='in_proj')
    cut = lambda y: y.reshape(*y.shape[:2], 3, heads, width // heads)
    q, found = cut(project(probe))[0, 0, 0], cut(project(x))
    k, v = found[:, :, 1], found[:, :, 2]
    score = jnp.einsum('he,nthe->nht', q, k).astype(jnp.float32)
    weight = nn.softmax(score * (width // heads) ** -0.5).astype(v.dtype)
    mixed = jnp.einsum('nht,nthe->nhe', weight, v).reshape(len(x), width)
    return nn.Dense(width, dtype=self.dtype, name='out_proj')(mixed)


class Pooling(nn.Module):
  """A picture's tokens as one vector: attention, then a perceptron.

  Attributes:
    tower: sizes.
    dtype: what the products are computed in.
  """

  tower: Tower
  dtype: Any

  def setup(self) -> None:
    init = nn.initializers.xavier_uniform()
    self.probe = self.param('probe', init, (1, 1, self.tower.width))
    self.attention = Probe(self.tower, self.dtype)
    self.layernorm = blocks.layer_norm(self.tower)
    self.mlp = blocks.Perceptron(self.tower, self.dtype)

  def __call__(self, x: Float[Array, 'n t d']) -> Float[Array, 'n d']:
    y = self.attention(self.probe, x)[:, None]
    return (y + self.mlp(self.layernorm(y)))[:, 0].astype(jnp.float32)


class SiglipVisionModel(nn.Module):
  """The image tower up to the embedding.

  Attributes:
    sizes: of the SigLIP.
    dtype: what the products are computed in.
  """

  sizes: Sizes
  dtype: Any

  def setup(self) -> None:
    self.embeddings = SiglipVisionEmbeddings(self.sizes, self.dtype)
    self.encoder = blocks.Encoder(self.sizes.vision, False, self.dtype)
    self.post_layernorm = blocks.layer_norm(self.sizes.vision)
    self.head = Pooling(self.sizes.vision, self.dtype)

  def stem(self, image: Float[Array, 'n h w c']) -> Float[Array, 'n t d']:
    """The projected patches, linear in the parameters."""
    return self.embeddings.patches(image)

  def trunk(self, x: Float[Array, 'n t d']) -> Float[Array, 'n d']:
    """From patches to the embedding."""
    return self.head(self.post_layernorm(self.encoder(self.embeddings(x))))


class SiglipTextModel(nn.Module):
  """The text tower up to the embedding.

  Attributes:
    sizes: of the SigLIP.
    dtype: what the products are computed in.
  """

  sizes: Sizes
  dtype: Any

  def setup(self) -> None:
    self.embeddings = TextEmbeddings(self.sizes, self.dtype)
    self.encoder = blocks.Encoder(self.sizes.text, False, self.dtype)
    self.final_layer_norm = blocks.layer_norm(self.sizes.text)
    self.head = nn.Dense(self.sizes.embed)

  def __call__(self, ids: Int[Array, 'n t']) -> Float[Array, 'n e']:
    x = self.final_layer_norm(self.encoder(self.embeddings(ids)))
    return self.head(x[:, -1])


class Siglip(nn.Module):
  """Both towers, the temperature and its bias; methods as of `towers.Clip`.

  Attributes:
    sizes: of the SigLIP.
    dtype: what the products are computed in; parameters, LayerNorm, softmax
      and embeddings are float32.
  """

  sizes: Sizes
  dtype: Any = jnp.float32

  def setup(self) -> None:
    self.vision_model = SiglipVisionModel(self.sizes, self.dtype)
    self.text_model = SiglipTextModel(self.sizes, self.dtype)
    constant = nn.initializers.constant
    self.logit_scale = self.param('logit_scale', constant(_SCALE), (1,))
    self.logit_bias = self.param('logit_bias', constant(_BIAS), (1,))

  def image(self, image: Float[Array, 'n h w c']) -> Float[Array, 'n e']:
    """Embeddings of pictures, not normalised."""
    return self.vision_model.trunk(self.vision_model.stem(image))

  def text(self, ids: Int[Array, 'n t']) -> Float[Array, 'n e']:
    """Embeddings of texts, not normalised."""
    return self.text_model(ids)

  def __call__(
    self, image: Float[Array, 'n h w c'], ids: Int[Array, 'm t']
  ) -> Float[Array, 'n m']:
    """Log odds that a picture and a text belong together."""
    rows = normalise_rows(self.image(image))
    columns = normalise_rows(self.text(ids))
    cosines = rows @ columns.T
    return jnp.exp(self.logit_scale)[None] * cosines + self.logit_bias[None]
