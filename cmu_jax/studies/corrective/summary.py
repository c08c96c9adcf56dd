"""Numbers over seeds and fractions, from the rows of results.json.

A cell is one method on one problem at one identified fraction. What is not in
results.json is missing and never made up; what diverged is a failure.
"""

import functools
from typing import Any, NamedTuple

import numpy as np

from cmu_jax.methods import study_names
from cmu_jax.report import stats
from cmu_jax.studies.corrective import looks
from cmu_jax.studies.corrective.load import Results, Row

Problem = tuple[str, int]

SELECTIONS = tuple(looks.SELECTIONS)


class View(NamedTuple):
  """The rows of a sweep, to be looked up.

  Attributes:
    problems: (manipulation, size), in the order of the file.
    methods: in the order of tables.
    fractions: identified fractions, rising: those that were asked for and
      those that are there.
    seeds: rising, likewise.
    rows: (problem, method, selection, seed, fraction) -> row; the fraction of
      'none' is None, for it holds for all.
    information: method -> what it could see, as recorded.
  """

  problems: tuple[Problem, ...]
  methods: tuple[str, ...]
  fractions: tuple[float, ...]
  seeds: tuple[int, ...]
  rows: dict[tuple, Row]
  information: dict[str, str]


class Line(NamedTuple):
  """One curve over fractions: a method on a problem under a selection rule."""

  problem: Problem
  method: str
  selection: str


class Cell(NamedTuple):
  """A metric over seeds, and what is wrong with it.

  Attributes:
    values: seed -> value, for the seeds that have one.
    expected: how many runs there should be.
    missing: how many of them are not in the file (yet).
    diverged: how many have no accuracies, because training blew up.
    collapsed: in how many validation accuracy fell by more than 5 points.
  """

  values: dict[int, float]
  expected: int
  missing: int
  diverged: int
  collapsed: int


def _fraction(value: Any) -> float | None:
  """Fractions as keys: 0.30000000000000004 is 0.3."""
  return None if value is None else round(float(value), 6)


def _asked(results: Results, key: str) -> list:
  found = results['config'].get(key)
  return list(found) if isinstance(found, list | tuple) else []


def _information(rows: list[Row], methods: tuple[str, ...]) -> dict[str, str]:
  """What each method could see; variants side by side."""
  told: dict[str, dict[str, None]] = {method: {} for method in methods}
  for one in rows:
    told[one['method']][str(one.get('information') or '')] = None
  return {
    method: ' / '.join(text for text in texts if text) or 'not recorded'
    for method, texts in told.items()
  }


def view(results: Results) -> View:
  """Indexes the rows of a sweep.

  Args:
    results: checked contents of results.json.
  """
  rows = results['rows']
  fractions = {_fraction(f) for f in _asked(results, 'identified_fractions')}
  fractions |= {_fraction(row['identified_fraction']) for row in rows}
  asked = _asked(results, 'methods') if not results['finished'] else []
  methods = study_names.sort_names(
    study_names.CORRECTIVE, [*asked, *(row['method'] for row in rows)]
  )
  return View(
    tuple(
      (p['manipulation'], p['manipulation_size']) for p in results['problems']
    ),
    methods,
    tuple(sorted(f for f in fractions if f is not None)),
    tuple(sorted({*_asked(results, 'seeds'), *(row['seed'] for row in rows)})),
    {
      (
        (row['manipulation'], row['manipulation_size']),
        row['method'],
        row['selection'],
        row['seed'],
        _fraction(row['identified_fraction']),
      ): row
      for row in rows
    },
    _information(rows, methods),
  )


def row(found: View, line: Line, seed: int, fraction: float) -> Row | None:
  """The row of a cell and seed; None if the file has none."""
  at = None if line.method == 'none' else _fraction(fraction)
  return found.rows.get((*line, seed, at))


def gold(problem: Problem) -> Line:
  """U*: retraining, which at fraction 1 leaves out all that was manipulated."""
  return Line(problem, 'rewod', 'paper')


def score(one: Row | None, metric: str) -> float | None:
  """A column of a row, None where either is missing."""
  value = None if one is None else one.get(metric)
  return None if value is None else float(value)


def value(
  found: View, line: Line, seed: int, fraction: float, metric: str
) -> float | None:
  """One number of one seed; None if it is missing, diverged or inapplicable.

  Args:
    found: the rows.
    line: method, problem and selection rule.
    seed: which run.
    fraction: identified fraction.
    metric: a column, or 'retain_change' (points, against 'none' with the same
      seed), or 'corr_share' (of Acc_corr of U* with the same seed).
  """
  own = row(found, line, seed, fraction)
  if metric == 'retain_change':
    idle = Line(line.problem, 'none', line.selection)
    base = score(row(found, idle, seed, fraction), 'acc_retain')
    now = score(own, 'acc_retain')
    return None if now is None or base is None else 100 * (now - base)
  if metric == 'corr_share':
    best = score(row(found, gold(line.problem), seed, 1.0), 'acc_corr')
    now = score(own, 'acc_corr')
    return now / best if now is not None and best else None
  return score(own, metric)


def _cell(runs: list[tuple[int, Row | None]], values: dict[int, float]) -> Cell:
  there = [one for _, one in runs if one is not None]
  return Cell(
    values,
    len(runs),
    len(runs) - len(there),
    sum(bool(one['diverged']) for one in there),
    sum(bool(one['collapsed']) for one in there),
  )


def cell(found: View, line: Line, fraction: float, metric: str) -> Cell:
  """A metric at one identified fraction, over seeds."""
  got = {s: value(found, line, s, fraction, metric) for s in found.seeds}
  return _cell(
    [(s, row(found, line, s, fraction)) for s in found.seeds],
    {s: v for s, v in got.items() if v is not None},
  )


def over_fractions(found: View, line: Line, metric: str) -> Cell:
  """A metric over seeds, where each seed is its mean over all fractions.

  The counts are of seeds times fractions. The paper's Table 1 gives the
  spread over fractions instead, of one seed.
  """
  runs, values = [], {}
  for seed in found.seeds:
    runs += [(seed, row(found, line, seed, f)) for f in found.fractions]
    got = [value(found, line, seed, f, metric) for f in found.fractions]
    there = [v for v in got if v is not None]
    if there:
      values[seed] = float(np.mean(there))
  return _cell(runs, values)


def spread(one: Cell) -> stats.Spread | None:
  """Mean and sample standard deviation over seeds."""
  return stats.spread(list(one.values.values()))


@functools.cache
def _half(n: int) -> float:
  """Half the 95 % t-interval of n values with a standard deviation of 1.

  Looking up the quantile anew takes longer than all else in a report.
  """
  sample = np.arange(n, dtype=float)
  found = stats.interval(sample / sample.std(ddof=1))
  return found.high - found.mean if found else 0.0


def interval(one: Cell) -> stats.Interval | None:
  """95 % t-interval of the mean over seeds; None below two seeds."""
  found = spread(one)
  if found is None or found.std is None:
    return None
  half = _half(found.n) * found.std
  return stats.Interval(found.mean, found.mean - half, found.mean + half)
