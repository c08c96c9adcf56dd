"""A run on ensembles: trainings, attacks, cells. It continues where it stopped.

A cell is one method at one seed: its training and all that is measured on it.
Its file is named by what its numbers depend on.
"""

import functools
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmu_jax.core import rng, store
from cmu_jax.core.types import Info, Network, Variables
from cmu_jax.robustness import lipschitz
from cmu_jax.studies.ensembles import training, transfer, world
from cmu_jax.studies.ensembles.world import Place
from cmu_jax.training import metrics


class Found(NamedTuple):
  """What a run has so far.

  Attributes:
    rows: one for each method, seed and threat model.
    curves: one for each method and seed: means over epochs.
    done: whether that is all.
  """

  rows: list[Info]
  curves: list[Info]
  done: bool


class TimeIsUp(Exception):
  """Raised after a checkpoint, in the middle of a training."""


def _late(deadline: float | None) -> bool:
  """Whether a moment of the monotonic clock is over."""
  return deadline is not None and time.monotonic() >= deadline


def _saving(
  place: Place, name: str, deadline: float | None
) -> store.Checkpoint:
  """Where a training saves itself; past the deadline it ends there."""
  kept = store.npz_checkpoint(
    place.folder, name, place.config.checkpoint_seconds
  )

  def save(state: Any, step: int) -> None:
    kept.save(state, step)
    if step < place.steps and _late(deadline):
      raise TimeIsUp

  return kept._replace(save=save)


class _Trained(NamedTuple):
  """An ensemble, and what its training was like, see `training.fit`."""

  variables: Variables
  history: jax.Array


def _trained(
  place: Place, method: str, seed: int, deadline: float | None
) -> _Trained:
  """From its file if it is done; measurements of other attacks read it too."""
  name = world.address(place, method, seed, measured=False)
  start = world.start(place, method, seed)
  kept: Any = store.npz_checkpoint(place.folder, f'whole{name}', 0.0)
  found = kept.restore(_Trained(start, jnp.zeros((place.steps, 4))))
  if found is not None:
    return found[0]
  # Surrogates see the images in another order than the ensembles they attack.
  key = rng.fold_in(seed, 'surrogate' if method == 'surrogate' else 'train')
  fitted = training.fit(
    key,
    place.recipes[method],
    start,
    place.dataset.train,
    place.steps,
    _saving(place, name, deadline),
    f'{method}, seed {seed}',
  )
  done = _Trained(fitted.variables, fitted.history)
  kept.save(done, 0)
  # The optimiser's state is as large as the network, and done with.
  store.remove_checkpoint(place.folder, name)
  return done


def _per_epoch(place: Place) -> int:
  size = place.dataset.train.label.shape[0]
  return max(1, size // min(place.config.train.batch_size, size))


def _curve(history: np.ndarray, per_epoch: int) -> Info:
  """Means over epochs; the last one may be short."""
  cuts = range(per_epoch, len(history), per_epoch)
  parts = np.split(history, list(cuts))
  means = np.asarray([part.mean(axis=0) for part in parts], float)
  names = {
    'loss': training.LOSS,
    'cross_entropy': training.CROSS_ENTROPY,
    'penalty': training.PENALTY,
    'train_accuracy': training.ACCURACY,
  }
  return {name: means[:, i].round(6).tolist() for name, i in names.items()}


def _idle(method: str, seed: int, history: np.ndarray, per_epoch: int) -> int:
  """Epochs without a penalty, which are said aloud."""
  if method != 'lotos':
    return 0
  idle = training.idle_epochs(history, per_epoch)
  if idle:
    print(
      f'warning: {method}, seed {seed}: the penalty was 0 throughout '
      f'{len(idle)} epochs, first in epoch {idle[0] + 1}: lower lotos.mal',
      file=sys.stderr,
    )
  return len(idle)


def _looks(
  place: Place, method: str, seed: int, variables: Variables, surrogate: Any
) -> list[Info]:
  """A row for each threat model."""
  config, test = place.config, place.dataset.test
  group, label = place.recipes[method].members, np.asarray(test.label)
  size = config.evaluate.batch_size
  predict = lambda model, own: metrics.predict(
    Network(model, place.inputs), own, test, size
  )
  networks = [group.one(variables, i) for i in range(group.size)]
  whole = (group.model, variables)
  before = np.stack([predict(*network) for network in networks])
  shared = {
    'test_accuracy': float(np.mean(predict(*whole) == label)),
    'member_accuracy': float(np.mean(before == label[None])),
  }
  rows = []
  for name in config.threats:
    found = transfer.weighed(
      rng.fold_in(seed, 'attack', name),
      networks,
      whole,
      surrogate,
      test,
      place.attack,
      transfer.threat(name, place.inputs, size),
      predict,
    )
    rows.append({'threat': name, **shared, **transfer.finite(found)})
  return rows


def _bound(place: Place, method: str, variables: Variables) -> float | None:
  """The Lipschitz bound of the first member, of network input."""
  if not place.config.evaluate.lipschitz:
    return None
  model, own = place.recipes[method].members.one(variables, 0)
  shape = place.inputs.eval(place.dataset.train.image[:1], None).shape[1:]
  apply = functools.partial(model.apply, own)
  return lipschitz.bound(rng.fold_in(0), apply, shape).value


def _cell(
  place: Place, method: str, seed: int, surrogate: Any, deadline: float | None
) -> Info:
  """What a cell's file holds."""
  began = time.monotonic()
  fitted = _trained(place, method, seed, deadline)
  history = np.asarray(fitted.history)
  seconds = time.monotonic() - began
  per_epoch = _per_epoch(place)
  shared = {
    'method': method,
    'seed': seed,
    'largest_layer_norm': world.largest_norm(place, method, fitted.variables),
    'member_lipschitz_bound': _bound(place, method, fitted.variables),
    'idle_epochs': _idle(method, seed, history, per_epoch),
    'training_seconds': round(seconds, 2),
  }
  looks = _looks(place, method, seed, fitted.variables, surrogate)
  return {
    'rows': [{**shared, **row} for row in looks],
    'curve': {'method': method, 'seed': seed, **_curve(history, per_epoch)},
    'device': jax.devices()[0].device_kind,
  }


def _surrogates(place: Place, deadline: float | None) -> Callable[[int], Any]:
  """The surrogate of a seed: trained once, the last one kept."""

  @functools.lru_cache(maxsize=1)
  def of(seed: int) -> Any:
    fitted = _trained(place, 'surrogate', seed, deadline)
    return place.recipes['surrogate'].members.one(fitted.variables, 0)

  return of


def _todo(
  place: Place,
  method: str,
  seed: int,
  surrogate: Callable[[int], Any],
  deadline: float | None,
) -> Info | None:
  """A cell from its file, or done and kept; None if the time is up."""
  name = world.address(place, method, seed, measured=True)
  record = store.read_record(place.folder, name)
  if record is not None:
    return record
  if _late(deadline):
    return None
  try:
    record = _cell(place, method, seed, surrogate(seed), deadline)
  except TimeIsUp:
    return None
  store.write_record(place.folder, name, record)
  return record


def run(place: Place, minutes: float | None) -> Found:
  """Does what is not done yet.

  Args:
    place: see `place.load`.
    minutes: after which no further cell is begun, and a training that saves
      itself ends; None for no limit.
  """
  deadline = None if minutes is None else time.monotonic() + 60 * minutes
  surrogate = _surrogates(place, deadline)
  config = place.config
  todo = [(m, s) for s in config.seeds for m in config.methods]
  found = []
  for method, seed in todo:
    record = _todo(place, method, seed, surrogate, deadline)
    if record is None:
      continue
    found.append(record)
    rate = record['rows'][0]['t_rate']
    said = 'none' if rate is None else f'{rate:.3f}'
    print(
      f'{len(found)}/{len(todo)} {method}, seed {seed}: T_rate {said}',
      file=sys.stderr,
    )
  missing = len(todo) - len(found)
  if missing:
    print(
      f'the time is up with {missing} of {len(todo)} cells to do: the same '
      'command continues',
      file=sys.stderr,
    )
  rows = [row for record in found for row in record['rows']]
  return Found(rows, [r['curve'] for r in found], not missing)
