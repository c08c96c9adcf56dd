"""alpha_0.9: the smallest identified fraction that suffices.

The headline of the benchmark: from which fraction on Acc_corr stays at least
0.9 of what retraining without any manipulated sample reaches (U*). Corrective
Machine Unlearning, arXiv 2402.14015, plots it and does not tabulate it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cmu_jax.studies.corrective import summary
from cmu_jax.studies.corrective.load import Row
from cmu_jax.studies.corrective.summary import Line, Problem, View

SHARE = 0.9
# Keeps 0.9 x 0.98 from exceeding 0.882.
_SLACK = 1e-9


class Alpha(NamedTuple):
  """The smallest sufficient identified fraction, alpha_0.9.

  Attributes:
    value: the fraction; None if there is none, or it cannot be told.
    status: 'reached', 'never', 'already_satisfied' (doing nothing reaches the
      bar), 'incomplete' (a cell it depends on is missing) or 'undefined' (the
      original model or U* diverged).
  """

  value: float | None
  status: str


def smallest_from(
  fractions: Sequence[float], values: Sequence[float | None], bar: float
) -> float | None:
  """The smallest fraction from which on all values reach the bar.

  Args:
    fractions: rising.
    values: one a fraction; None is a failure.
    bar: what a value must at least be.

  Returns:
    The fraction, or None if the value at the largest one fails.
  """
  best = None
  for fraction, one in zip(reversed(fractions), reversed(values), strict=True):
    if one is None or one < bar - _SLACK:
      break
    best = fraction
  return best


def _mean(rows: list[Row]) -> float | None:
  """Mean Acc_corr; None if any of them diverged or has none."""
  got = [summary.score(one, 'acc_corr') for one in rows if not one['diverged']]
  there = [v for v in got if v is not None]
  return float(np.mean(there)) if len(there) == len(rows) > 0 else None


def bar(found: View, problem: Problem, seed: int | None = None) -> float | None:
  """0.9 Acc_corr(U*, 1), of a seed or of the mean; None if there is no U*."""
  seeds = found.seeds if seed is None else (seed,)
  best = [summary.row(found, summary.gold(problem), s, 1.0) for s in seeds]
  there = [one for one in best if one is not None]
  mean = _mean(there) if len(there) == len(seeds) else None
  return None if mean is None else SHARE * mean


def alpha(found: View, line: Line, seed: int | None = None) -> Alpha:
  """alpha_0.9: from where on Acc_corr stays at least 0.9 Acc_corr(U*, 1).

  Args:
    found: the rows.
    line: method, problem and selection rule.
    seed: which run; None takes means over all seeds, of U* too. A diverged
      run fails, also within a mean.
  """
  seeds = found.seeds if seed is None else (seed,)
  idle = Line(line.problem, 'none', line.selection)
  refer = [
    summary.row(found, summary.gold(line.problem), s, 1.0) for s in seeds
  ]
  refer += [summary.row(found, idle, s, 1.0) for s in seeds]
  cells = [
    [summary.row(found, line, s, f) for s in seeds] for f in found.fractions
  ]
  every = [*refer, *(one for group in cells for one in group)]
  there = [one for one in every if one is not None]
  if not seeds or not cells or len(there) < len(every):
    return Alpha(None, 'incomplete')
  least = bar(found, line.problem, seed)
  before = _mean([r for r in refer[len(seeds) :] if r is not None])
  if least is None or before is None:
    return Alpha(None, 'undefined')
  means = [_mean([r for r in group if r is not None]) for group in cells]
  start = smallest_from(found.fractions, means, least)
  if before >= least - _SLACK:
    return Alpha(start, 'already_satisfied')
  return Alpha(start, 'never' if start is None else 'reached')
