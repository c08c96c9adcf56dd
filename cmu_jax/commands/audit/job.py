"""One audit, from the request to the report."""

import pathlib
from typing import Any

from cmu_jax import audits
from cmu_jax.commands import workdir
from cmu_jax.commands.audit import attacks, page, points, trained
from cmu_jax.commands.audit.request import Request
from cmu_jax.core import files, provenance, rng
from cmu_jax.core.types import Info

SCHEMA = 1


def run(request: Request) -> Info:
  """Audits and writes results, figure and report.

  Raises:
    UserError: bad settings, arrays, weights or pictures; nothing is written
      then.
  """
  out = pathlib.Path(request.out).expanduser()
  if request.weights:
    asked = trained.subject(request)
    settings = trained.settings(request, asked)
    with workdir.opened(out, settings, '--out'):
      found = attacks.scored(request, trained.points(request, asked, out))
      return _written(request, found, settings, out)
  assert request.scores is not None
  found = attacks.scored(request, points.read(request.scores))
  settings = {
    **request._asdict(),
    'scores_sha256': provenance.digest(
      *(x for one in found for x in (one.members, one.others))
    ),
  }
  with workdir.opened(out, settings, '--out'):
    return _written(request, found, settings, out)


def _written(
  request: Request,
  found: list[attacks.Scored],
  settings: Info,
  out: pathlib.Path,
) -> Info:
  """The numbers of all attacks, written with their report."""
  key = rng.named(request.seed, 'audit')
  rows = [_row(rng.named(key, one.name), one, request) for one in found]
  results = {
    'schema': SCHEMA,
    'finished': True,
    'provenance': provenance.provenance(settings),
    'settings': settings,
    'rows': rows,
  }
  files.write_json(out / 'results.json', {**results, 'finished': False})
  page.build(results, found, out)
  files.write_json(out / 'results.json', results)
  return results


def _row(key: Any, one: attacks.Scored, request: Request) -> Info:
  """An attack's numbers, as JSON has them."""
  found = audits.evaluate(
    key,
    one.members,
    one.others,
    references=one.references,
    replicates=request.replicates,
  )
  plain = {
    name: value._asdict() if isinstance(value, audits.Estimate) else value
    for name, value in found._asdict().items()
  }
  return {'attack': one.name, 'note': one.note, **plain}
