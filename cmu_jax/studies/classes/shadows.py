"""Networks for U-LiRA of a class: K that forget it, K that never saw it.

They are trained by `shadow.train`, beside the networks that a run reports on,
which are too few for Gaussians.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from cmu_jax.audits import shadow
from cmu_jax.core import config as config_lib
from cmu_jax.core import rng, tree
from cmu_jax.core.types import Info, Variables
from cmu_jax.studies.classes import addresses as addresses_lib
from cmu_jax.studies.classes import measure, retrained, world
from cmu_jax.studies.classes.addresses import Cell
from cmu_jax.studies.classes.measure import Reference
from cmu_jax.studies.engine import recipes
from cmu_jax.studies.subsets import addresses, sweep
from cmu_jax.studies.subsets import measure as looks
from cmu_jax.studies.subsets.sweep import Run
from cmu_jax.studies.subsets.world import Place

Statistics = dict[str, Float[np.ndarray, 'k m']]


class Told(NamedTuple):
  """What U-LiRA of a class looks at, by statistic.

  Attributes:
    unlearned: method -> under K networks that it made to forget the class.
    retrained: under K networks that never saw it.
  """

  unlearned: dict[str, Statistics]
  retrained: Statistics


def _trained(
  place: Place, name: str, inside: Bool[np.ndarray, 'n']
) -> Callable[[int], Variables]:
  """K networks of the same points; a function from their number to each."""
  config, count = place.config, place.config.shadows
  training = recipes.fit_options(config.train, int(inside.sum()), 'train')
  found = shadow.train(
    rng.fold_in(0, name),
    place.model,
    place.dataset.train,
    np.tile(inside, (count, 1)),
    shadow.ShadowTraining(place.inputs, *training),
    signals={},
    weights=True,
    plan=shadow.Plan(
      save_seconds=config.checkpoint_seconds,
      folder=place.folder,
      address=addresses.trained(place, 'shadow'),
      title=name,
    ),
  )
  return lambda i: jax.tree.map(jnp.asarray, tree.index(found.variables, i))


def begin(place: Place) -> Callable[[int], Variables] | None:
  """The K networks that will forget; None where none are asked for."""
  if not place.config.shadows:
    return None
  size = place.dataset.train.label.shape[0]
  return _trained(place, 'shadow models', np.ones(size, bool))


def _seen(place: Place, found: Variables, known: Reference) -> Info:
  told = measure.statistics(place, looks.look(place, found), known)
  return {name: np.round(x, 4).tolist() for name, x in told.items()}


def _unlearned(
  run: Run,
  cell: Cell,
  hyper: dict[str, float],
  known: Reference,
  original: Callable[[int], Variables],
) -> Info | None:
  """The statistics of one network that forgot; None if the time is up."""
  place, seen = run.place, lambda found: _seen(run.place, found, known)
  if cell.method == 'none':
    return seen(original(cell.seed))
  compared = retrained.count(place, cell.forget_class)
  name = config_lib.fingerprint(
    {
      'shadow': addresses.trained(place, 'shadow'),
      'nearest': known.nearest,
      'cell': addresses_lib.cell(place, cell, (hyper,), compared),
    }
  )

  def compute() -> list[Info]:
    method = place.methods[cell.method]
    given = world.give(place, cell.forget_class, method.needs)
    key = rng.fold_in(0, 'shadow', *map(str, cell))
    return sweep.solved(key, method, original(cell.seed), given, (hyper,), seen)

  rows = sweep.kept(run, name, cell, compute)
  return None if rows is None else rows[0]


def told(
  run: Run,
  known: Reference,
  hypers: dict[str, dict[str, float]],
  original: Callable[[int], Variables],
  advance: Callable[..., None],
) -> Told | None:
  """What U-LiRA looks at for one class.

  Args:
    run: under way.
    known: the class, and what is nearest to it.
    hypers: method -> its hyperparameters.
    original: of `begin`.
    advance: of the progress bar.

  Returns:
    None if the time is up; a method of which a network diverged is left out.
  """
  place, forgotten = run.place, known.forgotten
  count, unlearned = place.config.shadows, {}
  for method, hyper in hypers.items():
    rows = []
    for number in range(count):
      cell = Cell(number, forgotten, method)
      row = _unlearned(run, cell, hyper, known, original)
      advance(note=f'{method}, shadow model {number}, class {forgotten}')
      if row is None:
        return None
      rows.append(row)
    if not any(row.get('diverged') for row in rows):
      unlearned[method] = _stacked(rows)
  if retrained.late(run):
    return None
  label = np.asarray(place.dataset.train.label)
  without = _trained(
    place, f'shadow models without class {forgotten}', label != forgotten
  )
  rows = [_seen(place, without(i), known) for i in range(count)]
  return Told(unlearned, _stacked(rows))


def _stacked(rows: list[Info]) -> Statistics:
  return {
    name: np.array([row[name] for row in rows]) for name in measure.STATISTICS
  }
