"""U-LiRA of a class: unlearned networks against retrained ones, by image.

Both are shadow models where a run has them. Else unlearned networks are those
of its own seeds and retrained ones those of its noise floor: few of both.
"""

from collections import defaultdict

import numpy as np

from cmu_jax import audits
from cmu_jax.audits import ulira_scores
from cmu_jax.core.types import Info
from cmu_jax.studies.classes import measure
from cmu_jax.studies.classes.shadows import Told
from cmu_jax.studies.classes.sweep import Found
from cmu_jax.studies.subsets.world import Place


def _row(
  forgotten: int, method: str, name: str, first: np.ndarray, second: np.ndarray
) -> Info:
  """One attack: AUC and balanced accuracy over held-out networks."""
  found = audits.ulira_of_class(first, second)
  sides = found.forgotten, found.unseen
  return {
    'forget_class': forgotten,
    'method': method,
    'statistic': name,
    'ulira_auc': audits.auc(*sides),
    'ulira_accuracy': audits.balanced_accuracy(*sides),
    'unlearned': len(first),
    'retrained': len(second),
  }


def _control(forgotten: int, name: str, best: np.ndarray) -> list[Info]:
  """Some retrained networks against the others: what chance looks like."""
  half = len(best) // 2
  if half < ulira_scores.MIN_MODELS:
    return []
  return [_row(forgotten, 'retrain', name, best[:half], best[half:])]


def _of_the_run(place: Place, found: Found, forgotten: int) -> Told:
  """The statistics of the networks that the run reports on."""
  held: dict[str, list[Info]] = defaultdict(list)
  for cell, row in found.rows:
    if 'statistics' in row and cell.forget_class == forgotten:
      held[cell.method].append(row['statistics'])
  answers = found.retrained[forgotten].logits
  known = measure.reference(place, answers, forgotten, False)
  stacked = {
    method: {name: np.array([one[name] for one in some]) for name in some[0]}
    for method, some in held.items()
    if len(some) >= ulira_scores.MIN_MODELS
  }
  return Told(stacked, measure.statistics(place, answers, known))


def rows(place: Place, found: Found) -> list[Info]:
  """U-LiRA of every class and method with three networks or more.

  Args:
    place: of the run.
    found: as far as it came.

  Returns:
    ulira_auc and ulira_accuracy (balanced) by class, method and statistic: the
    confidence in the class itself ('own'), or in its nearest class.
  """
  made: list[Info] = []
  for forgotten in place.config.forget_classes:
    if forgotten not in found.retrained:
      continue
    told = found.shadows.get(forgotten) or _of_the_run(place, found, forgotten)
    for name in measure.STATISTICS:
      made += _control(forgotten, name, told.retrained[name])
      made += [
        _row(forgotten, method, name, own[name], told.retrained[name])
        for method, own in told.unlearned.items()
      ]
  return made
