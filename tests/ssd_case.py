"""A little network and the samples of a method of the SSD family."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from cmu_jax import networks
from cmu_jax.core import jit
from cmu_jax.core.types import Batch, MethodInputs, Samples, Trigger, Variables
from cmu_jax.data import input_step
from cmu_jax.methods.dampening import importance

SIDE, CLASSES = 6, 3
PLAIN = input_step.make((0.45,), (0.25,))
AUGMENTED = input_step.make(
  (0.45,),
  (0.25,),
  trigger=Trigger(jnp.arange(36).reshape(SIDE, SIDE) > 34, jnp.float32(2)),
  pad=1,
  flip=True,
)
look = jit.compile_cheaply(AUGMENTED.eval)
MODELS = {
  'fc': networks.make('fc', CLASSES, (SIDE, SIDE, 1), width=5),
  'convnet': networks.make('convnet', CLASSES, (SIDE, SIDE, 1)),
}


@functools.lru_cache
def variables(name='fc', seed=0):
  """A network off its initial state, so that no statistic is trivial."""
  image = jnp.zeros((1, SIDE, SIDE, 1))
  start = jit.compile_cheaply(MODELS[name].init)(jax.random.key(seed), image)
  state = np.random.default_rng(seed)
  shake = lambda x: jnp.asarray(
    np.asarray(x) + np.float32(0.1) * state.random(x.shape, np.float32)
  )
  return jax.tree.map(shake, start)


def batch(size, seed=0):
  """Random pixels and labels; every third image carries the trigger."""
  state = np.random.default_rng(seed)
  image = state.integers(0, 256, (size, SIDE, SIDE, 1), np.uint8)
  label = state.integers(0, CLASSES, size)
  return Batch(
    jnp.asarray(image),
    jnp.asarray(label, jnp.int32),
    jnp.asarray(np.arange(size) % 3 == 0),
  )


def samples(size, valid=None, seed=0):
  """`size` rows of which some are valid."""
  valid = np.ones(size, bool) if valid is None else valid
  nothing = jnp.asarray(np.zeros(size, bool))
  return Samples(batch(size, seed), nothing, jnp.asarray(valid))


def given(retain=20, forget=7):
  """What a method of this family sees."""
  bad = samples(forget, seed=1)
  return MethodInputs(
    retain=samples(retain),
    forget=bad._replace(identified=bad.valid),
  )


def assert_close(found, wanted):
  """Each leaf, to 1e-5 of its largest entry; importances may be tiny."""
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    scale = float(np.abs(b).max(initial=0))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * scale)


@functools.lru_cache
def linear():
  """A network that is one matrix, and its state; quick to compile."""
  model = networks.from_functions(
    lambda state, image: image.reshape(len(image), -1),
    lambda state, x: x @ state.params['head']['kernel'],
  )
  kernel = np.random.default_rng(2).normal(size=(SIDE * SIDE, CLASSES))
  params = {'head': {'kernel': jnp.asarray(kernel, jnp.float32)}}
  return model, Variables(params, {'mean': jnp.ones(2)})


def pair(params, seed=0, zeros=True):
  """Importances over many scales, and some of exactly zero."""
  state = np.random.default_rng(seed)

  def draw(x):
    found = 10.0 ** state.uniform(-4, 2, x.shape)
    drop = state.random(x.shape) < 0.1 * zeros
    return jnp.asarray(np.where(drop, 0, found), jnp.float32)

  return importance.Importances(
    jax.tree.map(draw, params), jax.tree.map(draw, params), jnp.int32(5)
  )
