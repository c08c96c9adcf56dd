"""One audit, from the request to the report."""

import pathlib
from typing import Any

from cmu_jax import audits
from cmu_jax.commands import workdir
from cmu_jax.commands.audit import attacks, npz_points, page, reference_networks
from cmu_jax.commands.audit.request import AuditRequest
from cmu_jax.core import files, provenance, rng
from cmu_jax.core.types import Info

SCHEMA = 1


def run(request: AuditRequest) -> Info:
  """Audits and writes results, figure and report.

  Raises:
    UserError: bad settings, arrays, weights or pictures; nothing is written
      then.
  """
  out = pathlib.Path(request.out).expanduser()
  if request.weights:
    asked = reference_networks.read_case(request)
    settings = reference_networks.case_settings(request, asked)
    with workdir.open_run(out, settings, '--out'):
      found = attacks.run_attacks(
        request, reference_networks.train_references(request, asked, out)
      )
      return _write(request, found, settings, out)
  assert request.scores is not None
  found = attacks.run_attacks(request, npz_points.read_points(request.scores))
  settings = {
    **request._asdict(),
    'scores_sha256': provenance.digest(
      *(x for one in found for x in (one.members, one.others))
    ),
  }
  with workdir.open_run(out, settings, '--out'):
    return _write(request, found, settings, out)


def _write(
  request: AuditRequest,
  found: list[attacks.AttackScores],
  settings: Info,
  out: pathlib.Path,
) -> Info:
  """The numbers of all attacks, written with their report."""
  key = rng.fold_in(request.seed, 'audit')
  rows = [_row(rng.fold_in(key, one.name), one, request) for one in found]
  results = {
    'schema': SCHEMA,
    'finished': True,
    'provenance': provenance.describe_run(settings),
    'settings': settings,
    'rows': rows,
  }
  files.write_json(out / 'results.json', {**results, 'finished': False})
  page.write_page(results, found, out)
  files.write_json(out / 'results.json', results)
  return results


def _row(key: Any, one: attacks.AttackScores, request: AuditRequest) -> Info:
  """An attack's numbers, as JSON has them."""
  found = audits.evaluate(
    key,
    one.members,
    one.others,
    references=one.references,
    replicates=request.replicates,
  )
  plain = {
    name: value._asdict()
    if isinstance(value, audits.BootstrapEstimate)
    else value
    for name, value in found._asdict().items()
  }
  return {'attack': one.name, 'note': one.note, **plain}
