"""Importances of a sweep: taken once and kept, whatever cells want them.

SSD and its kin compare importances of S_f with those of the rest. They depend
on the original network and on who is identified, not on the method, nor on its
grid: a file, named by all that they do depend on, serves every cell. Squared
batch means take a pass over S_tr for each identified fraction; per-sample ones
add up, so that one pass serves all (`importance.compute_nested`).
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
# Whose key they are drawn with, so that a sweep finds what the method finds
# when it is called by itself.
_OWNER = {'batch': 'ssd', 'per_sample': 'ssd', 'xlf': 'potion'}


class Kept(NamedTuple):
  """What a file holds.

  Attributes:
    pair: importances, each leaf with a leading axis of fractions.
    seconds: how long they took, compilation included.
  """

  pair: Importances
  seconds: Float[Array, '']


def fractions(
  config: ConfigDict, trial: Trial, request: ImportanceRequest
) -> tuple[float, ...]:
  """The identified fractions that one file serves, rising."""
  if request.config.kind != 'per_sample':
    return (trial.fraction,)
  asked = map(float, config.identified_fractions)
  return tuple(sorted({*asked, trial.fraction}))


def address(
  config: ConfigDict, digest: str, trial: Trial, request: ImportanceRequest
) -> str:
  """What the importances that a cell wants depend on."""
  measure = request.config
  return config_lib.fingerprint(
    {
      'case': case_address(config, digest, trial.case),
      'kind': measure.kind,
      'batch_size': measure.batch_size,
      'augment': measure.augment,
      'denominator': request.denominator,
      'fractions': fractions(config, trial, request),
    }
  )


def _nested(
  key: PRNGKey,
  request: ImportanceRequest,
  scene: Scene,
  original: Variables,
  shares: tuple[float, ...],
) -> Importances:
  """Per-sample importances at all fractions, from one pass."""
  problem = scene.problem
  counts = np.array([problems.identified_count(problem, x) for x in shares])
  found = importance.compute_nested(
    key, request.config, original, problem.train, problem.rank, counts
  )
  if request.denominator == 'retain':
    return found
  part = (counts / problem.rank.size).astype(np.float32)

  def whole(kept: jax.Array, bad: jax.Array) -> jax.Array:
    mine = jnp.asarray(part.reshape(-1, *(1,) * (kept.ndim - 1)))
    return (1 - mine) * kept + mine * bad

  return found._replace(retain=jax.tree.map(whole, found.retain, found.forget))


def take(
  request: ImportanceRequest,
  scene: Scene,
  original: Variables,
  shares: tuple[float, ...],
) -> Importances:
  """Importances at some identified fractions.

  Args:
    request: which ones.
    scene: the seed.
    original: the network as trained on S_tr.
    shares: the fractions, rising; one only, unless they are per sample.

  Returns:
    A pair whose leaves have a leading axis of fractions.
  """
  owner = rng.fold_in(scene.key, 'method', _OWNER[request.config.kind])
  key = rng.fold_in(owner, 'prepare')
  if request.config.kind == 'per_sample':
    return _nested(key, request, scene, original, shares)
  given = problems.give(scene.problem, shares[0], _NEEDS)
  found = ssd.compute_importances(
    key, request.config, original, given, request.denominator
  )
  lead = lambda x: jax.tree.map(lambda y: y[None], x)
  return Importances(lead(found.retain), lead(found.forget), found.cost)


def _template(params: PyTree, count: int) -> Kept:
  wide = jax.tree.map(lambda x: jnp.zeros((count, *x.shape), x.dtype), params)
  return Kept(Importances(wide, wide, jnp.int32(0)), jnp.float32(0))


def _request(
  context: Context[Benchmark], trial: Trial
) -> ImportanceRequest | None:
  methods = context.world.methods
  return methods[trial.case.manipulation, trial.method].importances


def _measure_all(
  context: Context[Benchmark], trial: Trial, request: ImportanceRequest
) -> Kept:
  """Measures or reads the importances at all fractions of a file."""
  config, case = context.config, trial.case
  shares = fractions(config, trial, request)
  scene = benchmark.get_scene(context, case)
  original = benchmark.get_original(context, case)

  def compute() -> Kept:
    began = time.monotonic()
    pair = jax.block_until_ready(take(request, scene, original, shares))
    return Kept(pair, jnp.float32(time.monotonic() - began))

  return context.store.read_or_compute(
    FOLDER,
    address(config, context.world.digest, trial, request),
    _template(original.params, len(shares)),
    compute,
  )


def measure_or_read(context: Context[Benchmark], trial: Trial) -> Kept | None:
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
  position = fractions(context.config, trial, request).index(trial.fraction)
  select = lambda part: tree.index(part, position)
  pair = values.pair
  return Kept(
    Importances(select(pair.retain), select(pair.forget), pair.cost),
    values.seconds,
  )


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
      cells.setdefault(name, Cell(trial, name, compute, FOLDER))
  return list(cells.values())
