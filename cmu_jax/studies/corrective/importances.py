"""Importances of a sweep: taken once and kept, whatever cells want them.

SSD and its kin compare importances of S_f with those of the rest. They depend
on the original network and on who is identified, not on the method, nor on its
grid: a file, named by all that they do depend on, serves every cell. Squared
batch means take a pass over S_tr for each identified fraction; per-sample ones
add up, so that one pass serves all (`importance.compute_nested`).
"""

import time
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
from cmu_jax.studies.corrective import cells
from cmu_jax.studies.corrective import problem as problems
from cmu_jax.studies.corrective.cells import Cell
from cmu_jax.studies.corrective.stage import Benchmark
from cmu_jax.studies.corrective.world import Scene
from cmu_jax.studies.engine.study import Context

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
  config: ConfigDict, cell: Cell, request: ImportanceRequest
) -> tuple[float, ...]:
  """The identified fractions that one file serves, rising."""
  if request.config.kind != 'per_sample':
    return (cell.fraction,)
  asked = map(float, config.identified_fractions)
  return tuple(sorted({*asked, cell.fraction}))


def address(
  config: ConfigDict, summed: str, cell: Cell, request: ImportanceRequest
) -> str:
  """What the importances that a cell wants depend on."""
  measure = request.config
  return config_lib.fingerprint(
    {
      'case': cells.case_address(config, summed, cell.case),
      'kind': measure.kind,
      'batch_size': measure.batch_size,
      'augment': measure.augment,
      'denominator': request.denominator,
      'fractions': fractions(config, cell, request),
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


def read_or_measure(
  context: Context[Benchmark],
  cell: Cell,
  request: ImportanceRequest,
  scene: Scene,
  original: Variables,
) -> Kept:
  """Reads the importances of a cell, or measures and writes them.

  Args:
    context: of the run.
    cell: its method asks for the importances.
    request: of the method.
    scene: data of the case.
    original: the network as trained on S_tr.

  Returns:
    Importances at the fraction of the cell, without the leading axis.

  Raises:
    UserError: the file is broken or of another network.
  """
  shares = fractions(context.config, cell, request)

  def measure() -> Kept:
    began = time.monotonic()
    pair = jax.block_until_ready(take(request, scene, original, shares))
    return Kept(pair, jnp.float32(time.monotonic() - began))

  stacked = context.store.read_or_compute(
    FOLDER,
    address(context.config, context.world.digest, cell, request),
    _template(original.params, len(shares)),
    measure,
  )
  position = shares.index(cell.fraction)
  select = lambda x: tree.index(x, position)
  pair = stacked.pair
  return Kept(
    Importances(select(pair.retain), select(pair.forget), pair.cost),
    stacked.seconds,
  )
