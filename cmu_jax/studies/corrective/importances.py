"""Importances of parameters, which all methods of a problem share.

SSD and similar methods compare the importances of S_f with those of the other
samples. Importances depend on the original network and on the identified
samples, but not on the method or its grid. Hence one file serves every trial.

Squared batch means need a pass over S_tr for each identified fraction.
Per-sample importances are sums, so that one pass serves all fractions, see
`importance.compute_nested`.
"""

import functools
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree
from ml_collections import ConfigDict

from cmu_jax.core import config as config_lib
from cmu_jax.core import rng, tree
from cmu_jax.core.types import PRNGKey, Variables
from cmu_jax.methods.dampening import importance, ssd
from cmu_jax.methods.dampening.importance import ImportanceRequest, Importances
from cmu_jax.studies.corrective import benchmark
from cmu_jax.studies.corrective import problem as problems
from cmu_jax.studies.corrective.benchmark import Benchmark
from cmu_jax.studies.corrective.trials import Trial, case_address
from cmu_jax.studies.corrective.world import Scene
from cmu_jax.studies.engine.study import Cell, Context

FOLDER = 'importances'
_NEEDS = ('retain', 'forget')
# Kind -> the method whose random key is used: the method alone, outside of a
# study, computes the same importances.
_OWNER = {'batch': 'ssd', 'per_sample': 'ssd', 'xlf': 'potion'}


class TimedImportances(NamedTuple):
  """The content of a file.

  Attributes:
    pair: importances, each leaf with a leading axis of fractions.
    seconds: of the measurement, compilation included.
  """

  pair: Importances
  seconds: Float[Array, '']


def list_fractions(
  config: ConfigDict, trial: Trial, request: ImportanceRequest
) -> tuple[float, ...]:
  """Lists the identified fractions of one file, in ascending order."""
  # The mean of squared batch gradients depends on the batches of S_f.
  if request.config.kind != 'per_sample':
    return (trial.fraction,)
  others = map(float, config.identified_fractions)
  return tuple(sorted({*others, trial.fraction}))


def address(
  config: ConfigDict, digest: str, trial: Trial, request: ImportanceRequest
) -> str:
  """Computes the address of the file that a trial reads."""
  measure = request.config
  return config_lib.fingerprint(
    {
      'case': case_address(config, digest, trial.case),
      'kind': measure.kind,
      'batch_size': measure.batch_size,
      'augment': measure.augment,
      'denominator': request.denominator,
      'fractions': list_fractions(config, trial, request),
    }
  )


def _compute_nested(
  key: PRNGKey,
  request: ImportanceRequest,
  scene: Scene,
  original: Variables,
  shares: tuple[float, ...],
) -> Importances:
  """Computes per-sample importances at all fractions, in one pass."""
  problem = scene.problem
  counts = np.array([problems.count_identified(problem, x) for x in shares])
  values = importance.compute_nested(
    key, request.config, original, problem.train, problem.rank, counts
  )
  if request.denominator == 'retain':
    return values
  share = (counts / problem.rank.size).astype(np.float32)

  def average(retain: jax.Array, forget: jax.Array) -> jax.Array:
    # Means over S_f and over the rest make the mean over all of S_tr.
    weight = jnp.asarray(share.reshape(-1, *(1,) * (retain.ndim - 1)))
    return (1 - weight) * retain + weight * forget

  retain = jax.tree.map(average, values.retain, values.forget)
  return values._replace(retain=retain)


def measure_importances(
  request: ImportanceRequest,
  scene: Scene,
  original: Variables,
  shares: tuple[float, ...],
) -> Importances:
  """Measures importances at some identified fractions.

  Args:
    request: kind, batch size and denominator.
    scene: the problem.
    original: the network as trained on S_tr.
    shares: the fractions, in ascending order; a single fraction, unless the
      importances are per sample.

  Returns:
    A pair whose leaves have a leading axis of fractions.
  """
  method_key = rng.fold_in(scene.key, 'method', _OWNER[request.config.kind])
  key = rng.fold_in(method_key, 'prepare')
  if request.config.kind == 'per_sample':
    return _compute_nested(key, request, scene, original, shares)
  data = problems.give(scene.problem, shares[0], _NEEDS)
  values = ssd.compute_importances(
    key, request.config, original, data, request.denominator
  )
  # Of a single fraction: files have a leading axis of fractions.
  retain, forget = jax.tree.map(
    lambda leaf: leaf[None], (values.retain, values.forget)
  )
  return Importances(retain, forget, values.cost)


def _template(params: PyTree, count: int) -> TimedImportances:
  """Makes arrays of the shapes in a file, which reading checks."""
  wide = jax.tree.map(lambda x: jnp.zeros((count, *x.shape), x.dtype), params)
  return TimedImportances(Importances(wide, wide, jnp.int32(0)), jnp.float32(0))


def _request(
  context: Context[Benchmark], trial: Trial
) -> ImportanceRequest | None:
  methods = context.world.methods
  return methods[trial.case.manipulation, trial.method].importances


def _measure_all(
  context: Context[Benchmark], trial: Trial, request: ImportanceRequest
) -> TimedImportances:
  """Measures or reads the importances at all fractions of a file."""
  config, case = context.config, trial.case
  shares = list_fractions(config, trial, request)
  scene = benchmark.get_scene(context, case)
  original = benchmark.get_original(context, case)

  def compute() -> TimedImportances:
    began = time.monotonic()
    # JAX returns before its work is done.
    pair = jax.block_until_ready(
      measure_importances(request, scene, original, shares)
    )
    return TimedImportances(pair, jnp.float32(time.monotonic() - began))

  return context.store.read_or_compute(
    FOLDER,
    address(config, context.world.digest, trial, request),
    _template(original.params, len(shares)),
    compute,
  )


def measure_or_read(
  context: Context[Benchmark], trial: Trial
) -> TimedImportances | None:
  """Measures the importances of a trial, or reads them.

  Args:
    context: of the run.
    trial: a method at an identified fraction of a problem.

  Returns:
    Those at the fraction of the trial, without the leading axis; None if its
    method needs none.

  Raises:
    UserError: the file is broken or of another network.
  """
  request = _request(context, trial)
  if request is None:
    return None
  values = _measure_all(context, trial, request)
  position = list_fractions(context.config, trial, request).index(
    trial.fraction
  )
  retain, forget, cost = values.pair
  # The cost is that of the whole file: a repair at any fraction pays for it.
  retain, forget = tree.index((retain, forget), position)
  return TimedImportances(Importances(retain, forget, cost), values.seconds)


def list_cells(
  context: Context[Benchmark], trials: Sequence[Trial]
) -> list[Cell]:
  """Lists a cell for each file of importances that trials need."""
  cells: dict[str, Cell] = {}
  for trial in trials:
    request = _request(context, trial)
    if request is not None:
      name = address(context.config, context.world.digest, trial, request)
      compute = functools.partial(_measure_all, context, trial, request)
      # Methods and fractions that share a file have the same address.
      cells.setdefault(name, Cell(trial, name, compute, FOLDER))
  return list(cells.values())
