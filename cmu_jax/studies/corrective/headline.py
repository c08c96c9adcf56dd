"""alpha_0.9: the smallest identified fraction that suffices.

The headline of the benchmark: the fraction from which on Acc_corr stays at
least 0.9 of Acc_corr of retraining without any manipulated sample (U*).
Corrective Machine Unlearning, arXiv 2402.14015, plots it and does not tabulate
it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cmu_jax.studies.corrective import summary
from cmu_jax.studies.corrective.summary import Line, Problem, Row, View

SHARE = 0.9
# Keeps 0.9 x 0.98 from exceeding 0.882.
SLACK = 1e-9


class Alpha(NamedTuple):
  """The smallest sufficient identified fraction, alpha_0.9.

  Attributes:
    value: the fraction; None if there is none, or if runs are missing.
    status: 'reached', 'never', 'already_satisfied' (doing nothing reaches the
      bar), 'incomplete' (a cell it depends on is missing) or 'undefined' (the
      original model or U* diverged).
  """

  value: float | None
  status: str


def find_smallest(
  fractions: Sequence[float], values: Sequence[float | None], bar: float
) -> float | None:
  """Finds the smallest fraction from which on all values reach the bar.

  Args:
    fractions: rising.
    values: one a fraction; None is a failure.
    bar: the least sufficient value.

  Returns:
    The fraction, or None if the value at the largest one fails.
  """
  smallest = None
  # From the right, because a curve may pass the bar and fall below it again.
  for fraction, value in reversed([*zip(fractions, values, strict=True)]):
    if value is None or value < bar - SLACK:
      break
    smallest = fraction
  return smallest


def _average(rows: Sequence[Row | None]) -> float | None:
  """Averages Acc_corr; None if a run is missing, diverged or without it."""
  scores = [
    None if row is None or row['diverged'] else summary.score(row, 'acc_corr')
    for row in rows
  ]
  numbers = [score for score in scores if score is not None]
  # A diverged run is a failure, which a mean of the others would hide.
  complete = len(numbers) == len(scores) > 0
  return float(np.mean(numbers)) if complete else None


def find_bar(
  view: View, problem: Problem, seed: int | None = None
) -> float | None:
  """Finds 0.9 Acc_corr(U*, 1) of a seed or of the mean; None without U*."""
  seeds = view.seeds if seed is None else (seed,)
  gold = summary.gold_line(problem)
  mean = _average([summary.find_row(view, gold, s, 1.0) for s in seeds])
  return None if mean is None else SHARE * mean


def find_levels(
  view: View, problem: Problem, metric: str
) -> dict[str, float | None]:
  """Finds the levels that curves are compared with: none, U* and the bar."""
  none, gold = (
    summary.get_cell(view, line(problem), 1.0, metric).mean
    for line in (summary.idle_line, summary.gold_line)
  )
  # The bar is about unlearning: other metrics have none.
  bar = find_bar(view, problem) if metric == 'acc_corr' else None
  return {'none': none, 'U*': gold, '0.9 U*': bar}


def find_alpha(view: View, line: Line, seed: int | None = None) -> Alpha:
  """Finds where Acc_corr begins to stay at least 0.9 Acc_corr(U*, 1).

  Args:
    view: the rows.
    line: method, problem and selection rule.
    seed: of the run; None takes means over all seeds, of U* too. A diverged
      run fails, also within a mean.
  """
  seeds = view.seeds if seed is None else (seed,)
  select = lambda line, fraction: [
    summary.find_row(view, line, s, fraction) for s in seeds
  ]
  gold = select(summary.gold_line(line.problem), 1.0)
  idle = select(summary.idle_line(line.problem, line.selection), 1.0)
  # None of them may be missing: a later run could change the answer.
  cells = [select(line, fraction) for fraction in view.fractions]
  if (
    not cells or not seeds or any(None in rows for rows in (gold, idle, *cells))
  ):
    return Alpha(None, 'incomplete')
  bar, start = find_bar(view, line.problem, seed), _average(idle)
  if bar is None or start is None:
    return Alpha(None, 'undefined')
  value = find_smallest(view.fractions, [*map(_average, cells)], bar)
  # Then there is nothing to repair.
  if start >= bar - SLACK:
    return Alpha(value, 'already_satisfied')
  return Alpha(value, 'never' if value is None else 'reached')
