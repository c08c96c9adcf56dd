"""Transformer blocks that both towers of a CLIP or SigLIP are made of.

Module names are those of HF's Flax port.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from jax import numpy as jnp
from jaxtyping import Array, Float

from cmu_jax.networks.clip.architecture import Tower

# The names are those of `hidden_act` in a config.json. HF's 'gelu' is exact,
# its 'gelu_new' and 'gelu_pytorch_tanh' are the tanh approximation.
_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'quick_gelu': lambda x: x * jax.nn.sigmoid(1.702 * x),
  'gelu': functools.partial(jax.nn.gelu, approximate=False),
  'gelu_new': jax.nn.gelu,
  'gelu_pytorch_tanh': jax.nn.gelu,
  'relu': jax.nn.relu,
  'silu': jax.nn.silu,
}


class TowerModule(nn.Module):
  """A part of a tower.

  Attributes:
    tower: sizes of the tower.
    causal: True if a token attends to itself and its predecessors alone.
    dtype: of the products; LayerNorm and softmax are float32.
  """

  tower: Tower
  causal: bool
  dtype: Any


class Attention(TowerModule):
  """softmax(q k^T / sqrt(d / heads)) v, head by head."""

  @nn.compact
  def __call__(self, x: Float[Array, 'n t d']) -> Float[Array, 'n t d']:
    n, t, width = x.shape
    heads, std = self.tower.heads, _residual_std(self.tower)

    def project(name: str) -> Float[Array, 'n t h e']:
      y = _dense(width, std, self.dtype, name)(x)
      return y.reshape(n, t, heads, width // heads)

    q, k, v = (project(name) for name in ('q_proj', 'k_proj', 'v_proj'))
    # HF scales the queries, not the scores: in half precision the two differ.
    scaled = q * (width // heads) ** -0.5
    score = jnp.einsum('nqhd,nkhd->nhqk', scaled, k).astype(jnp.float32)
    if self.causal:
      past = jnp.tril(jnp.ones((t, t), bool))[None, None, :, :]
      score = jnp.where(past, score, -jnp.inf)
    weight = jax.nn.softmax(score).astype(v.dtype)
    mixed = jnp.einsum('nhqk,nkhd->nqhd', weight, v).reshape(n, t, width)
    return _dense(width, width**-0.5, self.dtype, 'out_proj')(mixed)


class Perceptron(nn.Module):
  """Two dense layers with an activation between them.

  Attributes:
    tower: widths and activation.
    dtype: of the computation.
  """

  tower: Tower
  dtype: Any

  @nn.compact
  def __call__(self, x: Float[Array, 'n t d']) -> Float[Array, 'n t d']:
    std = (2 * self.tower.width) ** -0.5
    x = _dense(self.tower.inner, std, self.dtype, 'fc1')(x)
    x = _ACTIVATIONS[self.tower.activation](x)
    std = _residual_std(self.tower)
    return _dense(self.tower.width, std, self.dtype, 'fc2')(x)


class Block(TowerModule):
  """Attention and perceptron, each after a LayerNorm."""

  def setup(self) -> None:
    self.layer_norm1 = layer_norm(self.tower)
    self.self_attn = Attention(self.tower, self.causal, self.dtype)
    self.layer_norm2 = layer_norm(self.tower)
    self.mlp = Perceptron(self.tower, self.dtype)

  # The residual stream keeps its dtype: both summands may be half precision.
  def __call__(self, x: Float[Array, 'n t d']) -> Float[Array, 'n t d']:
    x = x + self.self_attn(self.layer_norm1(x)).astype(x.dtype)
    return x + self.mlp(self.layer_norm2(x)).astype(x.dtype)


class Layers(TowerModule):
  """The blocks, named '0', '1', ..."""

  @nn.compact
  def __call__(self, x: Float[Array, 'n t d']) -> Float[Array, 'n t d']:
    for index in range(self.tower.depth):
      x = Block(self.tower, self.causal, self.dtype, name=str(index))(x)
    return x


class Encoder(TowerModule):
  """The level `encoder/layers` of the names."""

  def setup(self) -> None:
    self.layers = Layers(self.tower, self.causal, self.dtype)

  def __call__(self, x: Float[Array, 'n t d']) -> Float[Array, 'n t d']:
    return self.layers(x)


def _residual_std(tower: Tower) -> float:
  """Initial deviation of weights that add to the residual stream."""
  # HF's choice for queries, keys, values and fc2: a tower adds 2 depth summands
  # to its stream, whose variance must not grow with the depth.
  return tower.width**-0.5 * (2 * tower.depth) ** -0.5


def _dense(features: int, std: float, dtype: Any, name: str) -> nn.Dense:
  init = nn.initializers.normal(std)
  return nn.Dense(features, dtype=dtype, kernel_init=init, name=name)


def embedding_table(
  rows: int, width: int, dtype: Any, std: float = 0.02
) -> nn.Embed:
  """A table of vectors, stored in float32."""
  init = nn.initializers.normal(std)
  return nn.Embed(rows, width, dtype=dtype, embedding_init=init)


def layer_norm(tower: Tower) -> nn.LayerNorm:
  """LayerNorm in float32 with the epsilon of a tower."""
  return nn.LayerNorm(tower.epsilon, dtype=jnp.float32, use_fast_variance=False)
