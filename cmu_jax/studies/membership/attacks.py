"""Attacks: statistics of networks to scores of forgotten and unseen points.

Scores of RMIA are of one network at a time, and shares of a population: those
of several networks are pooled as they are.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

from cmu_jax import audits

Statistics = dict[str, Shaped[np.ndarray, 'k n']]
Marks = Bool[np.ndarray, 'k n']


class AttackScores(NamedTuple):
  """The scores of an attack."""

  attack: str
  # Of points that are members, or were; one array a network.
  positive: list[Float[np.ndarray, '_']]
  # Of points that no audited network saw; likewise.
  negative: list[Float[np.ndarray, '_']]
  areas: list[float]  # AUC of each network
  # Marks `positive`, networks by points, in the order of rows.
  members: Bool[np.ndarray, 's n']
  others: Bool[np.ndarray, 's n']  # marks `negative`, likewise
  references: int  # number of networks that the scores of a network rest on


class Targets(NamedTuple):
  """Audited networks: their statistics, and the points to tell apart."""

  statistics: Statistics
  positive: Bool[np.ndarray, 's n']
  # The points that they were not trained on: the population of RMIA, too.
  negative: Bool[np.ndarray, 's n']


class ReferenceModels(NamedTuple):
  """Reference networks."""

  statistics: Statistics  # of each point
  inside: Bool[np.ndarray, 'k n']  # marks the training points of each
  # Marks the points that each never saw; None for all others.
  outside: Bool[np.ndarray, 'k n'] | None = None


class Options(NamedTuple):
  """Of RMIA: its signal, gamma, and a of the offline attacks (None: online)."""

  signal: str
  gamma: float
  a: float | None = None


def _select(values: Statistics, rows: Any) -> dict[str, np.ndarray]:
  """Selects networks; quotients of small probabilities need float64."""
  return {name: np.asarray(x[rows], np.float64) for name, x in values.items()}


def _score_network(
  target: dict[str, np.ndarray],
  unseen: Bool[np.ndarray, 'n'],
  references: ReferenceModels,
  options: Options,
) -> dict[str, Float[np.ndarray, 'n']]:
  """Computes the scores of all points under one network, by attack."""
  signal, gamma, a = options
  statistics, inside, outside = references
  without = ~inside if outside is None else outside
  result = audits.rmia(
    target[signal],
    statistics[signal],
    inside,
    unseen,
    gamma=gamma,
    a=a,
    outside=without,
  )
  scores = {'RMIA': result.score, 'RMIA, ratio alone': result.ratio}
  fewest = min(inside.sum(axis=0).min(), without.sum(axis=0).min())
  # With references that are on neither side, the attack of Gaussians is U-LiRA.
  if fewest >= 2 and outside is None:
    scores['LiRA'] = audits.lira(
      target['logit_confidence'],
      statistics['logit_confidence'],
      inside,
      variance='pooled',
      online=a is None,
    )
  return scores


def score(
  targets: Targets,
  references: ReferenceModels,
  options: Options,
  hold_out: bool = False,
) -> list[AttackScores]:
  """Attacks with RMIA, its ratio alone, and LiRA.

  Args:
    targets: the audited networks.
    references: networks to compare with.
    options: of RMIA.
    hold_out: whether the references are the audited networks, perhaps in
      another state, an even number of four or more. Each network is then
      compared with the others, except its pair.

  References:
    RMIA, arXiv 2312.03262; LiRA, arXiv 2112.03570.
  """
  count, by_network = len(references.inside), []
  for row, unseen in enumerate(targets.negative):
    # Networks 2i and 2i + 1 share out the points. With one of a pair left in,
    # a member would have a reference less of its own kind than other points,
    # and that alone would tell it from them.
    rows = np.arange(count) // 2 != (row // 2 if hold_out else count)
    outside = references.outside
    selection = ReferenceModels(
      _select(references.statistics, rows),
      references.inside[rows],
      None if outside is None else outside[rows],
    )
    target = _select(targets.statistics, row)
    by_network.append(_score_network(target, unseen, selection, options))
  results = []
  for name in by_network[0]:
    marks = targets.positive, targets.negative
    positive, negative = (
      [scores[name][m] for scores, m in zip(by_network, side, strict=True)]
      for side in marks
    )
    pairs = zip(positive, negative, strict=True)
    areas = [audits.auc(*pair) for pair in pairs]
    size = count - 2 if hold_out else count
    results.append(AttackScores(name, positive, negative, areas, *marks, size))
  return results


def score_by_ulira(
  statistic: Float[np.ndarray, 'k n'], forgotten: Marks, unseen: Marks
) -> AttackScores:
  """Attacks with U-LiRA, each network held out from those that score it.

  Args:
    statistic: logit-scaled confidence under each network.
    forgotten: marks the points that each was trained with and then forgot.
    unseen: marks the points that each never saw.

  References:
    Inexact Unlearning Needs More Careful Evaluations, arXiv 2403.01218.
  """
  result = audits.ulira(np.asarray(statistic, np.float64), forgotten, unseen)
  by_network = lambda scores, marks: np.split(
    scores, marks.sum(axis=1).cumsum()[:-1]
  )
  return AttackScores(
    'U-LiRA',
    by_network(result.forgotten, result.members),
    by_network(result.unseen, result.others),
    result.by_model.tolist(),
    result.members,
    result.others,
    result.models,
  )
