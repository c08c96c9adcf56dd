"""The attacks: from what networks say to scores of forgotten and unseen points.

Scores of RMIA are of one network at a time, and shares of a population: those
of several networks are pooled as they are.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

from cmu_jax import audits

Statistics = dict[str, Shaped[np.ndarray, 'k n']]
Marks = Bool[np.ndarray, 'k n']


class AttackScores(NamedTuple):
  """The scores of an attack.

  Attributes:
    attack: its name.
    positive: of points that are members, or were; one array a network.
    negative: of points that no audited network saw; likewise.
    areas: AUC of each network.
    members: where `positive` are, networks by points, in the order of rows.
    others: where `negative` are, likewise.
    references: networks that the scores of one rest on.
  """

  attack: str
  positive: list[Float[np.ndarray, '_']]
  negative: list[Float[np.ndarray, '_']]
  areas: list[float]
  members: Bool[np.ndarray, 's n']
  others: Bool[np.ndarray, 's n']
  references: int


class Targets(NamedTuple):
  """Audited networks.

  Attributes:
    statistics: what they say of each point.
    positive: the points that are to be told from the others.
    negative: the points that they were not trained on.
  """

  statistics: Statistics
  positive: Bool[np.ndarray, 's n']
  negative: Bool[np.ndarray, 's n']


class ReferenceModels(NamedTuple):
  """Reference networks.

  Attributes:
    statistics: what they say of each point.
    inside: which of them was trained on which point.
    outside: which was not; None for all others.
  """

  statistics: Statistics
  inside: Bool[np.ndarray, 'k n']
  outside: Bool[np.ndarray, 'k n'] | None = None


class Options(NamedTuple):
  """Of RMIA: its signal, gamma, and a of the offline attacks (None: online)."""

  signal: str
  gamma: float
  a: float | None = None


def _score_network(
  own: dict[str, np.ndarray],
  unseen: Bool[np.ndarray, 'n'],
  known: ReferenceModels,
  options: Options,
) -> dict[str, Float[np.ndarray, 'n']]:
  """The scores of all points under one network, by attack."""
  signal, gamma, a = options
  outside = ~known.inside if known.outside is None else known.outside
  found = audits.rmia(
    own[signal],
    known.statistics[signal],
    known.inside,
    unseen,
    gamma=gamma,
    a=a,
    outside=outside,
  )
  scores = {'RMIA': found.score, 'RMIA, ratio alone': found.ratio}
  least = min(known.inside.sum(axis=0).min(), outside.sum(axis=0).min())
  # Where some play no part, the attack of Gaussians is U-LiRA.
  if least >= 2 and known.outside is None:
    scores['LiRA'] = audits.lira(
      own['logit_confidence'],
      known.statistics['logit_confidence'],
      known.inside,
      variance='pooled',
      online=a is None,
    )
  return scores


def _wide(values: Statistics) -> Statistics:
  return {name: np.asarray(x, np.float64) for name, x in values.items()}


def _pool_scores(
  targets: Targets, by_network: list[dict[str, np.ndarray]], references: int
) -> list[AttackScores]:
  made = []
  for name in by_network[0]:
    yes, no = (
      [one[name][m] for one, m in zip(by_network, marks, strict=True)]
      for marks in (targets.positive, targets.negative)
    )
    areas = [audits.auc(a, b) for a, b in zip(yes, no, strict=True)]
    marks = targets.positive, targets.negative
    made.append(AttackScores(name, yes, no, areas, *marks, references))
  return made


def relative(
  targets: Targets, known: ReferenceModels, options: Options
) -> list[AttackScores]:
  """RMIA, its ratio alone, and LiRA, of all audited networks.

  The population of RMIA are the points that the network was not trained on.

  Args:
    targets: what is audited.
    known: the references.
    options: of RMIA.

  References:
    RMIA, arXiv 2312.03262; LiRA, arXiv 2112.03570.
  """
  said = _wide(targets.statistics)
  known = known._replace(statistics=_wide(known.statistics))
  found = [
    _score_network({n: v[row] for n, v in said.items()}, unseen, known, options)
    for row, unseen in enumerate(targets.negative)
  ]
  return _pool_scores(targets, found, len(known.inside))


def among(
  targets: Targets, known: ReferenceModels, options: Options
) -> list[AttackScores]:
  """The same attacks where every network is audited beside the other ones.

  Networks 2i and 2i + 1 share the points out between them. Neither is a
  reference of the other: the rest then has as many networks with a point as
  without it, whatever the audited one was trained on. With one of the pair
  left in, members would have a reference less of their own kind, and that
  alone would part them from others.

  Args:
    targets: what is audited, an even number of networks, four or more.
    known: the same networks as references, perhaps in another state.
    options: of RMIA.
  """
  said, held = _wide(targets.statistics), _wide(known.statistics)
  found = []
  for row, unseen in enumerate(targets.negative):
    rest = np.arange(len(known.inside)) // 2 != row // 2
    outside = None if known.outside is None else known.outside[rest]
    others = ReferenceModels(
      {n: v[rest] for n, v in held.items()}, known.inside[rest], outside
    )
    own = {n: v[row] for n, v in said.items()}
    found.append(_score_network(own, unseen, others, options))
  return _pool_scores(targets, found, len(known.inside) - 2)


def per_example(
  statistic: Float[np.ndarray, 'k n'], forgotten: Marks, unseen: Marks
) -> AttackScores:
  """U-LiRA: every network is held out in turn from those that score it.

  Args:
    statistic: logit-scaled confidence under each network.
    forgotten: which points it was trained with and then forgot.
    unseen: which it never saw.

  References:
    Inexact Unlearning Needs More Careful Evaluations, arXiv 2403.01218.
  """
  found = audits.ulira(np.asarray(statistic, np.float64), forgotten, unseen)
  by_network = lambda scores, marks: np.split(
    scores, marks.sum(axis=1).cumsum()[:-1]
  )
  return AttackScores(
    'U-LiRA',
    by_network(found.forgotten, found.members),
    by_network(found.unseen, found.others),
    found.by_model.tolist(),
    found.members,
    found.others,
    found.models,
  )
