"""The attacks of an audit: from the points to scores of members and others."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from cmu_jax import audits
from cmu_jax.commands.audit.npz_points import AuditPoints
from cmu_jax.commands.audit.request import AuditRequest


class AttackScores(NamedTuple):
  """An attack.

  Attributes:
    name: in tables.
    members: its scores of members; higher is more like one.
    others: of non-members.
    references: how many reference networks it rests on, or None.
    note: what to know about this run of it, or ''.
  """

  name: str
  members: np.ndarray
  others: np.ndarray
  references: int | None
  note: str = ''


def run_attacks(
  request: AuditRequest, points: AuditPoints
) -> list[AttackScores]:
  """Every attack that the points allow, the strongest in general first."""
  if points.scores is not None:
    return [AttackScores('given scores', *points.scores, None)]
  rows = _reference_attacks(request, points)
  rows += [
    (name, _signal_values(signal, points.logits, points.labels), None, '')
    for name, signal in (
      ('confidence', 'logit_confidence'),
      ('entropy', 'negative_entropy'),
    )
  ]
  member = points.member
  assert member is not None
  others = ~member if points.audited is None else ~member & points.audited
  return [
    AttackScores(name, score[member], score[others], count, note)
    for name, score, count, note in rows
  ]


def _signal_values(name: str, logits, labels, **options) -> np.ndarray:
  found = audits.SIGNALS[name](
    jnp.asarray(logits), jnp.asarray(labels), **options
  )
  return np.asarray(found, np.float64)


def _reference_attacks(
  request: AuditRequest, points: AuditPoints
) -> list[tuple]:
  """RMIA and LiRA; neither without reference networks."""
  if points.inside is None:
    return []
  assert points.member is not None
  inside, count = points.inside, len(points.inside)
  others = points.population
  order = {'order': request.taylor_order}
  seen = [
    _signal_values('taylor_softmax', points.logits, points.labels, **order),
    _signal_values('logit_confidence', points.logits, points.labels),
  ]
  known = _reference_signals(request, points)
  found = audits.rmia(
    seen[0],
    known[0],
    inside,
    ~points.member if others is None else others,
    gamma=request.gamma,
    a=request.offline_a,
  )
  rows = [
    ('RMIA', found.score, count, f'{found.tied:.0%} of the scores are equal'),
    ('RMIA, ratio alone', found.ratio, count, ''),
  ]
  online = request.offline_a is None
  if _has_variance(inside, online):
    pooled = audits.lira(
      seen[1], known[1], inside, variance='pooled', online=online
    )
    rows.append(('LiRA', pooled, count, 'variance pooled over points'))
  return rows


def _reference_signals(
  request: AuditRequest, points: AuditPoints
) -> list[np.ndarray]:
  """Both signals of the references, [K, n] each."""
  if points.reference_signals is not None:
    names = ('taylor_softmax', 'logit_confidence')
    return [points.reference_signals[name].astype(np.float64) for name in names]
  order = {'order': request.taylor_order}
  return [
    _signal_values(
      'taylor_softmax', points.reference_logits, points.labels, **order
    ),
    _signal_values('logit_confidence', points.reference_logits, points.labels),
  ]


def _has_variance(inside: np.ndarray, online: bool) -> bool:
  """Whether every point has the two models a side that a variance takes."""
  with_it = inside.sum(0).min() if online else 2
  return bool(min((~inside).sum(0).min(), with_it) >= 2)
