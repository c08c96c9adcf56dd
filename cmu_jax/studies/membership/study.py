"""The membership study: networks are trained, made to forget, and attacked.

A cell is one method: every attack on its networks, with intervals. The phase
before it trains the networks that these attacks read.
"""

import collections
import functools
from typing import NamedTuple

from cmu_jax.core import config as config_lib
from cmu_jax.core import progress
from cmu_jax.core.types import Info
from cmu_jax.studies.engine import catalogue, references
from cmu_jax.studies.engine.study import Cell, Context, Note, Phase, Plan, Study
from cmu_jax.studies.membership import attacks, measure, report, settings
from cmu_jax.studies.membership import world as worlds
from cmu_jax.studies.membership.attacks import Options, ReferenceModels, Targets
from cmu_jax.studies.membership.measure import Audit
from cmu_jax.studies.membership.models import make_job, read_statistics
from cmu_jax.studies.membership.world import Models, World

# Raised when the numbers of a cell change.
_VERSION = 2
_FIELDS = (
  *('model', 'input', 'train', 'unlearn', 'learning_rates', 'fraction'),
  *('attack', 'adaptive', 'references', 'seeds', 'rmia', 'evaluate'),
)
_DESCRIPTIONS = {
  'none': 'the network as it was trained',
  'retrain': 'trained anew on D_R',
}


class AuditedMethod(NamedTuple):
  """A method whose networks are attacked."""

  method: str


# Drawn once for all methods: each network is a permutation of the pool.
def _reference_models(context: Context[World]) -> Models:
  draw = functools.partial(
    worlds.reference_models, context.config, context.world
  )
  return context.recent('models', 'references', draw, size=2)


def _audited_models(context: Context[World]) -> Models:
  draw = functools.partial(worlds.audited_models, context.config, context.world)
  return context.recent('models', 'audited', draw, size=2)


def _networks(context: Context[World], method: str) -> list[tuple[Models, str]]:
  """Lists the networks that the attacks on a method read."""
  config = context.config
  models = _reference_models(context)
  if config.attack == 'ulira':
    # The references are the audited networks, each held out in turn.
    states = dict.fromkeys(('none', method))
    return [(models, state) for state in states]
  audited = _audited_models(context)
  networks = [(models, 'none'), (audited, method)]
  if config.adaptive and method in config.methods:
    networks.append((models, method))
  return networks


def _attack_with_references(
  context: Context[World], method: str
) -> list[Audit]:
  """Attacks the networks of all seeds, which are compared with references."""
  config, options = context.config, context.config.rmia
  models, audited = _reference_models(context), _audited_models(context)
  statistics = read_statistics(context, audited, method)
  kinds: list[tuple[str, float | None]] = [('none', None)]
  if config.adaptive and method in config.methods:
    # The attacker knows the method, so the references forget by it, too.
    kinds.append((method, options.offline_a))
  groups, result = audited.groups, []
  for state, a in kinds:
    references = read_statistics(context, models, state)
    for points in ('forget', 'retain'):
      result += [
        Audit(method, points, state != 'none', statistics, groups, scores)
        for scores in attacks.score(
          Targets(statistics, groups[points], groups['unseen']),
          ReferenceModels(references, models.inside),
          Options(options.signal, options.gamma, a),
        )
      ]
  return result


def _attack_held_out(context: Context[World], method: str) -> list[Audit]:
  """Attacks with U-LiRA, and by the other attacks on the same networks.

  The references of a network are the others of the K: as they were trained,
  and adaptive, once the method is done with them. The adaptive attacks compare
  networks that forgot the point with networks that never saw it, as U-LiRA
  does.
  """
  config, models = context.config, _reference_models(context)
  options = Options(config.rmia.signal, config.rmia.gamma)
  statistics = read_statistics(context, models, method)
  groups = models.groups
  sides = groups['forget'], groups['unseen']
  targets = Targets(statistics, *sides)
  ulira = attacks.score_by_ulira(statistics['logit_confidence'], *sides)
  plain = read_statistics(context, models, 'none')
  score = lambda *references: attacks.score(
    targets, ReferenceModels(*references), options, hold_out=True
  )
  kinds = [(True, [ulira]), (False, score(plain, models.inside))]
  if config.adaptive:
    kinds.append((True, score(statistics, *sides)))
  return [
    Audit(method, 'forget', adaptive, statistics, groups, scores)
    for adaptive, results in kinds
    for scores in results
  ]


_ATTACKS = {'rmia': _attack_with_references, 'ulira': _attack_held_out}


def audit_method(context: Context[World], method: str) -> Info:
  """Attacks the networks of a method, for its rows."""
  config = context.config
  attempts = _ATTACKS[config.attack](context, method)
  # Any success is a finding, so that all attacks share the error probability.
  counts = collections.Counter(attempt.points for attempt in attempts)
  rows = []
  with progress.bar('intervals', len(attempts), 'attacks') as advance:
    for attempt in attempts:
      rows.append(measure.compute_row(config, attempt, counts[attempt.points]))
      advance(1, f'{method}, {attempt.scores.attack}')
  return {'rows': rows}


def cell_address(context: Context[World], method: str) -> str:
  """Computes the address of a cell."""
  return config_lib.fingerprint(
    {
      'version': _VERSION,
      'data': context.world.digest,
      'method': method,
      **{name: context.config[name] for name in _FIELDS},
    }
  )


def plan(context: Context[World]) -> Plan:
  """Goes from method to method, so that a stopped run has whole methods."""
  results: list[tuple[AuditedMethod, Info]] = []
  for method in ('none', 'retrain', *context.config.methods):
    networks = _networks(context, method)
    jobs = [make_job(context, models, state) for models, state in networks]
    yield references.shadow_phase(f'networks, {method}', jobs)
    compute = functools.partial(audit_method, context, method)
    cell = Cell(AuditedMethod(method), cell_address(context, method), compute)
    results += yield Phase(f'attacks, {method}', [cell], spread=False)
  rows = [row for _, record in results for row in record['rows']]
  return {
    'pool_size': int(context.world.pool.label.shape[0]),
    'methods': {
      item.method: _DESCRIPTIONS.get(item.method)
      or catalogue.ENTRIES[item.method].says
      for item, _ in results
    },
    'sanity': measure.check_sanity(rows),
    'rows': rows,
  }


def note(item: AuditedMethod, record: Info) -> Note:
  """Shows the largest AUC of an attack on forgotten points."""
  areas = [
    row['auroc']['value'] for row in record['rows'] if row['points'] == 'forget'
  ]
  return Note({'method': item.method}, 'largest AUC', max(areas, default=None))


STUDY = Study(
  task='membership',
  check=settings.check,
  load=worlds.load,
  plan=plan,
  note=note,
  measured='AUC of the strongest attack',
  report=report.REPORT,
)
