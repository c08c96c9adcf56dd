"""A tiny training of shadow models, shared by tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cmu_jax import networks
from cmu_jax.audits import shadow
from cmu_jax.core.types import Batch
from cmu_jax.data import input_step
from cmu_jax.networks import classifier, layers
from cmu_jax.training import optimizers

SHAPE = (4, 4, 1)
STEP = input_step.make((0.4,), (0.3,))
KEY = jax.random.key(3)


def data(size=31):
  """Images in which a bright row tells the class, three in ten mislabelled."""
  generator = np.random.default_rng(0)
  label = np.arange(size) % 4
  image = generator.integers(0, 60, (size, *SHAPE))
  image[np.arange(size), label] += 150
  label = np.where(np.arange(size) % 10 < 3, (label + 1) % 4, label)
  return Batch(jnp.asarray(image, jnp.uint8), jnp.asarray(label, jnp.int32))


class Normed(nn.Module):
  """A dense layer and BatchNorm: what a stranger in a batch would change."""

  def setup(self):
    self.dense, self.norm = layers.Dense(8), layers.BatchNorm()

  def __call__(self, image, train):
    x = self.dense(image.reshape(image.shape[0], -1))
    return nn.relu(self.norm(x[:, None, None, :], train)[:, 0, 0, :])


@functools.cache
def model(name='fc'):
  """The same object whenever it is asked for, so that it compiles once."""
  if name == 'normed':
    return classifier.bind(classifier.Classifier(Normed(), 4))
  return networks.make(name, 4, SHAPE, width=1 if name == 'convnet' else 8)


@functools.cache
def fit(steps=20, rate=0.1):
  """SGD with momentum, batches of 8."""
  optimizer = optimizers.sgd(optimizers.constant_schedule(rate))
  return shadow.ShadowTraining(STEP, optimizer, steps, 8)


def trained(k=6, name='fc', **options):
  """K models on halves of the data."""
  batch = data()
  inside = shadow.assign_halves(KEY, k, batch.label.shape[0])
  fitted = options.pop('fit', fit())
  return shadow.train(KEY, model(name), batch, inside, fitted, **options)
