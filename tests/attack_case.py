"""Linear networks, whose attacks are known in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from cmu_jax.core import jit

SHAPE = (4, 4, 2)
PIXELS = 32


def linear(weight, bias=None):
  """Logits [n, k] = x W + b of flattened images."""
  added = jnp.zeros(weight.shape[1]) if bias is None else bias
  return lambda image: image.reshape(len(image), -1) @ weight + added[None, :]


def drawn(seed, classes=2, scale=1.0):
  """Weights [32, k] of a linear network."""
  rng = np.random.default_rng(seed)
  return jnp.asarray(
    scale * rng.standard_normal((PIXELS, classes)), jnp.float32
  )


def images(seed, count, low=0.0, high=1.0):
  """Uniform images of SHAPE."""
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.uniform(low, high, (count, *SHAPE)), jnp.float32)


@functools.cache
def _compiled(attack):
  def go(key, weight, bias, image, label):
    return attack(key, linear(weight, bias), image, label)

  return jit.compile_cheaply(go)


def run(attack, weight, image, label, bias=None, seed=0):
  """An attack on a linear network; compiled once for each attack."""
  bias = jnp.zeros(weight.shape[1]) if bias is None else bias
  key = jax.random.key(seed)
  return _compiled(attack)(key, weight, bias, image, jnp.asarray(label))


def norm(delta, kind):
  """The norm of each image, in float64."""
  flat = np.asarray(delta, np.float64).reshape(len(delta), -1)
  order = np.inf if kind == 'linf' else 2
  return np.linalg.norm(flat, order, axis=1)
