"""U-LiRA of a class: unlearned networks against retrained ones, by image.

Both kinds are shadow models if the config has them. Otherwise they are the
networks that the run reports on, which are few.
"""

from collections.abc import Sequence

import numpy as np

from cmu_jax import audits
from cmu_jax.audits import ulira_scores
from cmu_jax.core.types import Info
from cmu_jax.studies.classes import measure, retrained
from cmu_jax.studies.classes.shadows import ShadowStatistics
from cmu_jax.studies.classes.trials import RETRAIN, ClassTrial
from cmu_jax.studies.engine.pool import World
from cmu_jax.studies.engine.study import Context

Values = np.ndarray


def _attack_row(
  forget_class: int, method: str, name: str, unlearned: Values, control: Values
) -> Info:
  """Computes AUC and balanced accuracy over held-out networks."""
  # Each network is scored by Gaussians of the others.
  scores = audits.ulira_of_class(unlearned, control)
  sides = scores.forgotten, scores.unseen
  return {
    'forget_class': forget_class,
    'method': method,
    'statistic': name,
    'ulira_auc': audits.auc(*sides),
    'ulira_accuracy': audits.balanced_accuracy(*sides),
    'unlearned': len(unlearned),
    'retrained': len(control),
  }


def _control_rows(forget_class: int, name: str, without: Values) -> list[Info]:
  """Compares halves of the retrained networks, as an estimate of chance."""
  # An even split, because U-LiRA fits Gaussians to both sides.
  half = len(without) // 2
  if half < ulira_scores.MIN_MODELS:
    return []
  sides = without[:half], without[half:]
  return [_attack_row(forget_class, RETRAIN, name, *sides)]


def collect_own_statistics(
  context: Context[World],
  forget_class: int,
  rows: Sequence[tuple[ClassTrial, Info]],
) -> ShadowStatistics:
  """Collects the statistics of the networks that the run reports on.

  Args:
    context: of the run.
    forget_class: the class.
    rows: trials and their rows; a diverged network has no statistics.
  """
  reference = retrained.get_reference(context, forget_class, False)
  by_method: dict[str, list[Info]] = {}
  for trial, row in rows:
    if 'statistics' in row:
      by_method.setdefault(trial.method, []).append(row['statistics'])
  unlearned = {
    method: {
      name: np.array([value[name] for value in values])
      for name in measure.STATISTICS
    }
    for method, values in by_method.items()
    # Fewer give no Gaussian once one is held out.
    if len(values) >= ulira_scores.MIN_MODELS
  }
  logits = retrained.read_outputs(context, forget_class).logits
  without = measure.statistics(context, logits, reference)
  return ShadowStatistics(unlearned, without)


def list_rows(forget_class: int, statistics: ShadowStatistics) -> list[Info]:
  """Attacks every method of a class.

  Returns:
    ulira_auc and ulira_accuracy (balanced) by method and statistic: the
    confidence in the class itself ('own'), or in its nearest class.
  """
  rows: list[Info] = []
  for name in measure.STATISTICS:
    without = statistics.retrained[name]
    rows += _control_rows(forget_class, name, without)
    rows += [
      _attack_row(forget_class, method, name, values[name], without)
      for method, values in statistics.unlearned.items()
    ]
  return rows
