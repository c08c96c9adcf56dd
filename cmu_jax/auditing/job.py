"""One audit, from the request to the report."""

import pathlib
from typing import Any

from cmu_jax import audit, files, provenance, rng, workdir
from cmu_jax.auditing import attacks, page, points
from cmu_jax.auditing.request import Request
from cmu_jax.types import Info

SCHEMA = 1


def run(request: Request) -> Info:
  """Audits and writes results, figure and report.

  Raises:
    UserError: bad settings or arrays; nothing is written then.
  """
  read = points.read(request.scores)
  found = attacks.scored(request, read)
  settings = {
    **request._asdict(),
    'scores_sha256': provenance.digest(
      *(x for one in found for x in (one.members, one.others))
    ),
  }
  key = rng.named(request.seed, 'audit')
  rows = [_row(rng.named(key, one.name), one, request) for one in found]
  results = {
    'schema': SCHEMA,
    'finished': True,
    'provenance': provenance.provenance(settings),
    'settings': settings,
    'rows': rows,
  }
  out = pathlib.Path(request.out).expanduser()
  with workdir.opened(out, settings, '--out'):
    files.write_json(out / 'results.json', {**results, 'finished': False})
    page.build(results, found, out)
    files.write_json(out / 'results.json', results)
  return results


def _row(key: Any, one: attacks.Scored, request: Request) -> Info:
  """An attack's numbers, as JSON has them."""
  found = audit.evaluate(
    key,
    one.members,
    one.others,
    references=one.references,
    replicates=request.replicates,
  )
  plain = {
    name: value._asdict() if isinstance(value, audit.Estimate) else value
    for name, value in found._asdict().items()
  }
  return {'attack': one.name, 'note': one.note, **plain}
