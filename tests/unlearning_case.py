"""A problem so small that a step sees all of it, and its losses by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cmu_jax import networks
from cmu_jax.core import jit
from cmu_jax.core.types import Batch, MethodInputs, Network, Samples, Training
from cmu_jax.data import input_step

PIXELS = input_step.make((0.0,), (1.0,))
SHAPE, CLASSES, COUNT, RATE = (4, 4, 1), 3, 6, 0.2
KEY = jax.random.key(3)


def samples(seed, rows, identified=False, shape=SHAPE):
  """COUNT valid rows, in an order of its own among others."""
  rng = np.random.default_rng(seed)
  image = rng.integers(0, 256, (rows, *shape), np.uint8)
  label = rng.integers(0, CLASSES, rows, np.int32)
  valid = np.zeros(rows, bool)
  valid[rng.permutation(rows)[:COUNT]] = True
  return Samples(
    Batch(jnp.asarray(image), jnp.asarray(label)),
    jnp.full(rows, identified),
    jnp.asarray(valid),
  )


def given(shape=SHAPE):
  """Both sets, with rows that do not count."""
  return MethodInputs(
    retain=samples(1, 9, shape=shape), forget=samples(2, 8, True, shape)
  )


@functools.cache
def network(name='fc', shape=SHAPE, **options):
  """A model and its variables, away from where it was initialised."""
  options = options or ({'width': 5} if name == 'fc' else {})
  model = networks.make(name, CLASSES, shape, **options)
  start = jit.compile_cheaply(model.init)(
    jax.random.key(0), jnp.zeros((1, *shape))
  )
  rng = np.random.default_rng(4)

  def moved(leaf):
    noise = rng.standard_normal(leaf.shape).astype(np.float32)
    return leaf + jnp.asarray(0.1 * noise)

  return model, jax.tree.map(moved, start)


def seen(part):
  """The rows of a set that count: images in [0, 1], and labels."""
  valid = np.asarray(part.valid)
  image = np.asarray(part.batch.image, np.float32)[valid] / 255
  return jnp.asarray(image), np.asarray(part.batch.label)[valid]


def logits(params, image):
  """The one-hidden-layer network, written out."""
  hidden, head = params['body']['hidden_0'], params['head']
  flat = image.reshape(len(image), -1)
  x = jnp.maximum(flat @ hidden['kernel'] + hidden['bias'][None, :], 0)
  return x @ head['kernel'] + head['bias'][None, :]


def log_p(params, part):
  """log p of each label in a set."""
  image, label = seen(part)
  all_classes = jax.nn.log_softmax(logits(params, image))
  return all_classes[np.arange(len(label)), label]


def ce(params, part):
  """The mean cross-entropy of a set."""
  return -log_p(params, part).mean()


def descended(losses, params):
  """Steps of plain gradient descent at RATE, one a loss."""

  def run(params):
    for loss in losses:
      found = jax.grad(loss)(params)
      params = jax.tree.map(lambda p, g: p - RATE * g, params, found)
    return params

  return jax.jit(run)(params)


def solved(
  factory,
  hyper,
  problem,
  *,
  network_of=None,
  optimizer=None,
  batch=COUNT,
  steps=2,
  **options,
):
  """theta_u of a method whose batches are whole sets, and its info."""
  model, variables = network_of or network()
  training = Training(optimizer or optax.sgd(RATE), steps, batch)
  method = factory(Network(model, PIXELS), training, **options)
  prepared = method.prepare(KEY, variables, problem)
  point = method.grid[0] if hyper is None else hyper
  found, info = method.solve(KEY, variables, problem, prepared, point)
  return method, prepared, found, info


def start():
  """theta_o of the dense network."""
  return network()[1].params
