"""results.json of an audit, put together from its scores."""

import functools
from typing import Any

import numpy as np

from cmu_jax import audits
from cmu_jax.core import progress, provenance, rng
from cmu_jax.core.types import Info
from cmu_jax.studies.engine import catalogue
from cmu_jax.studies.membership import settings, tables
from cmu_jax.studies.membership.attacks import Scored
from cmu_jax.studies.membership.sweep import Audited
from cmu_jax.studies.membership.world import Place

# Points of a ROC curve that are kept for the figure.
_CURVE = 100
SAYS = {
  'none': 'the network as it was trained',
  'retrain': 'trained anew on D_R',
}


def _accuracies(one: Audited) -> Info:
  """UA, RA and TA: a value a network."""
  hits = np.asarray(one.statistics['hit'], float)
  names = {'forget': 'forget', 'retain': 'retain', 'unseen': 'test'}
  return {
    f'{name}_accuracy': [
      float(row[where].mean())
      for row, where in zip(hits, one.groups[group], strict=True)
    ]
    for group, name in names.items()
  }


def _curve(positive: np.ndarray, negative: np.ndarray) -> list[list[float]]:
  """False and true positive rates at rates that are even on a log axis."""
  curve = audits.roc(positive, negative)
  least = 1 / negative.size
  wanted = np.geomspace(least, 1, _CURVE)
  at = np.searchsorted(curve.fpr, wanted, side='right') - 1
  return [
    [round(float(a), 5), round(float(b), 5)]
    for a, b in zip(wanted, curve.tpr[at], strict=True)
  ]


def clusters(scored: Scored) -> dict[str, audits.Clusters]:
  """What scores share: the network that they are of, and the point."""
  sides = [np.nonzero(marks) for marks in (scored.members, scored.others)]
  return {
    name: audits.Clusters(*(side[axis] for side in sides))
    for axis, name in enumerate(settings.CLUSTERS)
  }


def row(place: Place, one: Audited) -> Info:
  """The numbers of one attack on one method.

  The AUC of forgotten points also has the intervals of every other way to draw
  resamples: of scores, of networks, of points, of both.
  """
  options, scored = place.config.evaluate, one.scored
  positive = np.concatenate(scored.positive)
  negative = np.concatenate(scored.negative)
  name = f'{one.method} {one.points} {scored.attack} {one.adaptive}'
  shared = clusters(scored)

  @functools.cache
  def judged(ways: tuple[str, ...]) -> audits.Audit:
    return audits.evaluate(
      rng.fold_in(0, 'bootstrap', name),
      positive,
      negative,
      references=scored.references,
      clusters=[shared[way] for way in ways],
      replicates=options.replicates,
      confidence=options.confidence,
    )

  found = judged(tuple(options.clusters))
  ways = ((), ('networks',), ('points',), settings.CLUSTERS)
  asked = ways if one.points == 'forget' else ()
  plain = {
    key: value._asdict()
    if isinstance(value, audits.BootstrapEstimate)
    else value
    for key, value in found._asdict().items()
  }
  return {
    'method': one.method,
    'points': one.points,
    'attack': scored.attack,
    'adaptive': one.adaptive,
    **_accuracies(one),
    **plain,
    'intervals': {
      ' and '.join(way) or 'scores': judged(way).auroc[1:] for way in asked
    },
    'by_network': [float(area) for area in scored.areas],
    'curve': _curve(positive, negative),
  }


def sanity(rows: list[Info]) -> Info:
  """What must hold of an attack that works, by attack.

  Args:
    rows: of the results.

  Returns:
    Whether the interval of networks that never saw the points contains .5, and
    whether that of networks as they were trained lies above it.
  """
  held: dict[str, dict[str, Info]] = {}
  for each in rows:
    if each['points'] == 'forget':
      held.setdefault(tables.attack(each), {}).setdefault(each['method'], each)
  found = {}
  for name, by in held.items():
    if {'none', 'retrain'} <= by.keys():
      auc = by['retrain']['auroc']
      found[name] = {
        'retrain_contains_half': auc['low'] <= 0.5 <= auc['high'],
        'original_above_half': by['none']['auroc']['low'] > 0.5,
      }
  return found


def collect(place: Place, found: list[Audited], done: bool) -> Info:
  """What results.json holds.

  Args:
    place: of the run.
    found: as far as it came.
    done: whether that is all.
  """
  config: Any = place.config
  rows = []
  with progress.bar('intervals', len(found), 'attacks') as advance:
    for one in found:
      rows.append(row(place, one))
      advance(1, f'{one.method}, {one.scored.attack}')
  methods = dict.fromkeys(one.method for one in found)
  size = int(place.pool.label.shape[0])
  return {
    **provenance.results_header(config, done),
    'pool_size': size,
    'methods': {
      name: SAYS.get(name) or catalogue.ENTRIES[name].says for name in methods
    },
    'sanity': sanity(rows),
    'rows': rows,
  }
