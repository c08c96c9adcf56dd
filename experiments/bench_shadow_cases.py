"""The cases of bench_shadow, and our side of it."""

import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmu_jax import networks
from cmu_jax.audits import shadow
from cmu_jax.core import progress
from cmu_jax.core.types import Batch
from cmu_jax.data import input_step, sources
from cmu_jax.training import optimizers


class Case(NamedTuple):
  """A network, its training, and the speed to reach relative to PyTorch."""

  model: str
  options: dict[str, int]
  side: int
  batch: int
  steps: int
  goal: float


CASES = {
  'mlp32': Case('fc', {'width': 32, 'depth': 2}, 8, 64, 400, 5),
  'mlp128': Case('fc', {'width': 128, 'depth': 2}, 8, 64, 400, 2),
  'mlp784': Case('fc', {'width': 128, 'depth': 2}, 28, 256, 100, 1),
}
GPU = {'convnet': Case('convnet', {'width': 1}, 28, 128, 400, 8)}
ALL = {**CASES, **GPU}
RATE = 0.05


@functools.cache
def digits(side: int) -> Batch:
  """Loads the digits, `side` pixels wide; raw pixels 0 to 255."""
  dataset = sources.load('digits')
  image = jnp.concatenate([dataset.train.image, dataset.test.image])
  label = jnp.concatenate([dataset.train.label, dataset.test.label])
  if side != image.shape[1]:
    shape = (len(label), side, side, 1)
    wide = jax.image.resize(image.astype(jnp.float32), shape, 'bilinear')
    image = jnp.clip(jnp.round(wide), 0, 255).astype(jnp.uint8)
  return Batch(image, label)


# Cached, because compilations are keyed by these objects.
@functools.cache
def recipe(case_name: str) -> tuple[Any, shadow.ShadowTraining]:
  """Returns the network of a case and its training."""
  case = ALL[case_name]
  shape = (case.side, case.side, 1)
  model = networks.make(case.model, 10, shape, **case.options)
  step = input_step.make((0.3,), (0.35,))
  optimizer = optimizers.sgd(optimizers.constant_schedule(RATE))
  return model, shadow.ShadowTraining(step, optimizer, case.steps, case.batch)


def train_shadows(
  name: str, inside: np.ndarray, seed: int, **plan: Any
) -> tuple[float, np.ndarray]:
  """Trains shadow models; returns the seconds, and their hits [k, n]."""
  model, fit = recipe(name)
  batch = digits(ALL[name].side)
  began = time.perf_counter()
  with progress.mute():
    trained = shadow.train(
      jax.random.key(seed),
      model,
      batch,
      inside,
      fit,
      signals={'hit': _hit},
      plan=shadow.Plan(**plan),
    )
  return time.perf_counter() - began, trained.statistics['hit'].astype(bool)


def _hit(logits: jax.Array, label: jax.Array) -> jax.Array:
  return jnp.argmax(logits, axis=-1) == label


def unseen(hits: np.ndarray, inside: np.ndarray) -> np.ndarray:
  """Computes the accuracy of each model on points outside its training set."""
  return np.array([h[~i].mean() for h, i in zip(hits, inside, strict=True)])
