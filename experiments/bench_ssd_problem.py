"""Networks, problems and our side of bench_ssd_grid."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmu_jax import networks
from cmu_jax.core import rng
from cmu_jax.core.types import (
  Batch,
  InputStep,
  MethodInputs,
  Model,
  Network,
  Training,
  Variables,
)
from cmu_jax.data import input_step, sources
from cmu_jax.methods.dampening import importance, ssd
from cmu_jax.studies.corrective import problem
from cmu_jax.training import optimizers, train


class Case(NamedTuple):
  """One network and the size of its images."""

  model: str
  options: dict[str, int]
  side: int


class Setup(NamedTuple):
  """What every contestant gets."""

  model: Model
  inputs: InputStep
  variables: Variables
  problem: problem.Problem
  given: list[MethodInputs]
  test: Batch


CASES = {
  'digits-convnet': Case('convnet', {'width': 1}, 8),
  'digits-mlp': Case('fc', {'width': 128, 'depth': 2}, 8),
  'mnist-convnet': Case('convnet', {'width': 1}, 28),
  'mnist-mlp': Case('fc', {'width': 128, 'depth': 2}, 28),
}
FRACTIONS = tuple(round(0.1 * i, 1) for i in range(1, 11))
KEY = rng.fold_in(0)


def _resized(batch: Batch, side: int, count: int) -> Batch:
  """Grey images of a side; digits stand in for larger ones."""
  rows = jnp.arange(count) % batch.label.shape[0]
  image = batch.image[rows][..., :1].astype(jnp.float32)
  image = jax.image.resize(image, (count, side, side, 1), 'linear')
  noise = jax.random.uniform(jax.random.key(count), image.shape, maxval=32)
  pixels = jnp.clip(image + noise, 0, 255).astype(jnp.uint8)
  return Batch(pixels, batch.label[rows])


def prepare(case: Case, source: str, count: int, steps: int) -> Setup:
  """A network trained on samples of which a tenth has a wrong label."""
  loaded = sources.load(source, image_size=None)
  clean = _resized(loaded.train, case.side, count)
  test = _resized(loaded.test, case.side, min(count, 1000))
  state = np.random.default_rng(0)
  bad = state.permutation(count)[: count // 10]
  rank = np.full(count, -1)
  rank[bad] = np.arange(bad.size)
  wrong = (clean.label + 1) % 10
  mixed = clean._replace(label=jnp.where(rank >= 0, wrong, clean.label))
  step = input_step.make((0.45,), (0.25,))
  model = networks.make(case.model, 10, shape(case), **case.options)
  start = jax.jit(model.init)(
    rng.fold_in(KEY, 'init'), step.eval(mixed.image[:1])
  )
  fitted = train.fit(
    rng.fold_in(KEY, 'train'),
    Network(model, step),
    start,
    mixed,
    training=Training(
      optimizer=optimizers.adamw(optimizers.constant_schedule(2e-3)),
      steps=steps,
      batch_size=128,
    ),
    title='original network',
  )
  posed = problem.Problem(
    mixed, np.asarray(clean.label), rank, None, None, test
  )
  given = [problem.give(posed, x, ('retain', 'forget')) for x in FRACTIONS]
  return Setup(model, step, fitted.variables, posed, given, test)


def solver(setup: Setup, method: Any, predict: bool) -> Callable:
  """(prepared) -> parameters or predictions of every point, one program."""
  hypers = {
    name: jnp.asarray([point[name] for point in method.grid], jnp.float32)
    for name in method.grid[0]
  }
  image = setup.inputs.eval(setup.test.image, None)

  def run(variables, prepared, hypers):
    def one(hyper):
      found, _ = method.solve(KEY, variables, None, prepared, hyper)
      if predict:
        return setup.model.apply(found, image).argmax(-1)
      return found.params

    return jax.lax.map(one, hypers)

  compiled = jax.jit(run)
  return lambda prepared: compiled(setup.variables, prepared, hypers)


def ours(setup: Setup, size: int, predict: bool) -> Callable[[], Any]:
  """() -> what every repair gives, by fraction."""
  method = ssd.ssd(
    Network(setup.model, setup.inputs), batch_size=size, augment=False
  )
  solve = solver(setup, method, predict)

  def run():
    found = [
      solve(method.prepare(KEY, setup.variables, given))
      for given in setup.given
    ]
    return jax.block_until_ready(found)

  return run


def per_sample(setup: Setup) -> Callable[[], Any]:
  """The repairs from importances of one pass over S_tr."""
  method = ssd.ssd(
    Network(setup.model, setup.inputs), kind='per_sample', augment=False
  )
  measure = importance.ImportanceConfig(
    setup.model, setup.inputs, 'per_sample', augment=False
  )
  solve = solver(setup, method, False)
  counts = np.array(
    [problem.identified_count(setup.problem, x) for x in FRACTIONS]
  )

  def run():
    pair = importance.compute_nested(
      KEY,
      measure,
      setup.variables,
      setup.problem.train,
      setup.problem.rank,
      counts,
    )
    found = []
    for i in range(counts.size):
      one = jax.tree.map(lambda x, i=i: x[i], (pair.retain, pair.forget))
      found.append(solve(importance.Importances(*one, pair.cost)))
    return jax.block_until_ready(found)

  return run


def shape(case: Case) -> tuple[int, int, int]:
  """Of its images."""
  return case.side, case.side, 1
