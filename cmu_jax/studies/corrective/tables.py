"""Tables of a sweep: the paper's 1 and 3, alpha_0.9, and every metric."""

from collections.abc import Callable, Iterable

from cmu_jax.report import text_tables
from cmu_jax.report.frame import Results
from cmu_jax.report.text_tables import DASH, TextTable
from cmu_jax.studies.corrective import headline, looks, summary
from cmu_jax.studies.corrective.summary import Cell, Line, Problem, Row, View

_SIGNS = {
  '†': 'diverged in at least one run, which the mean leaves out',
  '‡': (
    'collapsed in at least one run: validation accuracy fell by more than 5 '
    'points'
  ),
  '*': 'at least one run is missing, which the mean leaves out',
}
_TIMES = ('seconds', 'grid_seconds')
_COUNTS = ('gradient_evaluations', 'grid_gradient_evaluations')


def _sign(cell: Cell) -> str:
  """Joins the signs of the defects of a cell."""
  defects = cell.diverged, cell.collapsed, cell.missing
  return ''.join(
    sign for sign, count in zip(_SIGNS, defects, strict=True) if count
  )


def _explain_signs(texts: Iterable[str]) -> tuple[str, ...]:
  """Explains the signs that occur in texts: a note, or none."""
  text = ''.join(texts)
  notes = [f'{sign} {says}' for sign, says in _SIGNS.items() if sign in text]
  return (f'{"; ".join(notes)}.',) if notes else ()


def format_interval(cell: Cell, digits: int = 3) -> str:
  """Formats '0.812 ± 0.031', with half the 95 % interval and the signs."""
  mean, half = cell.mean, cell.half
  # No run has a number: missing, diverged or inapplicable.
  if mean is None:
    return ('diverged' if cell.diverged else DASH) + _sign(cell)
  text = f'{mean:.{digits}f}'.replace('-', '−')
  return text + ('' if half is None else f' ± {half:.{digits}f}') + _sign(cell)


def format_spread(cell: Cell, absolute: bool) -> str:
  """Formats points and their standard deviation, as the paper's Table 1.

  Args:
    cell: rates, or changes in points.
    absolute: whether its values are rates.
  """
  spread = cell.spread
  if spread is None:
    return ('diverged' if cell.diverged else DASH) + _sign(cell)
  # Changes are in points already, and need their sign.
  scale, form = (100, '.2f') if absolute else (1, '+.2f')
  text = f'{scale * spread.mean:{form}}'.replace('-', '−')
  if spread.std is not None:
    text += f' ± {scale * spread.std:.2f}'
  return text + _sign(cell)


def format_count(value: float | None) -> str:
  """Formats a number with its thousands apart; a dash for None."""
  return DASH if value is None else f'{value:,.0f}'.replace(',', ' ')


def _format_alpha(alpha: headline.Alpha) -> str:
  """Formats '0.3', 'never', 'already satisfied', 'incomplete', ..."""
  if alpha.status == 'reached' and alpha.value is not None:
    return f'{alpha.value:g}'
  return alpha.status.replace('_', ' ')


def _format_hyper(row: Row | None) -> str:
  """Formats 'alpha=10 gamma=0.1'; a dash for a method without any."""
  if row is None:
    return 'missing'
  items = (row.get('hyper') or {}).items()
  return ' '.join(f'{key}={value:g}' for key, value in items) or DASH


def _describe_seeds(view: View) -> str:
  n = len(view.seeds)
  return 'one seed' if n == 1 else f'{n} seeds'


def _fractions(view: View) -> tuple[str, ...]:
  return tuple(f'{fraction:g}' for fraction in view.fractions)


def _problems(view: View) -> tuple[str, ...]:
  return tuple(map(looks.name_problem, view.problems))


def _build_table(
  view: View,
  title: tuple[str, str],
  note: str,
  columns: tuple[str, ...],
  cells: Callable[[str], list[str]],
) -> TextTable:
  """Builds a table with a row a method, and its inputs beside its numbers.

  Args:
    view: the rows.
    title: of the table, and the selection rule.
    note: on the numbers.
    columns: their names.
    cells: method -> texts.
  """
  rows = tuple(
    (method, *cells(method), view.information[method])
    for method in view.methods
  )
  name, selection = title
  rule = f'Hyperparameters: {looks.SELECTIONS[selection]}.'
  # The last column is prose, which may have a star of its own.
  signs = _explain_signs(text for row in rows for text in row[:-1])
  return TextTable(
    f'{name} (selection: {selection})',
    (note, rule, *signs),
    ('method', *columns, 'what it could see'),
    rows,
    prose_columns=1,
  )


def retain_table(view: View, selection: str) -> TextTable:
  """Builds Table 1 of the paper: changes of Acc_retain, 'none' absolute.

  Each seed's mean over fractions, then mean and sample standard deviation
  over seeds. (arXiv 2402.14015 gives the spread over fractions.)
  """

  def cells(method: str) -> list[str]:
    idle = method == 'none'
    metric = 'acc_retain' if idle else 'retain_change'
    lines = [Line(problem, method, selection) for problem in view.problems]
    return [
      format_spread(summary.average_fractions(view, line, metric), idle)
      for line in lines
    ]

  note = (
    'In points: the row none is absolute, the others are changes against none '
    'with the same seed. Mean over identified fractions for each seed, then '
    f'mean ± sample standard deviation over {_describe_seeds(view)}. (The ± of '
    'the published table is over fractions.)'
  )
  title = ('Change in Acc_retain', selection)
  return _build_table(view, title, note, _problems(view), cells)


def _average_cost(
  view: View, method: str, selection: str, metric: str
) -> tuple[float | None, str]:
  """Averages a cost over problems, fractions and seeds; a star if some lack."""
  cells = [
    summary.average_fractions(view, Line(problem, method, selection), metric)
    for problem in view.problems
  ]
  means = [mean for cell in cells if (mean := cell.mean) is not None]
  star = '*' if any(cell.missing for cell in cells) else ''
  return (sum(means) / len(means) if means else None), star


def cost_table(view: View, selection: str) -> TextTable:
  """Builds Table 3 of the paper: time, and gradient evaluations, by method."""
  costs = {
    (method, key): _average_cost(view, method, selection, key)
    for method in view.methods
    for key in (*_TIMES, *_COUNTS)
  }
  times = [value for (_, key), (value, _) in costs.items() if key in _TIMES]
  # One unit for the whole column, so that its numbers compare.
  minutes = max(filter(None, times), default=0) >= 120

  def cells(method: str) -> list[str]:
    texts = []
    for key in (*_TIMES, *_COUNTS):
      value, star = costs[method, key]
      timed = key in _TIMES
      texts.append(
        (
          text_tables.time_text(value, minutes)
          if timed
          else format_count(value)
        )
        + star
      )
    return texts

  note = (
    'Wall time, and gradients of single images; means over problems, '
    "identified fractions and seeds. 'Chosen' counts the chosen "
    "hyperparameters alone, 'grid' all that were compared."
  )
  columns = tuple(
    f'{scope} [{unit}]'
    for unit in ('minutes' if minutes else 'seconds', 'gradients')
    for scope in ('chosen', 'grid')
  )
  title = ('Cost of unlearning', selection)
  return _build_table(view, title, note, columns, cells)


def alpha_table(view: View, selection: str) -> TextTable:
  """Builds the table of alpha_0.9; of each seed too where they differ."""

  def cell(line: Line) -> str:
    text, *texts = (
      _format_alpha(headline.find_alpha(view, line, seed))
      for seed in (None, *view.seeds)
    )
    # The same word for every seed would only be noise.
    differ = len(texts) > 1 and set(texts) != {text}
    return f'{text} ({", ".join(texts)})' if differ else text

  note = (
    'The smallest identified fraction from which on Acc_corr stays at least '
    '0.9 Acc_corr(U*, 1), for means over seeds; in parentheses each seed, '
    'where they differ. U* is rewod with everything identified, which by '
    "definition reaches the bar at 1. 'Already satisfied': doing nothing "
    "reaches it. 'Incomplete': a run it depends on is missing. 'Undefined': "
    'the original model or U* diverged. Diverged runs count as failures.'
  )
  return _build_table(
    view,
    ('alpha_0.9', selection),
    note,
    _problems(view),
    lambda method: [cell(Line(p, method, selection)) for p in view.problems],
  )


def metric_table(
  view: View, problem: Problem, metric: str, selection: str
) -> TextTable:
  """Builds the table of a metric by method and identified fraction.

  Args:
    view: the rows.
    problem: manipulation and size.
    metric: a key of `looks.METRICS`.
    selection: rule that chose hyperparameters.
  """
  name, says, kind = looks.METRICS[metric]
  bar = headline.find_bar(view, problem) if metric == 'acc_corr' else None
  mean = 'mean ± half the 95 % t-interval over '
  scope = (mean if len(view.seeds) > 1 else '') + _describe_seeds(view)
  level = '' if bar is None else f' 0.9 U* is {bar:.3f}.'

  def cells(method: str) -> list[str]:
    line = Line(problem, method, selection)
    return [
      format_interval(
        summary.get_cell(view, line, fraction, metric),
        2 if kind == 'points' else 3,
      )
      for fraction in view.fractions
    ]

  return _build_table(
    view,
    (f'{name}, {looks.name_problem(problem)}', selection),
    f'{says} By identified fraction; {scope}.{level}',
    _fractions(view),
    cells,
  )


def hyper_table(view: View, problem: Problem, selection: str) -> TextTable:
  """Builds the table of chosen hyperparameters by method and fraction."""

  def cell(line: Line, fraction: float) -> str:
    rows = (summary.find_row(view, line, s, fraction) for s in view.seeds)
    texts = [_format_hyper(row) for row in rows]
    return texts[0] if len(set(texts)) == 1 else '; '.join(texts)

  def cells(method: str) -> list[str]:
    line = Line(problem, method, selection)
    return [cell(line, fraction) for fraction in view.fractions]

  note = 'By identified fraction; one for each seed where they differ.'
  title = (f'Chosen hyperparameters, {looks.name_problem(problem)}', selection)
  return _build_table(view, title, note, _fractions(view), cells)


def list_metrics(results: Results, manipulation: str) -> list[str]:
  """Lists the metrics that were measured on a manipulation."""
  rows = summary.select_rows(results['rows'], manipulation=manipulation)
  # Computed from other columns, hence in no row.
  derived = ('retain_change', 'corr_share')
  return [
    key
    for key in looks.METRICS
    if key in derived or any(row.get(key) is not None for row in rows)
  ]


def build_main_tables(
  results: Results, selection: str = 'paper'
) -> dict[str, TextTable]:
  """Builds the tables that the page shows: name -> table."""
  view = summary.index_rows(results)
  corr = {
    f'{kind}_{size}_acc_corr': metric_table(
      view, (kind, size), 'acc_corr', selection
    )
    for kind, size in view.problems
  }
  return {
    'alpha_09': alpha_table(view, selection),
    **corr,
    'table1_retain': retain_table(view, selection),
    'table3_cost': cost_table(view, selection),
  }


def build_tables(results: Results) -> dict[str, list[TextTable]]:
  """Builds all tables: name of the file, without its ending -> its tables."""
  view, rules = summary.index_rows(results), summary.SELECTIONS
  tables = {
    'table1_retain': [retain_table(view, rule) for rule in rules],
    'table3_cost': [cost_table(view, rule) for rule in rules],
    'alpha_09': [alpha_table(view, rule) for rule in rules],
  }
  # A file a manipulation and metric, with all its sizes and rules.
  for kind in dict.fromkeys(kind for kind, _ in view.problems):
    pairs = [(p, rule) for p in view.problems for rule in rules if p[0] == kind]
    for metric in list_metrics(results, kind):
      tables[f'{kind}_{metric}'] = [
        metric_table(view, problem, metric, rule) for problem, rule in pairs
      ]
    tables[f'{kind}_hyperparameters'] = [hyper_table(view, *p) for p in pairs]
  return tables


def format_files(results: Results) -> dict[str, str]:
  """Formats all tables as the contents of Markdown and LaTeX files."""
  # A line break would end a heading, or a remark of LaTeX.
  name = ' '.join(results['name'].split())
  warnings = ['smoke: not evidence'] * results['smoke']
  if not results['finished']:
    warnings.append('The sweep is not finished: this is what there is.')
  # Above every number, because files are passed on alone.
  head = [f'# {text_tables.markdown_text(name)}']
  head += [f'**{line}**' for line in warnings]
  remark = ''.join(f'% {line}\n' for line in (name, *warnings))
  texts = {}
  for stem, tables in build_tables(results).items():
    parts = [*head, *map(text_tables.markdown, tables)]
    texts[f'{stem}.md'] = '\n\n'.join(part.rstrip() for part in parts) + '\n'
    texts[f'{stem}.tex'] = remark + '\n'.join(map(text_tables.latex, tables))
  return texts
