"""What the spectral tests share: small layers, and their dense matrices."""

import jax
import numpy as np
from flax import linen as nn
from jax import numpy as jnp

from cmu_jax.core import jit
from cmu_jax.core.types import Variables
from cmu_jax.robustness import spectral

SHAPE = (6, 5, 3)


def network(module, shape, seed=0):
  """(apply, variables) of a linen module with float parameters all random."""
  made = module.init(jax.random.key(seed), jnp.zeros((1, *shape)))
  noisy = {
    'params': _redrawn(
      made.get('params', {}), seed, lambda k, s: 0.5 * _normal(k, s)
    ),
    'batch_stats': _redrawn(
      made.get('batch_stats', {}), seed, lambda k, s: 0.3 + abs(_normal(k, s))
    ),
  }
  apply = lambda variables, x: module.apply(variables._asdict(), x)
  return apply, Variables(**noisy)


def _normal(key, shape):
  # The same numbers with JAX_ENABLE_X64.
  return jax.random.normal(key, shape, jnp.float32)


def _redrawn(tree, seed, draw):
  leaves, structure = jax.tree.flatten(tree)
  keys = jax.random.split(jax.random.key(seed + 1), max(len(leaves), 1))
  drawn = [draw(k, x.shape) for k, x in zip(keys, leaves, strict=False)]
  return jax.tree.unflatten(structure, drawn)


def only(module, shape, seed=0):
  """(layer, x -> M x) of a network that is one linear layer."""
  apply, variables = network(module, shape, seed)
  (layer,) = spectral.find_layers(apply, variables, shape)
  return layer, spectral.bind_layer(layer, variables)


def dense(linear, shape, dtype=jnp.float32):
  """The matrix [outputs, inputs] of a linear map."""
  eye = jnp.eye(int(np.prod(shape)), dtype=dtype)
  rows = jit.compile_cheaply(linear)(eye.reshape(-1, *shape))
  return np.asarray(rows).reshape(len(eye), -1).T


def sigmas(linear, shape, dtype=jnp.float32):
  """All singular values, in decreasing order, in NumPy."""
  return np.linalg.svd(dense(linear, shape, dtype).astype(np.float64))[1]


class Small(nn.Module):
  """A convolution with BatchNorm behind it, and a dense layer."""

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.Conv(4, (3, 3), name='first')(x)
    x = nn.relu(nn.BatchNorm(use_running_average=not train, name='norm')(x))
    return nn.Dense(3, name='head')(x[:, ::2, ::2].reshape(x.shape[0], -1))


def equal(a, b):
  leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return all(np.array_equal(x, y) for x, y in leaves)


def true_norms(apply, variables):
  return {
    layer.path: sigmas(spectral.bind_layer(layer, variables), layer.shape)[0]
    for layer in spectral.find_layers(apply, variables, SHAPE)
  }
