"""Reads the results.json of a sweep, and looks up numbers over seeds.

A cell is one method on one problem at one identified fraction. A number that
results.json lacks is missing and never made up; a diverged run is a failure.
"""

import os
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from cmu_jax.core import errors
from cmu_jax.methods import study_names
from cmu_jax.report import frame, stats
from cmu_jax.report.frame import Results
from cmu_jax.studies.corrective import looks

Row = dict[str, Any]
Problem = tuple[str, int]

# The rules that choose a point of a grid for a row.
SELECTIONS = tuple(looks.SELECTIONS)
_PROBLEM = ('manipulation', 'manipulation_size')
_CELL = (*_PROBLEM, 'seed', 'identified_fraction')
_MEASURES = ('acc_corr', 'acc_retain', 'diverged', 'collapsed')
_FIELDS = {
  'problems': _PROBLEM,
  'rows': (*_CELL, 'method', 'selection', *_MEASURES),
  'points': (*_CELL, 'method', *_MEASURES),
  'importance': (*_CELL, 'edges', 'retain_counts'),
}
# Columns that no two rows of a section share.
_KEYS = {'problems': _PROBLEM, 'rows': (*_CELL, 'method', 'selection')}


class View(NamedTuple):
  """The rows of a sweep, indexed.

  Attributes:
    problems: (manipulation, size), in the order of the file.
    methods: in the order of tables.
    fractions: identified fractions of the config and of the rows, rising.
    seeds: likewise.
    rows: (problem, method, selection, seed, fraction) -> row; the fraction of
      'none' is None, because doing nothing is the same at all fractions.
    information: method -> its inputs, as recorded.
  """

  problems: tuple[Problem, ...]
  methods: tuple[str, ...]
  fractions: tuple[float, ...]
  seeds: tuple[int, ...]
  rows: dict[tuple, Row]
  information: dict[str, str]


class Line(NamedTuple):
  """A curve over fractions: a method on a problem under a selection rule."""

  problem: Problem
  method: str
  selection: str


class Cell(NamedTuple):
  """A metric over seeds, and the defects of its runs.

  Attributes:
    values: seed -> value, for the seeds that have one.
    expected: number of runs that there should be.
    missing: number of them that are not in the file (yet).
    diverged: number of runs without accuracies, because training blew up.
    collapsed: number of runs whose validation accuracy fell by more than 5
      points.
  """

  values: dict[int, float]
  expected: int
  missing: int
  diverged: int
  collapsed: int

  @property
  def spread(self) -> stats.Spread | None:
    """Mean and sample standard deviation over seeds."""
    return stats.spread(list(self.values.values()))

  @property
  def mean(self) -> float | None:
    """Mean over the seeds that have a value."""
    return self.spread.mean if self.spread else None

  @property
  def half(self) -> float | None:
    """Half the 95 % t-interval of the mean; None below two seeds."""
    interval = stats.interval(np.array(list(self.values.values())))
    return interval.high - interval.mean if interval else None


def _check_problems(path: pathlib.Path, results: Results) -> None:
  """Refuses rows that come twice, or whose problem is not described."""
  problems = {tuple(row[k] for k in _PROBLEM) for row in results['problems']}
  for section, rows in ((name, results[name]) for name in _FIELDS):
    keys = set()
    for i, row in enumerate(rows):
      kind, size = (row[name] for name in _PROBLEM)
      errors.check(
        (kind, size) in problems,
        f'{path}: {section}[{i}] is of {kind} {size}, which problems does not '
        'list; run again to rewrite it',
      )
      key = tuple(row[name] for name in _KEYS.get(section, ()))
      # Of two rows, a table would show the later one without a word.
      errors.check(
        not key or key not in keys,
        f'{path}: {section}[{i}] comes twice ({", ".join(map(str, key))}); '
        'run again to rewrite it',
      )
      keys.add(key)


def read(workdir: os.PathLike | str) -> Results:
  """Reads and checks the results.json of a sweep, finished or not.

  Raises:
    UserError: the file is missing, broken, or not that of a sweep.
  """
  results = frame.read_results(
    workdir, 'corrective', {'class_names': list}, _FIELDS
  )
  path = pathlib.Path(workdir) / 'results.json'
  _check_problems(path, results)
  for i, entry in enumerate(results['importance']):
    # A histogram with n bars has n + 1 edges.
    edges, counts = len(entry['edges']), len(entry['retain_counts'])
    errors.check(
      edges == counts + 1 and counts,
      f'{path}: importance[{i}] has {edges} edges for {counts} counts, '
      'expected one more; run again to rewrite it',
    )
  return results


def select_rows(rows: Iterable[Row], **columns: Any) -> list[Row]:
  """Selects the rows in which every named column has the given value."""
  return [
    row for row in rows if all(row.get(k) == v for k, v in columns.items())
  ]


def _round(fraction: Any) -> float | None:
  """Rounds a fraction to a key: 0.30000000000000004 is 0.3."""
  return None if fraction is None else round(float(fraction), 6)


def _describe_inputs(rows: list[Row], method: str) -> str:
  """Describes the inputs of a method; variants side by side."""
  # The same method may have seen other parts on another problem.
  texts = dict.fromkeys(
    str(row.get('information') or '') for row in rows if row['method'] == method
  )
  return ' / '.join(filter(None, texts)) or 'not recorded'


def index_rows(results: Results) -> View:
  """Indexes the rows of a sweep.

  Args:
    results: checked contents of results.json.
  """
  rows, config = results['rows'], results['config']
  fractions = {_round(f) for f in config['identified_fractions']}
  fractions |= {_round(row['identified_fraction']) for row in rows}
  # A finished sweep may be shown without methods that its config names.
  planned = [] if results['finished'] else config['methods']
  methods = study_names.sort_names(
    study_names.CORRECTIVE, [*planned, *(row['method'] for row in rows)]
  )
  index = {}
  for row in rows:
    problem = row['manipulation'], row['manipulation_size']
    line = Line(problem, row['method'], row['selection'])
    index[*line, row['seed'], _round(row['identified_fraction'])] = row
  return View(
    tuple(tuple(row[k] for k in _PROBLEM) for row in results['problems']),
    methods,
    tuple(sorted(f for f in fractions if f is not None)),
    tuple(sorted({*config['seeds'], *(row['seed'] for row in rows)})),
    index,
    {method: _describe_inputs(rows, method) for method in methods},
  )


def find_row(view: View, line: Line, seed: int, fraction: float) -> Row | None:
  """Finds the row of a cell and seed; None if the file has none."""
  key = None if line.method == 'none' else _round(fraction)
  return view.rows.get((*line, seed, key))


def idle_line(problem: Problem, selection: str = 'paper') -> Line:
  """Returns the line of doing nothing, which is flat."""
  return Line(problem, 'none', selection)


def gold_line(problem: Problem) -> Line:
  """Returns the line of U*, which is retraining without S_m at fraction 1."""
  return Line(problem, 'rewod', 'paper')


def score(row: Row | None, metric: str) -> float | None:
  """Reads a column of a row; None where either is missing."""
  value = None if row is None else row.get(metric)
  return None if value is None else float(value)


def find_value(
  view: View, line: Line, seed: int, fraction: float, metric: str
) -> float | None:
  """Finds the number of a seed; None if missing, diverged or inapplicable.

  Args:
    view: the rows.
    line: method, problem and selection rule.
    seed: of the run.
    fraction: identified fraction.
    metric: a column, or 'retain_change' (points, against 'none' with the same
      seed), or 'corr_share' (of Acc_corr of U* with the same seed).
  """
  row = find_row(view, line, seed, fraction)
  if metric == 'retain_change':
    # Within a seed, so that its luck cancels.
    idle = idle_line(line.problem, line.selection)
    base = score(find_row(view, idle, seed, fraction), 'acc_retain')
    value = score(row, 'acc_retain')
    return None if value is None or base is None else 100 * (value - base)
  if metric == 'corr_share':
    best = score(find_row(view, gold_line(line.problem), seed, 1.0), 'acc_corr')
    value = score(row, 'acc_corr')
    # There is no share of a gold standard of 0.
    return value / best if value is not None and best else None
  return score(row, metric)


def _collect(
  view: View, line: Line, fractions: Iterable[float], metric: str
) -> Cell:
  """Averages a metric over fractions, for each seed."""
  runs: list[Row | None] = []
  values = {}
  # Within a seed first, so that a seed with missing cells counts like others.
  for seed in view.seeds:
    runs += [find_row(view, line, seed, f) for f in fractions]
    numbers = [find_value(view, line, seed, f, metric) for f in fractions]
    present = [number for number in numbers if number is not None]
    if present:
      values[seed] = float(np.mean(present))
  rows = [row for row in runs if row is not None]
  return Cell(
    values,
    len(runs),
    len(runs) - len(rows),
    sum(bool(row['diverged']) for row in rows),
    sum(bool(row['collapsed']) for row in rows),
  )


def get_cell(view: View, line: Line, fraction: float, metric: str) -> Cell:
  """Looks up a metric at one identified fraction, over seeds."""
  return _collect(view, line, (fraction,), metric)


def average_fractions(view: View, line: Line, metric: str) -> Cell:
  """Looks up a metric over seeds, each seed the mean over all fractions.

  The counts are of seeds times fractions. The paper's Table 1 gives the
  spread over fractions instead, of one seed.
  """
  return _collect(view, line, view.fractions, metric)
