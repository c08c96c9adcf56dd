"""Each problem in words: the methods that reach 0.9 U*, and their price."""

from typing import NamedTuple

from cmu_jax.report.frame import Results
from cmu_jax.studies.corrective import headline, looks, summary
from cmu_jax.studies.corrective.summary import Line, Problem, View

# Acc_retain may fall by so many points before a repair counts as harm.
HARM = 1.0
# Claims are about the benchmark's own rule, never about hindsight.
_RULE = 'paper'


class Reach(NamedTuple):
  """A method that reaches 0.9 U* on a problem.

  Attributes:
    method: its name.
    start: the smallest sufficient identified fraction.
    corr: mean Acc_corr at that fraction.
    seeds: number of seeds that reach the bar by themselves from there on.
    change: the worst mean change of Acc_retain from there on, in points; None
      if it was not measured.
    collapsed: whether validation accuracy fell by over 5 points in any run
      from there on.
  """

  method: str
  start: float
  corr: float
  seeds: int
  change: float | None
  collapsed: bool

  @property
  def harm(self) -> bool:
    """True if the repair costs more than a point, or collapses."""
    limit = -HARM - headline.SLACK
    return self.collapsed or (self.change is not None and self.change < limit)


class Outcome(NamedTuple):
  """The methods on a problem.

  Attributes:
    name: the problem, short.
    title: the problem with its classes and size.
    status: 'open', 'already_satisfied', or the status of `headline.Alpha` that
      stands against a judgement.
    levels: a sentence on doing nothing and U*.
    reached: methods from the smallest fraction on.
    failed: methods that never reach the bar.
    unknown: methods with missing cells.
  """

  name: str
  title: str
  status: str
  levels: str
  reached: tuple[Reach, ...]
  failed: tuple[str, ...]
  unknown: tuple[str, ...]


def _measure_reach(view: View, line: Line, start: float) -> Reach:
  # Harm at a larger fraction counts as well.
  changes = [
    summary.get_cell(view, line, fraction, 'retain_change')
    for fraction in view.fractions
    if fraction >= start
  ]
  means = [cell.mean for cell in changes if cell.mean is not None]
  # A mean may reach the bar where a single seed does not.
  starts = [headline.find_alpha(view, line, seed).value for seed in view.seeds]
  return Reach(
    line.method,
    start,
    summary.get_cell(view, line, start, 'acc_corr').mean or 0.0,
    sum(value is not None and value <= start for value in starts),
    min(means, default=None),
    any(cell.collapsed for cell in changes),
  )


def _describe_levels(view: View, problem: Problem, status: str) -> str:
  """Describes doing nothing, U* and the bar between them."""
  levels = headline.find_levels(view, problem, 'acc_corr')
  if status == 'incomplete' or levels['0.9 U*'] is None:
    reason = 'U* or doing nothing is missing or diverged'
    return f'Nothing can be said yet: {reason}.'
  texts = {
    name: 'unknown' if level is None else f'{level:.3f}'
    for name, level in levels.items()
  }
  text = (
    f'Doing nothing has Acc_corr {texts["none"]}, U* has {texts["U*"]}: the '
    f'bar, 0.9 U*, is {texts["0.9 U*"]}.'
  )
  if status == 'already_satisfied':
    return f'{text} Doing nothing reaches it, so there is nothing to repair.'
  return text


def _judge_problem(results: Results, view: View, problem: Problem) -> Outcome:
  entry = results['problems'][view.problems.index(problem)]
  idle = headline.find_alpha(view, summary.idle_line(problem, _RULE)).status
  status = 'open' if idle in ('never', 'reached') else idle
  reached: list[Reach] = []
  failed: list[str] = []
  unknown: list[str] = []
  for method in view.methods if status == 'open' else ():
    line = Line(problem, method, _RULE)
    alpha = headline.find_alpha(view, line)
    # It is the level that others are compared with.
    if method == 'none':
      continue
    if alpha.status == 'reached' and alpha.value is not None:
      reached.append(_measure_reach(view, line, alpha.value))
    else:
      (failed if alpha.status == 'never' else unknown).append(method)
  return Outcome(
    looks.name_problem(problem),
    looks.describe_problem(entry, results['class_names']),
    status,
    _describe_levels(view, problem, status),
    tuple(
      sorted(reached, key=lambda reach: (reach.start, reach.harm, -reach.corr))
    ),
    tuple(failed),
    tuple(unknown),
  )


def judge_problems(results: Results) -> list[Outcome]:
  """Judges every method on every problem, under the benchmark's own rule."""
  view = summary.index_rows(results)
  return [_judge_problem(results, view, problem) for problem in view.problems]


def _describe_price(reach: Reach, seeds: int) -> str:
  parts = [f'Acc_corr {reach.corr:.3f}']
  if reach.change is None:
    parts.append('change of Acc_retain unknown')
  else:
    # A true minus sign, as in the tables.
    points = f'{reach.change:+.1f}'.replace('-', '−')
    parts.append(f'Acc_retain {points} points at worst')
  if 1 < seeds == reach.seeds:
    parts.append(f'in all {seeds} seeds')
  elif seeds > 1:
    parts.append(f'on average, in {reach.seeds} of {seeds} seeds')
  if reach.harm:
    parts.append('harm: collapsed' if reach.collapsed else 'harm')
  return ', '.join(parts)


def _name_late(reach: Reach) -> str:
  # At fraction 1 rewod is the gold standard by definition.
  if reach.method == 'rewod':
    return 'rewod (that is U* itself)'
  return f'{reach.method} (harm)' if reach.harm else reach.method


def describe_methods(outcome: Outcome, seeds: int) -> list[tuple[str, bool]]:
  """Describes who reaches the bar from where on.

  Returns:
    Lines, each with whether it tells of harm.
  """
  lines = [
    (
      f'{reach.method} from {looks.format_percent(reach.start)} identified on: '
      + _describe_price(reach, seeds),
      reach.harm,
    )
    for reach in outcome.reached
    # Methods that need everything have a line of their own.
    if reach.start < 1
  ]
  groups = {
    'only once everything is identified': [
      _name_late(reach) for reach in outcome.reached if reach.start >= 1
    ],
    'never': outcome.failed,
    'not complete, or undefined': outcome.unknown,
  }
  return lines + [
    (f'{title}: {", ".join(methods)}', False)
    for title, methods in groups.items()
    if methods
  ]
