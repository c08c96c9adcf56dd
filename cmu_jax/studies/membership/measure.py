"""The rows of an audit: areas, intervals, accuracies of each attack."""

import functools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool
from ml_collections import ConfigDict

from cmu_jax import audits
from cmu_jax.core import rng
from cmu_jax.core.types import Info
from cmu_jax.studies.membership import settings, tables
from cmu_jax.studies.membership.attacks import AttackScores, Statistics

# Points of a ROC curve for the figure.
_CURVE_POINTS = 100


class Audit(NamedTuple):
  """An attack on a method, with its scores."""

  method: str  # 'none', 'retrain', or the method that unlearned
  points: str  # 'forget' (D_F against unseen points) or 'retain' (D_R)
  adaptive: bool  # whether the references were unlearned with the method too
  statistics: Statistics  # of the audited networks
  # D_F, D_R and unseen points of each network.
  groups: dict[str, Bool[np.ndarray, 's n']]
  scores: AttackScores


def _accuracies(audit: Audit) -> Info:
  """Computes UA, RA and TA, a value per network."""
  hits = np.asarray(audit.statistics['hit'], float)
  names = {'forget': 'forget', 'retain': 'retain', 'unseen': 'test'}
  return {
    f'{name}_accuracy': [
      float(row[marks].mean())
      for row, marks in zip(hits, audit.groups[group], strict=True)
    ]
    for group, name in names.items()
  }


def _roc_points(
  positive: np.ndarray, negative: np.ndarray
) -> list[list[float]]:
  """Samples the ROC curve at false positive rates even on a log axis."""
  curve = audits.roc(positive, negative)
  rates = np.geomspace(1 / negative.size, 1, _CURVE_POINTS)
  positions = np.searchsorted(curve.fpr, rates, side='right') - 1
  return [
    [round(float(a), 5), round(float(b), 5)]
    for a, b in zip(rates, curve.tpr[positions], strict=True)
  ]


def group_scores(scores: AttackScores) -> dict[str, audits.Clusters]:
  """Groups scores by network and by point, because these share errors."""
  sides = [np.nonzero(marks) for marks in (scores.members, scores.others)]
  return {
    name: audits.Clusters(*(side[axis] for side in sides))
    for axis, name in enumerate(settings.CLUSTERS)
  }


def compute_row(config: ConfigDict, audit: Audit, attacks: int = 1) -> Info:
  """Computes the numbers of one attack on one method.

  The AUC of forgotten points also has the intervals of every other way to draw
  resamples: of scores, of networks, of points, of both.

  Args:
    config: of the study.
    audit: the attack.
    attacks: number of attacks on the same points; see `audits.DecisionRule`.
  """
  options, scores = config.evaluate, audit.scores
  rule = audits.DecisionRule(options.confidence, attacks)
  positive = np.concatenate(scores.positive)
  negative = np.concatenate(scores.negative)
  name = f'{audit.method} {audit.points} {scores.attack} {audit.adaptive}'
  # Scores of a network share its training, those of a point its references.
  groups = group_scores(scores)

  @functools.cache
  def evaluate(names: tuple[str, ...]) -> audits.Audit:
    return audits.evaluate(
      rng.fold_in(0, 'bootstrap', name),
      positive,
      negative,
      references=scores.references,
      clusters=[groups[name] for name in names],
      replicates=options.replicates,
      rule=rule,
    )

  result = evaluate(tuple(options.clusters))
  ways = ((), ('networks',), ('points',), settings.CLUSTERS)
  # JSON has no named tuples.
  estimate = audits.BootstrapEstimate
  to_json = lambda x: x._asdict() if isinstance(x, estimate) else x
  numbers = {key: to_json(x) for key, x in result._asdict().items()}
  return {
    'method': audit.method,
    'points': audit.points,
    'attack': scores.attack,
    'adaptive': audit.adaptive,
    **_accuracies(audit),
    **numbers,
    'intervals': {
      ' and '.join(names) or 'scores': evaluate(names).auroc[1:]
      for names in (ways if audit.points == 'forget' else ())
    },
    'by_network': [float(area) for area in scores.areas],
    'curve': _roc_points(positive, negative),
  }


def check_sanity(rows: list[Info]) -> dict[str, Any]:
  """Checks, by attack, that it works at all.

  The interval of networks that never saw the points has to contain .5, and that
  of networks without unlearning has to lie above it.
  """
  by_attack: dict[str, dict[str, Info]] = {}
  for item in rows:
    if item['points'] == 'forget':
      methods = by_attack.setdefault(tables.name_attack(item), {})
      methods.setdefault(item['method'], item)
  checks = {}
  for name, methods in by_attack.items():
    if {'none', 'retrain'} <= methods.keys():
      area = methods['retrain']['auroc']
      checks[name] = {
        'retrain_contains_half': area['low'] <= 0.5 <= area['high'],
        'original_above_half': methods['none']['auroc']['low'] > 0.5,
      }
  return checks
