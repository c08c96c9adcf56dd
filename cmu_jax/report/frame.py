"""Reads a results.json whose numbers lie in lists of rows, and checks it.

What the reports of all runs on cells share: their page and their files.
"""

import math
import operator
import os
import pathlib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from cmu_jax.core import errors, files, progress
from cmu_jax.report import page, style, text_tables
from cmu_jax.report.style import ReportFigure
from cmu_jax.report.text_tables import TextTable

Results = dict[str, Any]

_SCHEMA = 1
# What every such file begins with, see `provenance.results_header`.
_HEADER = {
  'name': str,
  'smoke': bool,
  'finished': bool,
  'provenance': dict,
  'config': dict,
}


def check_rows(
  path: pathlib.Path, part: str, rows: list, needed: tuple[str, ...]
) -> None:
  """Refuses rows that lack a field or hold a number that is not finite.

  Args:
    path: of the file, for messages.
    part: the name of the list in it.
    rows: the list.
    needed: fields of every row.

  Raises:
    UserError: naming the first such row.
  """
  for i, row in enumerate(rows):
    known = set(row) if isinstance(row, dict) else set()
    absent = [name for name in needed if name not in known]
    errors.check(
      not absent,
      f'{path}: {part}[{i}] has no {", ".join(absent)}; run again to rewrite '
      'it',
    )
    for key, value in row.items():
      errors.check(
        not isinstance(value, float) or math.isfinite(value),
        f'{path}: {part}[{i}].{key} is not finite; write null where a number '
        'does not apply',
      )


def read_results(
  workdir: os.PathLike | str,
  task: str,
  required: Mapping[str, type],
  parts: Mapping[str, tuple[str, ...]],
) -> Results:
  """The checked contents of the results.json of a task.

  Args:
    workdir: the work folder.
    task: the run must be of it, schema 1.
    required: its own fields and their types.
    parts: lists of rows, and what every row of them has.

  Raises:
    UserError: it is missing, broken or not that of such a run.
  """
  path = pathlib.Path(workdir) / 'results.json'
  value = files.read_json(path)
  errors.check(
    isinstance(value, dict)
    and (value.get('task'), value.get('schema')) == (task, _SCHEMA),
    f'{path} is not of task {task}, schema {_SCHEMA}; run again',
  )
  for name, kind in {
    **_HEADER,
    **dict.fromkeys(parts, list),
    **required,
  }.items():
    errors.check(
      isinstance(value.get(name), kind),
      f"{path}: '{name}' is missing or is not a {kind.__name__}; run again",
    )
  for part, needed in parts.items():
    check_rows(path, part, value[part], needed)
  return value


# What a verdict says last of a run that was stopped.
UNFINISHED = 'The run is not finished: the same command continues it.'


class Verdict(NamedTuple):
  """What a run showed.

  Attributes:
    label: the finding in one line.
    tone: 'good', 'bad' or 'flat'; a smoke run is shown as 'flat'.
    sentences: what it rests on, and how far to trust it.
  """

  label: str
  tone: str
  sentences: tuple[str, ...]


class Report(NamedTuple):
  """What makes the report of one kind of run.

  Attributes:
    read: work folder -> checked contents of its results.json.
    verdict: of the contents.
    tables: contents -> name of a table's file, without its ending -> the table.
    figures: (contents, label of the verdict) -> the figures, one by one.
    captions: name of a figure -> its caption; of all that there may be.
    sections: contents -> heading -> HTML, below tables and figures.
    glossary: term -> what it means.
  """

  read: Callable[[os.PathLike | str], Results]
  verdict: Callable[[Results], Verdict]
  tables: Callable[[Results], dict[str, TextTable]]
  figures: Callable[[Results, str], Iterable[ReportFigure]]
  captions: dict[str, str]
  sections: Callable[[Results], dict[str, str]]
  glossary: dict[str, str]


def draw_figures(
  drawn: Iterable[ReportFigure], advance: Callable[[], None]
) -> list[tuple[ReportFigure, bytes]]:
  """Figures and their PNGs, without those that there was nothing to draw for.

  Args:
    drawn: the figures, drawn one by one.
    advance: called after each.
  """
  made = []
  for one in drawn:
    if one.figure is not None:
      made.append((one, style.png(one.figure)))
    advance()
  return made


def write_figures(
  folder: pathlib.Path,
  drawn: list[tuple[ReportFigure, bytes]],
  captions: Collection[str],
) -> None:
  """Writes PNGs, and removes those that no longer belong to the results.

  Args:
    folder: where to.
    drawn: figures and their PNGs.
    captions: names of all figures that an earlier report may have left.
  """
  for name in set(captions) - {one.name for one, _ in drawn}:
    (folder / f'{name}.png').unlink(missing_ok=True)
  for one, png in drawn:
    files.write(folder / f'{one.name}.png', operator.methodcaller('write', png))


def render(
  report: Report, found: Results, drawn: list[tuple[ReportFigure, bytes]]
) -> str:
  """The whole page as HTML that needs nothing else.

  Args:
    report: of this kind of run.
    found: checked contents of results.json.
    drawn: figures and their PNGs.
  """
  said = report.verdict(found)
  return page.fill_page(
    name=page.escape(found['name']),
    label=page.escape(said.label),
    banner=page.banner(found['smoke']),
    tone='flat' if found['smoke'] else said.tone,
    heading=page.escape(said.label),
    sentences=page.paragraphs(said.sentences),
    sections={
      'Tables': ''.join(map(text_tables.html, report.tables(found).values())),
      'Figures': '\n'.join(
        page.picture(png, one.name, report.captions[one.name])
        for one, png in drawn
      ),
      **report.sections(found),
      'How to read this': page.definition_list(report.glossary),
      'How to get the same numbers': page.reproduction_section(
        found['provenance'], found['config'], list(found['config']['seeds'])
      ),
    },
  )


def show(report: Report, workdir: os.PathLike | str) -> pathlib.Path:
  """Writes tables/, figures/ and report.html, each file whole.

  Args:
    report: of the kind of run that it was.
    workdir: its work folder, with results.json.

  Returns:
    The path of report.html.

  Raises:
    UserError: results.json is missing, broken or of something else, or the
      folder cannot be written.
  """
  folder = pathlib.Path(workdir)
  found = report.read(folder)
  tables = text_tables.markdown_files(report.tables(found), found['smoke'])
  for name, text in tables.items():
    files.write_text(folder / 'tables' / name, text)
  total, label = len(report.captions), report.verdict(found).label
  with progress.bar('drawing the report', total, 'figures') as advance:
    drawn = draw_figures(report.figures(found, label), advance)
  write_figures(folder / 'figures', drawn, report.captions)
  html = folder / 'report.html'
  files.write_text(html, render(report, found, drawn))
  return html
