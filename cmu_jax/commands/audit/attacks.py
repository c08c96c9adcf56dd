"""The attacks of an audit: from points to scores of members and others."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from cmu_jax import audits
from cmu_jax.commands.audit.npz_points import AuditPoints
from cmu_jax.commands.audit.request import AuditRequest


class AttackScores(NamedTuple):
  """The scores of an attack.

  Attributes:
    name: of the attack, in tables.
    members: scores of members; higher is more like a member.
    others: scores of non-members.
    references: number of reference networks behind the scores, or None.
    note: remark on these scores, or ''.
  """

  name: str
  members: np.ndarray
  others: np.ndarray
  references: int | None
  note: str = ''


def run_attacks(
  request: AuditRequest, points: AuditPoints
) -> list[AttackScores]:
  """Runs every attack that the points allow, the strongest in general first."""
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
  values = audits.SIGNALS[name](
    jnp.asarray(logits), jnp.asarray(labels), **options
  )
  # Ratios and Gaussians of float32 probabilities near 0 or 1 would round.
  return np.asarray(values, np.float64)


def _reference_attacks(
  request: AuditRequest, points: AuditPoints
) -> list[tuple]:
  """Runs RMIA and LiRA, which need reference networks."""
  if points.inside is None:
    return []
  assert points.member is not None
  inside, count = points.inside, len(points.inside)
  population = points.population
  softmax, confidence = _both_signals(request, points.logits, points.labels)
  reference_softmax, reference_confidence = _reference_signals(request, points)
  attack = audits.rmia(
    softmax,
    reference_softmax,
    inside,
    ~points.member if population is None else population,
    gamma=request.gamma,
    a=request.offline_a,
  )
  rows = [
    ('RMIA', attack.score, count, f'{attack.tied:.0%} of the scores are equal'),
    ('RMIA, ratio alone', attack.ratio, count, ''),
  ]
  online = request.offline_a is None
  if _has_variance(inside, online):
    score = audits.lira(
      confidence,
      reference_confidence,
      inside,
      # Per-point variances need about 64 references.
      variance='pooled',
      online=online,
    )
    rows.append(('LiRA', score, count, 'variance pooled over points'))
  return rows


def _both_signals(request: AuditRequest, logits, labels) -> list[np.ndarray]:
  """The signals of RMIA and of LiRA."""
  order = {'order': request.taylor_order}
  return [
    _signal_values('taylor_softmax', logits, labels, **order),
    _signal_values('logit_confidence', logits, labels),
  ]


def _reference_signals(
  request: AuditRequest, points: AuditPoints
) -> list[np.ndarray]:
  """Both signals of the references, [K, n] each."""
  if points.reference_signals is None:
    return _both_signals(request, points.reference_logits, points.labels)
  names = ('taylor_softmax', 'logit_confidence')
  return [points.reference_signals[name].astype(np.float64) for name in names]


def _has_variance(inside: np.ndarray, online: bool) -> bool:
  """True if every point has the two models a side that a variance takes."""
  least_inside = inside.sum(0).min() if online else 2
  return bool(min((~inside).sum(0).min(), least_inside) >= 2)
