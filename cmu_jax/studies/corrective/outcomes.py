"""One problem in words: who reaches 0.9 U* from where on, at what price."""

from typing import NamedTuple

from cmu_jax.studies.corrective import headline, looks, summary
from cmu_jax.studies.corrective.load import Results
from cmu_jax.studies.corrective.summary import Line, Problem, View

# Acc_retain may fall by so many points before a repair counts as harm.
HARM = 1.0
_SLACK = 1e-9
# Claims are about the benchmark's own rule, never about hindsight.
_RULE = 'paper'


class Reach(NamedTuple):
  """A method that reaches 0.9 U* on a problem.

  Attributes:
    method: its name.
    start: the smallest sufficient identified fraction.
    corr: mean Acc_corr at that fraction.
    seeds: how many seeds reach the bar by themselves from there on.
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


class Outcome(NamedTuple):
  """One problem in words.

  Attributes:
    name: the problem, short.
    title: what the problem is.
    status: 'open', 'already_satisfied', or why nothing can be said.
    sentences: what doing nothing and U* have.
    reached: methods from the smallest fraction on.
    failed: methods that never reach the bar.
    unknown: methods of which cells are missing.
  """

  name: str
  title: str
  status: str
  sentences: tuple[str, ...]
  reached: tuple[Reach, ...]
  failed: tuple[str, ...]
  unknown: tuple[str, ...]


def harmful(reach: Reach) -> bool:
  """Whether a repair costs more than a point, or collapses."""
  lost = reach.change is not None and reach.change < -HARM - _SLACK
  return reach.collapsed or lost


def _reach(view: View, line: Line, start: float) -> Reach:
  later = [f for f in view.fractions if f >= start]
  changes = [summary.cell(view, line, f, 'retain_change') for f in later]
  means = [found.mean for c in changes if (found := summary.spread(c))]
  own = [headline.alpha(view, line, seed).value for seed in view.seeds]
  first = summary.spread(summary.cell(view, line, start, 'acc_corr'))
  return Reach(
    line.method,
    start,
    first.mean if first else 0.0,
    sum(value is not None and value <= start for value in own),
    min(means) if means else None,
    any(c.collapsed for c in changes),
  )


def _mean(view: View, line: Line) -> str:
  found = summary.spread(summary.cell(view, line, 1.0, 'acc_corr'))
  return f'{found.mean:.3f}' if found else 'unknown'


def _levels(view: View, problem: Problem, status: str) -> tuple[str, ...]:
  """Doing nothing, U* and the bar between them."""
  least = headline.bar(view, problem)
  if status == 'incomplete' or least is None:
    why = 'U* or doing nothing is missing or diverged'
    return (f'Nothing can be said yet: {why}.',)
  idle = _mean(view, Line(problem, 'none', _RULE))
  best = _mean(view, summary.gold(problem))
  text = f'Doing nothing has Acc_corr {idle}, U* has {best}: the bar, 0.9 U*, '
  text += f'is {least:.3f}.'
  if status == 'already_satisfied':
    return (f'{text} Doing nothing reaches it, so there is nothing to repair.',)
  return (text,)


def outcome(results: Results, view: View, problem: Problem) -> Outcome:
  """Who reaches 0.9 U* on a problem, under the benchmark's own selection."""
  entry = results['problems'][view.problems.index(problem)]
  idle = headline.alpha(view, Line(problem, 'none', _RULE)).status
  status = {'never': 'open', 'reached': 'open'}.get(idle, idle)
  reached: list[Reach] = []
  failed: list[str] = []
  unknown: list[str] = []
  for method in view.methods if status == 'open' else ():
    line = Line(problem, method, _RULE)
    found = headline.alpha(view, line)
    if method == 'none':
      continue
    if found.status == 'reached' and found.value is not None:
      reached.append(_reach(view, line, found.value))
    else:
      (failed if found.status == 'never' else unknown).append(method)
  return Outcome(
    looks.short(problem),
    looks.title(entry, results['class_names']),
    status,
    _levels(view, problem, status),
    tuple(sorted(reached, key=lambda r: (r.start, harmful(r), -r.corr))),
    tuple(failed),
    tuple(unknown),
  )


def _signed(points: float) -> str:
  return f'{points:+.1f} points'.replace('-', '−')


def _price(reach: Reach, seeds: int) -> str:
  parts = [f'Acc_corr {reach.corr:.3f}']
  if reach.change is None:
    parts.append('change of Acc_retain unknown')
  else:
    parts.append(f'Acc_retain {_signed(reach.change)} at worst')
  if 1 < seeds == reach.seeds:
    parts.append(f'in all {seeds} seeds')
  elif seeds > 1:
    parts.append(f'on average, in {reach.seeds} of {seeds} seeds')
  if harmful(reach):
    parts.append('harm: collapsed' if reach.collapsed else 'harm')
  return ', '.join(parts)


def _late(reach: Reach) -> str:
  if reach.method == 'rewod':
    return 'rewod (that is U* itself)'
  return f'{reach.method} (harm)' if harmful(reach) else reach.method


def lines(one: Outcome, seeds: int) -> list[tuple[str, bool]]:
  """Who reaches the bar from where on, a line each, and whether with harm."""
  told = []
  for reach in one.reached:
    start = looks.percent(reach.start)
    if reach.start < 1:
      text = f'{reach.method} from {start} identified on: '
      told.append((text + _price(reach, seeds), harmful(reach)))
  groups = {
    'only once everything is identified': [
      _late(reach) for reach in one.reached if reach.start >= 1
    ],
    'never': one.failed,
    'not complete, or undefined': one.unknown,
  }
  return told + [
    (f'{says}: {", ".join(methods)}', False)
    for says, methods in groups.items()
    if methods
  ]
