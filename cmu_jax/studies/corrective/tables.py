"""What a sweep measured, as tables: the paper's 1 and 3, alpha_0.9, curves."""

import io
from collections.abc import Callable

import rich.console
import rich.markup

from cmu_jax.report import text_tables
from cmu_jax.report.text_tables import TextTable
from cmu_jax.studies.corrective import formats, headline, looks, summary
from cmu_jax.studies.corrective.load import Results
from cmu_jax.studies.corrective.summary import Line, Problem, View

_SEEN = 'what it could see'
# More columns than these leave no room for intervals in a terminal.
_TERMINAL_FRACTIONS = 5


def _seeds(view: View) -> str:
  n = len(view.seeds)
  return 'one seed' if n == 1 else f'{n} seeds'


def _table(
  view: View,
  title: tuple[str, str],
  notes: tuple[str, ...],
  columns: tuple[str, ...],
  cells: Callable[[str], list[str]],
) -> TextTable:
  """A row a method, with what it could see beside its numbers.

  Args:
    view: the rows.
    title: what is shown, and the selection rule.
    notes: what the numbers are.
    columns: their names.
    cells: method -> texts.
  """
  rows = [
    (method, *cells(method), view.information[method])
    for method in view.methods
  ]
  shown, selection = title
  rule = f'Hyperparameters: {looks.SELECTIONS[selection]}.'
  signs = formats.legend(''.join(row[:-1]) for row in rows)
  return TextTable(
    f'{shown} (selection: {selection})',
    (*notes, rule, *signs),
    ('method', *columns, _SEEN),
    tuple(rows),
    prose_columns=1,
  )


def retain(view: View, selection: str) -> TextTable:
  """Table 1 of the paper: changes of Acc_retain, 'none' absolute.

  Each seed's mean over fractions, then mean and sample standard deviation
  over seeds. (arXiv 2402.14015 gives the spread over fractions.)
  """

  def cells(method: str) -> list[str]:
    idle = method == 'none'
    metric = 'acc_retain' if idle else 'retain_change'
    lines = [Line(p, method, selection) for p in view.problems]
    return [
      formats.mean_std(summary.over_fractions(view, line, metric), idle)
      for line in lines
    ]

  notes = (
    'In points: the row none is absolute, the others are changes against none '
    'with the same seed. Mean over identified fractions for each seed, then '
    f'mean ± sample standard deviation over {_seeds(view)}. (The ± of the '
    'published table is over fractions.)',
  )
  columns = tuple(map(looks.short, view.problems))
  title = ('Change in Acc_retain', selection)
  return _table(view, title, notes, columns, cells)


def _total(
  view: View, method: str, selection: str, metric: str
) -> tuple[float | None, str]:
  """Mean cost over problems, fractions and seeds; a star if some lack."""
  cells = [
    summary.over_fractions(view, Line(p, method, selection), metric)
    for p in view.problems
  ]
  means = [found.mean for c in cells if (found := summary.spread(c))]
  missing = '*' if any(c.missing for c in cells) else ''
  return (sum(means) / len(means) if means else None), missing


def cost(view: View, selection: str) -> TextTable:
  """Table 3 of the paper: time, and gradient evaluations, by method."""
  times = ('seconds', 'grid_seconds')
  counts = ('gradient_evaluations', 'grid_gradient_evaluations')
  found = {
    (method, key): _total(view, method, selection, key)
    for method in view.methods
    for key in (*times, *counts)
  }
  spent = [v for (_, key), (v, _) in found.items() if key in times and v]
  minutes = max(spent, default=0) >= 120
  unit = 'minutes' if minutes else 'seconds'

  def cells(method: str) -> list[str]:
    texts = [
      text_tables.time_text(found[method, key][0], minutes) for key in times
    ]
    texts += [formats.count(found[method, key][0]) for key in counts]
    stars = [found[method, key][1] for key in (*times, *counts)]
    return [text + star for text, star in zip(texts, stars, strict=True)]

  notes = (
    'Wall time, and gradients of single images; means over problems, '
    "identified fractions and seeds. 'Chosen' counts the chosen "
    "hyperparameters alone, 'grid' all that were compared.",
  )
  columns = tuple(
    f'{what} [{of}]'
    for of in (unit, 'gradients')
    for what in ('chosen', 'grid')
  )
  return _table(view, ('Cost of unlearning', selection), notes, columns, cells)


def _alpha(view: View, line: Line) -> str:
  text = formats.alpha(headline.alpha(view, line))
  if len(view.seeds) < 2:
    return text
  each = [formats.alpha(headline.alpha(view, line, s)) for s in view.seeds]
  return text if set(each) == {text} else f'{text} ({", ".join(each)})'


def alphas(view: View, selection: str) -> TextTable:
  """alpha_0.9 of the mean over seeds, and of each seed where they differ."""
  notes = (
    'The smallest identified fraction from which on Acc_corr stays at least '
    '0.9 Acc_corr(U*, 1), for means over seeds; in parentheses each seed, '
    'where they differ. U* is rewod with everything identified, which by '
    "definition reaches the bar at 1. 'Already satisfied': doing nothing "
    "reaches it. 'Incomplete': a run it depends on is missing. 'Undefined': "
    'the original model or U* diverged. Diverged runs count as failures.',
  )
  return _table(
    view,
    ('alpha_0.9', selection),
    notes,
    tuple(map(looks.short, view.problems)),
    lambda m: [_alpha(view, Line(p, m, selection)) for p in view.problems],
  )


def fractions(
  view: View,
  problem: Problem,
  metric: str,
  selection: str,
  intervals: bool = True,
) -> TextTable:
  """One metric by method and identified fraction.

  Args:
    view: the rows.
    problem: manipulation and size.
    metric: a key of `looks.METRICS`.
    selection: rule that chose hyperparameters.
    intervals: whether half the 95 % t-interval stands beside each mean.
  """
  shown = looks.METRICS[metric]
  digits = 2 if shown.kind == 'points' else 3
  least = headline.bar(view, problem) if metric == 'acc_corr' else None
  what = ' ± half the 95 % t-interval' if intervals else ''
  over = (
    f'mean{what} over {_seeds(view)}' if len(view.seeds) > 1 else 'one seed'
  )
  note = f'{shown.says} By identified fraction; {over}.' + (
    '' if least is None else f' 0.9 U* is {least:.3f}.'
  )

  def cells(method: str) -> list[str]:
    line = Line(problem, method, selection)
    found = [summary.cell(view, line, f, metric) for f in view.fractions]
    return [formats.mean_interval(c, digits, intervals) for c in found]

  title = (f'{shown.name}, {looks.short(problem)}', selection)
  columns = tuple(f'{f:g}' for f in view.fractions)
  return _table(view, title, (note,), columns, cells)


def hypers(view: View, problem: Problem, selection: str) -> TextTable:
  """The chosen hyperparameters by method and identified fraction."""

  def cells(method: str) -> list[str]:
    line = Line(problem, method, selection)
    return [
      formats.hyper([summary.row(view, line, s, f) for s in view.seeds])
      for f in view.fractions
    ]

  note = 'By identified fraction; one for each seed where they differ.'
  title = (f'Chosen hyperparameters, {looks.short(problem)}', selection)
  columns = tuple(f'{f:g}' for f in view.fractions)
  return _table(view, title, (note,), columns, cells)


def metrics(results: Results, manipulation: str) -> list[str]:
  """The metrics that were measured on a manipulation."""
  rows = [r for r in results['rows'] if r['manipulation'] == manipulation]
  derived = ('retain_change', 'corr_share')
  return [
    key
    for key in looks.METRICS
    if key in derived or any(row.get(key) is not None for row in rows)
  ]


def contents(results: Results) -> dict[str, list[TextTable]]:
  """All tables: name of the file, without its ending -> its tables."""
  view = summary.view(results)
  rules = summary.SELECTIONS
  made = {
    'table1_retain': [retain(view, rule) for rule in rules],
    'table3_cost': [cost(view, rule) for rule in rules],
    'alpha_09': [alphas(view, rule) for rule in rules],
  }
  for kind in dict.fromkeys(problem[0] for problem in view.problems):
    own = [(p, rule) for p in view.problems for rule in rules if p[0] == kind]
    for metric in metrics(results, kind):
      made[f'{kind}_{metric}'] = [
        fractions(view, problem, metric, rule) for problem, rule in own
      ]
    made[f'{kind}_hyperparameters'] = [hypers(view, *pair) for pair in own]
  return made


def warnings(results: Results) -> list[str]:
  """What must stand above every number: unfinished, or no evidence."""
  said = []
  if results['smoke']:
    said.append('smoke: not evidence')
  if not results['finished']:
    said.append('The sweep is not finished: this is what there is.')
  return said


def texts(results: Results) -> dict[str, str]:
  """Names and contents of all files of tables, Markdown and LaTeX."""
  name, said = ' '.join(results['name'].split()), warnings(results)
  above = [
    f'# {text_tables.markdown_text(name)}',
    *(f'**{line}**' for line in said),
  ]
  remark = ''.join(f'% {line}\n' for line in (name, *said))
  made = {}
  for stem, found in contents(results).items():
    parts = [*above, *map(text_tables.markdown, found)]
    made[f'{stem}.md'] = '\n\n'.join(part.rstrip() for part in parts) + '\n'
    made[f'{stem}.tex'] = remark + '\n'.join(
      text_tables.latex(g) for g in found
    )
  return made


def console(
  results: Results, file: io.StringIO | io.TextIOWrapper | None = None
) -> None:
  """Prints Acc_corr by fraction, alpha_0.9, Table 1 and the cost."""
  probe = rich.console.Console(file=file)
  width = max(probe.width, 80) if probe.is_terminal else 100
  printer = rich.console.Console(file=file, width=width, highlight=False)
  view = summary.view(results)
  few = len(view.fractions) <= _TERMINAL_FRACTIONS
  shown = [fractions(view, p, 'acc_corr', 'paper', few) for p in view.problems]
  shown += [alphas(view, 'paper'), retain(view, 'paper'), cost(view, 'paper')]
  for line in (results['name'], *warnings(results)):
    printer.print(rich.markup.escape(line), style='bold')
  for grid in shown:
    printer.print(rich.markup.escape(grid.title), style='bold')
    printer.print(text_tables.terminal(grid, prose=False))
    printer.print(rich.markup.escape('\n'.join(grid.notes)) + '\n')
  printer.print(f'{_SEEN[0].upper()}{_SEEN[1:]}:')
  for method, seen in view.information.items():
    printer.print(rich.markup.escape(f'  {method}: {seen}'))
