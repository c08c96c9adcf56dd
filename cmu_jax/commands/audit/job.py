"""An audit from the request to the report: its attacks and their rows."""

import functools
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from cmu_jax import audits
from cmu_jax.commands import frame
from cmu_jax.commands.audit import (
  likeness,
  npz_points,
  page,
  reference_networks,
)
from cmu_jax.commands.audit.npz_points import AttackScores, AuditPoints
from cmu_jax.commands.requests import AuditRequest
from cmu_jax.core import provenance, rng
from cmu_jax.core.types import Info


def run(request: AuditRequest) -> Info:
  """Audits and writes results, figure and report.

  Raises:
    UserError: settings, arrays, weights or pictures that do not fit; then
      nothing is written.
  """
  if request.weights:
    return _audit_network(request)
  assert request.scores is not None
  points = npz_points.read_points(request.scores)
  scores = run_attacks(request, points)
  digest = provenance.digest(
    *(side for attack in scores for side in (attack.members, attack.others))
  )
  return frame.run_job(
    request,
    {'scores_sha256': digest},
    lambda *_: _summarize(request, points, scores),
  )


def _audit_network(request: AuditRequest) -> Info:
  """Trains reference networks, and attacks the network with their help."""
  case = reference_networks.read_case(request)

  def compute(_: Info, out: pathlib.Path) -> tuple[Info, frame.Report]:
    points = reference_networks.train_references(request, case, out)
    return _summarize(request, points, run_attacks(request, points))

  settings = reference_networks.case_settings(case)
  return frame.run_job(request, settings, compute)


def _summarize(
  request: AuditRequest, points: AuditPoints, scores: list[AttackScores]
) -> tuple[Info, frame.Report]:
  """The rows of all attacks, the likeness of references, and the report."""
  key = rng.fold_in(request.seed, 'audit')
  # A key for each attack: its interval does not depend on the other attacks.
  rows = [
    _row(rng.fold_in(key, attack.name), attack, request, len(scores))
    for attack in scores
  ]
  # The scores themselves are not results: only the figure needs them.
  report = page.REPORT._replace(
    draw=functools.partial(page.draw_curves, scores=scores)
  )
  return {'references': likeness.compare(points), 'rows': rows}, report


def _row(
  key: Any, attack: AttackScores, request: AuditRequest, attacks: int
) -> Info:
  """The audit of an attack's scores among several attacks, as JSON."""
  audit = audits.evaluate(
    key,
    attack.members,
    attack.others,
    references=attack.references,
    replicates=request.replicates,
    rule=audits.DecisionRule(attacks=attacks),
  )
  values = {
    name: value._asdict()
    if isinstance(value, audits.BootstrapEstimate)
    else value
    for name, value in audit._asdict().items()
  }
  # A list, as JSON reads it back.
  values['interval'] = list(audit.interval)
  return {'attack': attack.name, 'note': attack.note, **values}


def run_attacks(
  request: AuditRequest, points: AuditPoints
) -> list[AttackScores]:
  """Runs every attack that the points allow, the strongest in general first."""
  if points.scores is not None:
    # The user's own attack stands alone: no network is at hand.
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
  # Further pictures are neither members nor audited.
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
  # Only thresholds on the network itself remain.
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
  # LiRA follows the choice of RMIA, because offline references lack the point.
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
  # Offline, models with the point are not asked.
  least_inside = inside.sum(0).min() if online else 2
  return bool(min((~inside).sum(0).min(), least_inside) >= 2)
