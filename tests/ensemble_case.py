"""Small ensembles that the tests of ensembles share."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cmu_jax import networks as networks_lib
from cmu_jax.core import rng
from cmu_jax.core.types import Batch, Variables
from cmu_jax.data import input_step
from cmu_jax.robustness import spectral
from cmu_jax.studies.ensembles import members, training

KEY = jax.random.key(0)
SHAPE = (6, 6, 1)
PIXELS = input_step.make((0.4,), (0.5,))


def batch(count=24, seed=0):
  """Images of three classes that differ in brightness."""
  draw = np.random.default_rng(seed)
  label = np.arange(count) % 3
  image = draw.integers(0, 90, (count, *SHAPE)) + 80 * label.reshape(
    -1, 1, 1, 1
  )
  return Batch(jnp.asarray(image, jnp.uint8), jnp.asarray(label, jnp.int32))


def kind(width):
  """A network of two dense layers, and these."""

  def init(key, image):
    size = image[0].size
    return Variables(
      {
        'a': {'kernel': jax.random.normal(key, (size, width)) / 6},
        'b': {'kernel': jax.random.normal(rng.fold_in(key, 'b'), (width, 3))},
      },
      {},
    )

  model = networks_lib.from_functions(
    lambda v, x: jax.nn.relu(
      x.reshape(x.shape[0], -1) @ v.params['a']['kernel']
    ),
    lambda v, x: x @ v.params['b']['kernel'],
  )
  layers = [
    spectral.Layer(name, 'dense', shape, lambda own, x: x @ own['kernel'])
    for name, shape in (('a', (36,)), ('b', (width,)))
  ]
  return model._replace(init=init), tuple(layers)


def networks(how='map', size=3):
  """Members of that kind, and their variables."""
  model, layers = kind(4)
  found = members.stack_members(model, size, layers, how)
  return found, found.init(KEY, jnp.zeros((1, *SHAPE)))


def tripled(variables):
  """With weights three times as large: norms above 0.8."""
  return variables._replace(
    params=jax.tree.map(lambda x: 3 * x, variables.params)
  )


def recipe(found, term, optimizer=None):
  """SGD on batches of 8."""
  return training.Recipe(
    found, term, optimizer or optax.sgd(0.05), PIXELS, batch_size=8
  )
