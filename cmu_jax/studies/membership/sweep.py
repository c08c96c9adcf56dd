"""The audits of a run: networks are trained, made to forget, and attacked."""

import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from cmu_jax.audits import shadow
from cmu_jax.core import rng
from cmu_jax.studies.membership import attacks
from cmu_jax.studies.membership import world as places
from cmu_jax.studies.membership.attacks import (
  Known,
  Options,
  Scored,
  Statistics,
  Targets,
)
from cmu_jax.studies.membership.world import Place


class Audited(NamedTuple):
  """What was audited, and the scores of an attack on it.

  Attributes:
    method: of the roster, 'none' or 'retrain'.
    points: 'forget' (D_F against unseen points) or 'retain' (D_R).
    adaptive: whether the references were unlearned with the method too.
    statistics: what the audited networks say.
    groups: D_F, D_R and unseen points of each of them.
    scored: the scores.
  """

  method: str
  points: str
  adaptive: bool
  statistics: Statistics
  groups: dict[str, Bool[np.ndarray, 's n']]
  scored: Scored


class _World(NamedTuple):
  """Who is trained on what."""

  inside: Bool[np.ndarray, 's n']
  forget: Bool[np.ndarray, 's n']

  @property
  def groups(self) -> dict[str, Bool[np.ndarray, 's n']]:
    return {
      'forget': self.forget,
      'retain': self.inside & ~self.forget,
      'unseen': ~self.inside,
    }


def _statistics(place: Place, world: _World, name: str, method: str):
  """What networks say once the method is done with them."""
  if method == 'none':
    kept = bool(place.config.methods)
    return places.train(place, name, world.inside, kept=kept).statistics
  if method == 'retrain':
    rest = world.inside & ~world.forget
    return places.train(place, f'{name}, retrained', rest).statistics
  found = places.train(place, name, world.inside, world.forget, method)
  assert found.unlearned is not None
  return found.unlearned


def _drawn(place: Place, name: str, inside: Bool[np.ndarray, 'k n']) -> _World:
  count = places.forgotten(place.config, inside.shape[1])
  return _World(
    inside, places.forget(rng.fold_in(0, name, 'forget'), inside, count)
  )


def _references(place: Place) -> _World:
  """K networks on halves of the pool, and what they would forget."""
  size = place.pool.label.shape[0]
  key = rng.fold_in(0, 'references', 'members')
  inside = shadow.assign_halves(key, place.config.references, size)
  return _drawn(place, 'references', inside)


def _methods(place: Place) -> tuple[str, ...]:
  return ('none', 'retrain', *place.config.methods)


def rmia(place: Place) -> Iterator[list[Audited]]:
  """Every method on the networks of all seeds, a method at a time."""
  config, options = place.config, place.config.rmia
  known = _references(place)
  world = _drawn(place, 'audited', places.audited(place))
  shared = _statistics(place, known, 'references', 'none')
  for method in _methods(place):
    found = _statistics(place, world, 'audited', method)
    rows = []
    kinds = [(shared, None, False)]
    if config.adaptive and method in config.methods:
      own = _statistics(place, known, 'references', method)
      kinds.append((own, options.offline_a, True))
    for references, a, adaptive in kinds:
      for points in ('forget', 'retain'):
        groups = world.groups
        targets = Targets(found, groups[points], groups['unseen'])
        rows += [
          Audited(method, points, adaptive, found, groups, scored)
          for scored in attacks.relative(
            targets,
            Known(references, known.inside),
            Options(options.signal, options.gamma, a),
          )
        ]
    yield rows


def ulira(place: Place) -> Iterator[list[Audited]]:
  """Every method on K networks, each of which forgets points of its own.

  U-LiRA, and what the other attacks make of the same networks and points, with
  the others of the K as references: as they were trained, and adaptive, once
  the method is done with them. The adaptive one compares with networks that
  forgot the point and with those that never saw it, as U-LiRA does.
  """
  world = _references(place)
  groups, rmia = world.groups, place.config.rmia
  options = Options(rmia.signal, rmia.gamma)
  plain: Statistics | None = None
  for method in _methods(place):
    found = _statistics(place, world, 'references', method)
    plain = found if plain is None else plain
    targets = Targets(found, groups['forget'], groups['unseen'])
    made = [
      (
        True,
        [
          attacks.per_example(
            found['logit_confidence'], groups['forget'], groups['unseen']
          )
        ],
      ),
      (False, attacks.among(targets, Known(plain, world.inside), options)),
    ]
    if place.config.adaptive:
      known = Known(found, groups['forget'], groups['unseen'])
      made.append((True, attacks.among(targets, known, options)))
    yield [
      Audited(method, 'forget', adaptive, found, groups, scored)
      for adaptive, several in made
      for scored in several
    ]


def run(place: Place, minutes: float | None) -> tuple[list[Audited], bool]:
  """All audits, as far as the time allows.

  Args:
    place: of the run.
    minutes: after which no further method is begun; None for no limit.

  Returns:
    The audits, and whether they are all.
  """
  until = None if minutes is None else time.monotonic() + 60 * minutes
  found: list[Audited] = []
  left = len(_methods(place))
  for rows in {'rmia': rmia, 'ulira': ulira}[place.config.attack](place):
    found, left = found + rows, left - 1
    if left and until is not None and time.monotonic() > until:
      print('the time is up: the same command continues', file=sys.stderr)
      break
  return found, not left
