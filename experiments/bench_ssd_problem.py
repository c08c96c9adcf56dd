"""Networks, problems and our side of bench_ssd_grid."""

from collections.abc import Callable
from typing import Any, NamedTuple

import bench_common
import jax
import jax.numpy as jnp
import numpy as np

from cmu_jax import networks
from cmu_jax.core import rng
from cmu_jax.core.types import (
  Batch,
  Method,
  MethodInputs,
  Network,
  Training,
  Variables,
)
from cmu_jax.data import input_step, sources
from cmu_jax.methods.dampening import importance, ssd
from cmu_jax.studies.corrective import problem as problems
from cmu_jax.training import optimizers, train


class Case(NamedTuple):
  """A network and the size of its images."""

  model: str
  options: dict[str, int]
  side: int

  @property
  def shape(self) -> tuple[int, int, int]:
    return self.side, self.side, 1


class Setup(NamedTuple):
  """The data of both sides; `data` has a value for each fraction."""

  case: Case
  network: Network
  variables: Variables
  problem: problems.Problem
  data: list[MethodInputs]
  test: Batch


CASES = {
  'digits-convnet': Case('convnet', {'width': 1}, 8),
  'digits-mlp': Case('fc', {'width': 128, 'depth': 2}, 8),
  'mnist-convnet': Case('convnet', {'width': 1}, 28),
  'mnist-mlp': Case('fc', {'width': 128, 'depth': 2}, 28),
}
FRACTIONS = tuple(round(0.1 * i, 1) for i in range(1, 11))
KEY = rng.fold_in(0)


def prepare(case: Case, source: str, count: int, steps: int) -> Setup:
  """Trains a network on samples of which a tenth has a wrong label."""
  loaded = sources.load(source, image_size=None)
  clean = bench_common.fit_images(loaded.train, case.side, 1, count)
  test = bench_common.fit_images(loaded.test, case.side, 1, min(count, 1000))
  bad = np.random.default_rng(0).permutation(count)[: count // 10]
  rank = np.full(count, -1)
  rank[bad] = np.arange(bad.size)
  wrong = (clean.label + 1) % 10
  mixed = clean._replace(label=jnp.where(rank >= 0, wrong, clean.label))
  step = input_step.make((0.45,), (0.25,))
  model = networks.make(case.model, 10, case.shape, **case.options)
  start = jax.jit(model.init)(
    rng.fold_in(KEY, 'init'), step.eval(mixed.image[:1])
  )
  network = Network(model, step)
  optimizer = optimizers.adamw(optimizers.constant_schedule(2e-3))
  fitted = train.fit(
    rng.fold_in(KEY, 'train'),
    network,
    start,
    mixed,
    Training(optimizer, steps, 128),
    train.Session('original network'),
  )
  problem = problems.Problem(
    mixed, np.asarray(clean.label), rank, None, None, test
  )
  data = [problems.give(problem, x, ('retain', 'forget')) for x in FRACTIONS]
  return Setup(case, network, fitted.variables, problem, data, test)


def method(setup: Setup, size: int, kind: str = 'batch') -> Method:
  """SSD without augmentation, because PyTorch's side has none."""
  return ssd.ssd(setup.network, kind=kind, batch_size=size, augment=False)


def solver(setup: Setup, method: Method, predict: bool) -> Callable:
  """(prepared) -> parameters or predictions of every point, one program."""
  hypers = {
    name: jnp.asarray([point[name] for point in method.grid], jnp.float32)
    for name in method.grid[0]
  }
  image = setup.network.inputs.eval(setup.test.image, None)

  def run(variables, prepared, hypers):
    def repair(hyper):
      repaired, _ = method.solve(KEY, variables, None, prepared, hyper)
      if predict:
        return setup.network.model.apply(repaired, image).argmax(-1)
      return repaired.params

    return jax.lax.map(repair, hypers)

  compiled = jax.jit(run)
  return lambda prepared: compiled(setup.variables, prepared, hypers)


def our_repairs(setup: Setup, size: int, predict: bool) -> Callable[[], Any]:
  """() -> the outputs of every repair, by fraction."""
  dampening = method(setup, size)
  solve = solver(setup, dampening, predict)

  def run():
    outputs = [
      solve(dampening.prepare(KEY, setup.variables, data))
      for data in setup.data
    ]
    return jax.block_until_ready(outputs)

  return run


def per_sample_repairs(setup: Setup) -> Callable[[], Any]:
  """() -> the repairs from importances of one pass over S_tr."""
  dampening = method(setup, 512, 'per_sample')
  config = importance.ImportanceConfig(
    setup.network, 'per_sample', augment=False
  )
  solve = solver(setup, dampening, False)
  counts = np.array(
    [problems.count_identified(setup.problem, x) for x in FRACTIONS]
  )

  def run():
    nested = importance.compute_nested(
      KEY,
      config,
      setup.variables,
      setup.problem.train,
      setup.problem.rank,
      counts,
    )
    outputs = []
    for i in range(counts.size):
      sides = jax.tree.map(lambda x, i=i: x[i], (nested.retain, nested.forget))
      outputs.append(solve(importance.Importances(*sides, nested.cost)))
    return jax.block_until_ready(outputs)

  return run
