"""The attacks: from what networks say to scores of forgotten and unseen points.

Scores of RMIA are of one network at a time, and shares of a population: those
of several networks are pooled as they are.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

from cmu_jax import audit

Statistics = dict[str, Shaped[np.ndarray, 'k n']]


class Scored(NamedTuple):
  """The scores of an attack.

  Attributes:
    attack: its name.
    positive: of points that are members, or were; one array a network.
    negative: of points that no audited network saw; likewise.
    areas: AUC of each network.
  """

  attack: str
  positive: list[Float[np.ndarray, '_']]
  negative: list[Float[np.ndarray, '_']]
  areas: list[float]


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


def relative(
  targets: Targets,
  references: Statistics,
  inside: Bool[np.ndarray, 'k n'],
  signal: str,
  gamma: float,
  a: float | None = None,
) -> list[Scored]:
  """RMIA, its ratio alone, and LiRA, of all audited networks.

  The population of RMIA are the points that the network was not trained on.

  Args:
    targets: what is audited.
    references: what the references say of each point.
    inside: which of them was trained on which point.
    signal: of RMIA.
    gamma: of RMIA.
    a: None for the online attacks; of RMIA, for the offline ones.

  References:
    RMIA, arXiv 2312.03262; LiRA, arXiv 2112.03570.
  """
  wide = lambda values: np.asarray(values, np.float64)
  known = {name: wide(values) for name, values in references.items()}
  held: dict[str, tuple[list, list]] = {}
  least = min(inside.sum(axis=0).min(), (~inside).sum(axis=0).min())
  for row in range(len(targets.positive)):
    own = {name: wide(v[row]) for name, v in targets.statistics.items()}
    yes, no = targets.positive[row], targets.negative[row]
    found = audit.rmia(own[signal], known[signal], inside, no, gamma=gamma, a=a)
    scores = {'RMIA': found.score, 'RMIA, ratio alone': found.ratio}
    if least >= 2:
      scores['LiRA'] = audit.lira(
        own['logit_confidence'],
        known['logit_confidence'],
        inside,
        variance='pooled',
        online=a is None,
      )
    for name, score in scores.items():
      both = held.setdefault(name, ([], []))
      both[0].append(score[yes])
      both[1].append(score[no])
  return [
    Scored(
      name, yes, no, [audit.auc(a, b) for a, b in zip(yes, no, strict=True)]
    )
    for name, (yes, no) in held.items()
  ]


def per_example(
  statistic: Float[np.ndarray, 'k n'],
  forgotten: Bool[np.ndarray, 'k n'],
  unseen: Bool[np.ndarray, 'k n'],
) -> Scored:
  """U-LiRA: every network is held out in turn from those that score it.

  Args:
    statistic: logit-scaled confidence under each network.
    forgotten: which points it was trained with and then forgot.
    unseen: which it never saw.

  References:
    Inexact Unlearning Needs More Careful Evaluations, arXiv 2403.01218.
  """
  found = audit.ulira(np.asarray(statistic, np.float64), forgotten, unseen)
  areas = found.by_model.tolist()
  return Scored('U-LiRA', [found.forgotten], [found.unseen], areas)
