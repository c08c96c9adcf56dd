"""A table of texts, and its forms: Markdown, LaTeX, HTML, terminal."""

from collections.abc import Mapping
from typing import NamedTuple

import rich.box
import rich.markup
import rich.table

from cmu_jax.report import page

# Where a number does not apply.
DASH = '–'


class TextTable(NamedTuple):
  """A table as texts.

  Attributes:
    title: what it shows.
    notes: what its numbers are, a sentence or more each.
    head: column names; the first column names the row.
    rows: as long as the head, each.
    wide: how many last columns hold prose rather than numbers.
  """

  title: str
  notes: tuple[str, ...]
  columns: tuple[str, ...]
  rows: tuple[tuple[str, ...], ...]
  prose_columns: int = 0


def time_text(value: float | None, minutes: bool) -> str:
  """Seconds, or minutes, with two decimals; a dash for None."""
  if value is None:
    return DASH
  return f'{value / 60:.2f}' if minutes else f'{value:.2f}'


# Every character that LaTeX would take for a command, or its usual fonts lack.
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
  """Text that Markdown shows as it is, in a table cell too."""
  for sign in '\\|*_`[]':
    text = text.replace(sign, '\\' + sign)
  return _one_line(text).replace('<', '&lt;')


def _markdown_line(cells: tuple[str, ...] | list[str]) -> str:
  return f'| {" | ".join(cells)} |'


def markdown(grid: TextTable) -> str:
  """The grid under a heading, notes first."""
  numbers = len(grid.columns) - 1 - grid.prose_columns
  ruler = ['---', *['--:'] * numbers, *['---'] * grid.prose_columns]
  lines = [_markdown_line([markdown_text(c) for c in grid.columns])]
  lines.append(_markdown_line(ruler))
  lines += [_markdown_line([markdown_text(c) for c in r]) for r in grid.rows]
  notes = '\n\n'.join(markdown_text(note) for note in grid.notes)
  body = '\n'.join(lines)
  return f'## {markdown_text(grid.title)}\n\n{notes}\n\n{body}\n'


def latex_text(text: str) -> str:
  """Text that LaTeX prints as it is."""
  return ''.join(_LATEX.get(sign, sign) for sign in _one_line(text))


def _latex_line(cells: tuple[str, ...]) -> str:
  # A star or bracket right after a line break would be taken as its argument.
  return ' & '.join('{}' + latex_text(cell) for cell in cells) + r' \\'


def latex(grid: TextTable) -> str:
  """The grid as a table float that needs no package."""
  numbers = len(grid.columns) - 1 - grid.prose_columns
  columns = 'l' + 'r' * numbers + 'p{0.3\\linewidth}' * grid.prose_columns
  notes = ' '.join(latex_text(note) for note in grid.notes)
  return '\n'.join(
    [
      r'\begin{table}',
      r'\centering',
      rf'\caption{{{latex_text(grid.title)}. {notes}}}',
      rf'\begin{{tabular}}{{{columns}}}',
      r'\hline',
      _latex_line(grid.columns),
      r'\hline',
      *(_latex_line(row) for row in grid.rows),
      r'\hline',
      r'\end{tabular}',
      r'\end{table}',
      '',
    ]
  )


def html(found: TextTable) -> str:
  """The grid with its title above it and its notes below."""
  numbers = range(1, len(found.columns) - found.prose_columns)
  kinds = ['number' if i in numbers else '' for i in range(len(found.columns))]
  last = len(found.columns) - found.prose_columns
  kinds = kinds[:last] + ['seen'] * found.prose_columns
  rows = [
    '<tr>'
    + ''.join(
      f'<td class="{kind}">{page.escape(text)}</td>'
      for kind, text in zip(kinds, row, strict=True)
    )
    + '</tr>'
    for row in found.rows
  ]
  head = list(zip(kinds, found.columns, strict=True))
  notes = ''.join(f'<p class="soft">{page.escape(n)}</p>' for n in found.notes)
  return f'<h3>{page.escape(found.title)}</h3>{page.table(head, rows)}{notes}'


def markdown_files(
  contents: Mapping[str, TextTable], smoke: bool
) -> dict[str, str]:
  """Tables as Markdown files, by name.

  Args:
    contents: name of a file, without its ending -> its table.
    smoke: whether they are no evidence, which each of them then says.
  """
  banner = '**smoke: not evidence**\n\n' if smoke else ''
  return {
    f'{name}.md': banner + markdown(grid) for name, grid in contents.items()
  }


def terminal(grid: TextTable, prose: bool = True) -> rich.table.Table:
  """The grid for a terminal, without title and notes.

  Args:
    grid: what to show.
    prose: whether the last columns that hold prose are shown.
  """
  table = rich.table.Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
  end = len(grid.columns) - (0 if prose else grid.prose_columns)
  numbers = len(grid.columns) - grid.prose_columns
  for i, name in enumerate(grid.columns[:end]):
    text = rich.markup.escape(name)
    table.add_column(text, justify='right' if 0 < i < numbers else 'left')
  for row in grid.rows:
    table.add_row(*map(rich.markup.escape, row[:end]))
  return table
