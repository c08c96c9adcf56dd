"""Tables of text in several forms: Markdown, LaTeX, HTML, terminal."""

from collections.abc import Mapping
from typing import NamedTuple

import rich.box
import rich.markup
import rich.table

from cmu_jax.report import page, stats

# Shown for a number that does not apply.
DASH = '–'


class TextTable(NamedTuple):
  """A table whose cells are text.

  Attributes:
    title: of the table.
    notes: sentences about its numbers.
    columns: column names; the first column names the row.
    rows: each as long as `columns`.
    prose_columns: number of last columns that hold prose rather than numbers.
  """

  title: str
  notes: tuple[str, ...]
  columns: tuple[str, ...]
  rows: tuple[tuple[str, ...], ...]
  prose_columns: int = 0


def spread_text(spread: stats.Spread | None, digits: int = 2) -> str:
  """Formats mean and sample standard deviation; a dash for None."""
  if spread is None:
    return DASH
  std = '' if spread.std is None else f' ± {spread.std:.{digits}f}'
  return f'{spread.mean:.{digits}f}{std}'


def time_text(seconds: float | None, minutes: bool) -> str:
  """Formats seconds, or minutes, with two decimals; a dash for None."""
  if seconds is None:
    return DASH
  return f'{seconds / 60:.2f}' if minutes else f'{seconds:.2f}'


# Characters that LaTeX takes for a command, or that its usual fonts lack.
_LATEX = {
  '\\': r'\textbackslash{}',
  '{': r'\{',
  '}': r'\}',
  '$': r'\$',
  '&': r'\&',
  '#': r'\#',
  '%': r'\%',
  '_': r'\_',
  '^': r'\textasciicircum{}',
  '~': r'\textasciitilde{}',
  '<': r'\textless{}',
  '>': r'\textgreater{}',
  '|': r'\textbar{}',
  '"': "''",
  '±': r'$\pm$',
  '−': r'$-$',
  '–': '--',
  '…': r'\ldots{}',
  '≥': r'$\geq$',
  '†': r'\dag{}',
  '‡': r'\ddag{}',
}


def _one_line(text: str) -> str:
  return ' '.join(text.split())


def markdown_text(text: str) -> str:
  """Escapes text for Markdown, in a table cell too."""
  for sign in '\\|*_`[]':
    text = text.replace(sign, '\\' + sign)
  # A class may be called '<b>'.
  return _one_line(text).replace('<', '&lt;')


def _markdown_line(cells: tuple[str, ...] | list[str]) -> str:
  return f'| {" | ".join(cells)} |'


def markdown(table: TextTable) -> str:
  """Formats the table under a heading, notes first."""
  numbers = len(table.columns) - 1 - table.prose_columns
  # Markdown aligns columns with a trailing colon to the right.
  ruler = ['---', *['--:'] * numbers, *['---'] * table.prose_columns]
  lines = [_markdown_line([markdown_text(c) for c in table.columns])]
  lines.append(_markdown_line(ruler))
  lines += [_markdown_line([markdown_text(c) for c in r]) for r in table.rows]
  notes = '\n\n'.join(markdown_text(note) for note in table.notes)
  body = '\n'.join(lines)
  return f'## {markdown_text(table.title)}\n\n{notes}\n\n{body}\n'


def latex_text(text: str) -> str:
  """Escapes text for LaTeX."""
  return ''.join(_LATEX.get(sign, sign) for sign in _one_line(text))


def _latex_line(cells: tuple[str, ...]) -> str:
  # A star or bracket right after a line break would be taken as its argument.
  return ' & '.join('{}' + latex_text(cell) for cell in cells) + r' \\'


def latex(table: TextTable) -> str:
  """Formats the table as a float that needs no package."""
  numbers = len(table.columns) - 1 - table.prose_columns
  prose = 'p{0.3\\linewidth}' * table.prose_columns
  columns = 'l' + 'r' * numbers + prose
  notes = ' '.join(latex_text(note) for note in table.notes)
  return '\n'.join(
    [
      r'\begin{table}',
      r'\centering',
      rf'\caption{{{latex_text(table.title)}. {notes}}}',
      rf'\begin{{tabular}}{{{columns}}}',
      r'\hline',
      _latex_line(table.columns),
      r'\hline',
      *(_latex_line(row) for row in table.rows),
      r'\hline',
      r'\end{tabular}',
      r'\end{table}',
      '',
    ]
  )


def html(table: TextTable) -> str:
  """Formats the table with its title above and its notes below."""
  numbers = len(table.columns) - 1 - table.prose_columns
  # CSS classes of the columns, see the style sheet in `page`.
  kinds = ['', *['number'] * numbers, *['seen'] * table.prose_columns]
  rows = [
    '<tr>'
    + ''.join(
      f'<td class="{kind}">{page.escape(text)}</td>'
      for kind, text in zip(kinds, row, strict=True)
    )
    + '</tr>'
    for row in table.rows
  ]
  columns = list(zip(kinds, table.columns, strict=True))
  notes = ''.join(f'<p class="soft">{page.escape(n)}</p>' for n in table.notes)
  title = page.escape(table.title)
  return f'<h3>{title}</h3>{page.table(columns, rows)}{notes}'


def markdown_files(
  tables: Mapping[str, TextTable], smoke: bool
) -> dict[str, str]:
  """Formats tables as the contents of Markdown files, by file name.

  Args:
    tables: name of a file, without its ending -> its table.
    smoke: whether each file must say that it is no evidence.
  """
  banner = '**smoke: not evidence**\n\n' if smoke else ''
  return {
    f'{name}.md': banner + markdown(table) for name, table in tables.items()
  }


def terminal(table: TextTable) -> rich.table.Table:
  """Formats the table for a terminal, without title and notes."""
  numbers = len(table.columns) - table.prose_columns
  grid = rich.table.Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
  for i, name in enumerate(table.columns):
    # Names may contain brackets, which rich would read as markup.
    text = rich.markup.escape(name)
    grid.add_column(text, justify='right' if 0 < i < numbers else 'left')
  for row in table.rows:
    grid.add_row(*map(rich.markup.escape, row))
  return grid
