"""One audit, from the request to the report."""

import functools
import pathlib
from typing import Any

from cmu_jax import audits
from cmu_jax.commands import frame
from cmu_jax.commands.audit import attacks, npz_points, page, reference_networks
from cmu_jax.commands.audit.attacks import AttackScores
from cmu_jax.commands.audit.request import AuditRequest
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
  scores = attacks.run_attacks(request, npz_points.read_points(request.scores))
  digest = provenance.digest(
    *(side for attack in scores for side in (attack.members, attack.others))
  )
  return frame.run_job(
    request, {'scores_sha256': digest}, lambda *_: _summarize(request, scores)
  )


def _audit_network(request: AuditRequest) -> Info:
  """Trains reference networks, and attacks the network with their help."""
  case = reference_networks.read_case(request)

  def compute(_: Info, out: pathlib.Path) -> tuple[Info, frame.Report]:
    points = reference_networks.train_references(request, case, out)
    return _summarize(request, attacks.run_attacks(request, points))

  settings = reference_networks.case_settings(case)
  return frame.run_job(request, settings, compute)


def _summarize(
  request: AuditRequest, scores: list[AttackScores]
) -> tuple[Info, frame.Report]:
  """The rows of all attacks, and their report."""
  key = rng.fold_in(request.seed, 'audit')
  rows = [
    _row(rng.fold_in(key, attack.name), attack, request) for attack in scores
  ]
  # The scores themselves are not results: only the figure needs them.
  report = page.REPORT._replace(
    draw=functools.partial(page.draw_curves, scores=scores)
  )
  return {'rows': rows}, report


def _row(key: Any, attack: AttackScores, request: AuditRequest) -> Info:
  """The audit of an attack's scores, as JSON."""
  audit = audits.evaluate(
    key,
    attack.members,
    attack.others,
    references=attack.references,
    replicates=request.replicates,
  )
  values = {
    name: value._asdict()
    if isinstance(value, audits.BootstrapEstimate)
    else value
    for name, value in audit._asdict().items()
  }
  return {'attack': attack.name, 'note': attack.note, **values}
