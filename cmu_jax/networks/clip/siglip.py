"""SigLIP's two towers in linen (arXiv 2303.15343), called as in HF.

What differs from CLIP: no class token but attention from a learned probe, no
causal mask, texts read off at their last token, a bias beside the temperature.
Texts must be filled up to the context as the tower was trained.
"""

import math
from typing import Any

from flax import linen as nn
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from cmu_jax.networks.clip import blocks, towers
from cmu_jax.networks.clip.sizes import Sizes, Tower

# Where their training starts (section 3.2).
_SCALE, _BIAS = math.log(10), -10.0


class VisionEmbeddings(nn.Module):
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
    self.patch_embedding = towers.PatchEmbedding(
      width, self.sizes.patch, self.dtype, biased=True
    )
    self.position_embedding = blocks.embed(
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
    self.layernorm = blocks.norm(self.tower)
    self.mlp = blocks.Perceptron(self.tower, self.dtype)

  def __call__(self, x: Float[Array, 'n t d']) -> Float[Array, 'n d']:
    y = self.attention(self.probe, x)[:, None]
    return (y + self.mlp(self.layernorm(y)))[:, 0].astype(jnp.float32)


class VisionModel(nn.Module):
  """The image tower up to the embedding.

  Attributes:
    sizes: of the SigLIP.
    dtype: what the products are computed in.
  """

  sizes: Sizes
  dtype: Any

  def setup(self) -> None:
    self.embeddings = VisionEmbeddings(self.sizes, self.dtype)
    self.encoder = blocks.Encoder(self.sizes.vision, False, self.dtype)
    self.post_layernorm = blocks.norm(self.sizes.vision)
    self.head = Pooling(self.sizes.vision, self.dtype)

  def stem(self, image: Float[Array, 'n h w c']) -> Float[Array, 'n t d']:
    """The projected patches, linear in the parameters."""
    return self.embeddings.patches(image)

  def trunk(self, x: Float[Array, 'n t d']) -> Float[Array, 'n d']:
    """From patches to the embedding."""
    return self.head(self.post_layernorm(self.encoder(self.embeddings(x))))


class TextModel(nn.Module):
  """The text tower up to the embedding.

  Attributes:
    sizes: of the SigLIP.
    dtype: what the products are computed in.
  """

  sizes: Sizes
  dtype: Any

  def setup(self) -> None:
    self.embeddings = towers.TextEmbeddings(self.sizes, self.dtype)
    self.encoder = blocks.Encoder(self.sizes.text, False, self.dtype)
    self.final_layer_norm = blocks.norm(self.sizes.text)
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
    self.vision_model = VisionModel(self.sizes, self.dtype)
    self.text_model = TextModel(self.sizes, self.dtype)
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
    rows = towers.unit(self.image(image))
    columns = towers.unit(self.text(ids))
    cosines = rows @ columns.T
    return jnp.exp(self.logit_scale)[None] * cosines + self.logit_bias[None]
