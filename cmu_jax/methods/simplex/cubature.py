r"""Nodes and weights for means over the uniform distribution on a simplex.

A node is a row of barycentric coordinates w: the weights sum_i w_i v_i of the
vertices. With c the centroid and Q vertices

  centroid            c                                          degree 1
  vertices            the vertices, 1/Q each                     degree 1
  cubature2           c + (v_i - c) / sqrt(Q + 1), 1/Q each      degree 2
  cubature3           c, weight -Q^2 / (4 (Q + 1)), and
                      c + 2 (v_i - c) / (Q + 2),
                      weight (Q + 2)^2 / (4 Q (Q + 1)) each      degree 3
  grundmann_moeller   C(Q + s, s) nodes                          degree 2 s + 1

All follow from E[w_i] = 1/Q, Cov(w) = (I - 11'/Q) / (Q (Q + 1)) and the third
central moment 2 sum_i d_i^3 / (Q (Q + 1) (Q + 2)), d_i = v_i - c. The first
four lie on the lines from the centroid to the vertices and hold for every
Dirichlet distribution, with the means m_i of w in place of 1/Q and the total
alpha_0 in place of Q.

References:
  Grundmann and Moeller, Invariant Integration Formulas for the n-Simplex by
  Combinatorial Methods, SIAM Journal on Numerical Analysis 15, 1978.
"""

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from cmu_jax.core import errors

RULES = ('centroid', 'vertices', 'cubature2', 'cubature3', 'grundmann_moeller')


class LineRule(NamedTuple):
  """A rule on the lines from the centroid to the vertices.

  Attributes:
    centre: weight of the centroid.
    reach: position of the nodes: 0 at the centroid, 1 at the vertices.
    share: total weight of these nodes; node i has the share m_i of it.
  """

  centre: Any
  reach: Any
  share: Any


def line_rule(method: str, total: Any) -> LineRule | None:
  """Returns the rule of a method; None if some nodes lie off the lines.

  Args:
    method: its name.
    total: alpha_0 of the Dirichlet distribution; Q for the uniform one.
  """
  if method == 'centroid':
    return LineRule(1.0, 0.0, 0.0)
  if method == 'vertices':
    return LineRule(0.0, 1.0, 1.0)
  # Reach and weight match the second moment, and the third if both are free.
  if method == 'cubature2':
    return LineRule(0.0, (total + 1) ** -0.5, 1.0)
  if method == 'cubature3':
    outside = (total + 2) ** 2 / (4 * (total + 1))
    return LineRule(1 - outside, 2 / (total + 2), outside)
  return None


def _compositions(total: int, parts: int) -> np.ndarray:
  """All rows of `parts` counts that sum to `total`."""
  # Stars and bars: the counts are the gaps between the chosen positions.
  bars = itertools.combinations(range(total + parts - 1), parts - 1)
  rows = [
    np.diff([-1, *row, total + parts - 1]).astype(np.int64) - 1 for row in bars
  ]
  return np.stack(rows)


def _grundmann_moeller(q: int, degree: int) -> tuple[np.ndarray, np.ndarray]:
  errors.check(
    degree >= 1 and degree % 2 == 1,
    f'grundmann_moeller: degree {degree} is not odd and positive; use 1, 3, 5',
  )
  n, s = q - 1, degree // 2
  count = math.comb(q + s, s)
  # Every node is a forward pass; refuse before the table itself fills memory.
  errors.check(
    count <= 200_000,
    f'grundmann_moeller: degree {degree} takes {count} nodes for {q} vertices; '
    "use a lower degree or 'mc_cv'",
  )
  nodes, weights = [], []
  for i in range(s + 1):
    denominator = degree + n - 2 * i
    rows = (2 * _compositions(s - i, q) + 1) / denominator
    # Logarithms: the factorials of many vertices leave the range of floats.
    size = (
      degree * math.log(denominator)
      + math.lgamma(n + 1)
      - 2 * s * math.log(2)
      - math.lgamma(i + 1)
      - math.lgamma(degree + n - i + 1)
    )
    nodes.append(rows)
    weights.append(np.full(len(rows), (-1) ** i * math.exp(size)))
  return np.concatenate(nodes), np.concatenate(weights)


def simplex_weights(
  q: int, method: str = 'cubature2', degree: int = 5
) -> tuple[Float[np.ndarray, 'n q'], Float[np.ndarray, 'n']]:
  """Tabulates the barycentric nodes and the weights of a rule.

  Nodes are not negative and sum to 1, weights sum to 1. Some weights of
  cubature3 and grundmann_moeller are negative, so their means of probabilities
  may leave [0, 1].

  Args:
    q: vertices, 1 or more.
    method: the rule.
    degree: of 'grundmann_moeller', odd.

  Raises:
    UserError: an unknown rule, no vertex, an even degree, too many nodes.
  """
  errors.check(q >= 1, f'a simplex has 1 vertex or more, not {q}')
  if method not in RULES:
    raise errors.unknown_name('cubature rule', method, RULES)
  if method == 'grundmann_moeller':
    return _grundmann_moeller(q, degree)
  rule = line_rule(method, float(q))
  assert rule is not None
  centroid = np.full(q, 1 / q)
  nodes = centroid + rule.reach * (np.eye(q) - centroid)
  weights = np.full(q, rule.share / q)
  # Nodes of weight 0 would cost a forward pass each.
  if not rule.share:
    return centroid[None], np.ones(1)
  if not rule.centre:
    return nodes, weights
  return np.vstack([centroid, nodes]), np.append(rule.centre, weights)
