"""Reports of studies: reading results.json, the page and its files."""

import fnmatch
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

# Last sentence of the verdict on a run that was stopped.
UNFINISHED = 'The run is not finished: the same command continues it.'
_SCHEMA = 1
# The first fields of every results.json, see `provenance.results_header`.
_HEADER = {
  'name': str,
  'smoke': bool,
  'finished': bool,
  'provenance': dict,
  'config': dict,
}


class Verdict(NamedTuple):
  """The finding of a run.

  Attributes:
    label: the finding in a line.
    tone: 'good', 'bad' or 'flat'; a smoke run is shown as 'flat'.
    sentences: its evidence, and how far to trust it.
  """

  label: str
  tone: str
  sentences: tuple[str, ...]


class Report(NamedTuple):
  """Content of the report of a study.

  Attributes:
    read: work folder -> checked contents of its results.json.
    verdict: of the contents.
    tables: contents -> name of a table's file, without its ending -> the table.
    figures: (contents, label of the verdict) -> the figures, lazily.
    captions: name of a figure, or pattern of names with '*' -> its caption;
      all figures that the study can draw.
    sections: contents -> heading -> HTML, below tables and figures.
    glossary: term -> its meaning.
    arrange: (contents, heading -> HTML of the standard page) -> the sections of
      this page; None for the standard page.
    console: prints a summary of the contents; None for nothing.
    table_files: contents -> name of a file -> its text; None for a Markdown
      file of each table of the page.
    figure_names: contents -> the names of their figures; None for the names
      in `captions`.
  """

  read: Callable[[os.PathLike | str], Results]
  verdict: Callable[[Results], Verdict]
  tables: Callable[[Results], dict[str, TextTable]]
  figures: Callable[[Results, str], Iterable[ReportFigure]]
  captions: dict[str, str]
  sections: Callable[[Results], dict[str, str]]
  glossary: dict[str, str]
  arrange: Callable[[Results, dict[str, str]], dict[str, str]] | None = None
  console: Callable[[Results], None] | None = None
  table_files: Callable[[Results], dict[str, str]] | None = None
  figure_names: Callable[[Results], Collection[str]] | None = None


def check_rows(
  path: pathlib.Path, section: str, rows: list, fields: tuple[str, ...]
) -> None:
  """Refuses rows that lack a field or hold a number that is not finite.

  Args:
    path: of the file, for messages.
    section: name of the list in it.
    rows: the list.
    fields: required in every row.

  Raises:
    UserError: naming the first such row.
  """
  for i, row in enumerate(rows):
    names = set(row) if isinstance(row, dict) else set()
    absent = [name for name in fields if name not in names]
    errors.check(
      not absent,
      f'{path}: {section}[{i}] has no {", ".join(absent)}; run again to '
      'rewrite it',
    )
    # Python's JSON reader accepts NaN, which would spoil means silently.
    for key, value in row.items():
      errors.check(
        not isinstance(value, float) or math.isfinite(value),
        f'{path}: {section}[{i}].{key} is not finite; write null where a '
        'number does not apply',
      )


def read_results(
  workdir: os.PathLike | str,
  tasks: str | tuple[str, ...],
  required: Mapping[str, type],
  sections: Mapping[str, tuple[str, ...]],
) -> Results:
  """Reads and checks the results.json of a study.

  Args:
    workdir: the work folder.
    tasks: the run must be of one of them, schema 1.
    required: its own fields and their types.
    sections: lists of rows, with the fields of each row.

  Raises:
    UserError: it is missing, broken or of another task.
  """
  path = pathlib.Path(workdir) / 'results.json'
  errors.check(
    path.is_file(), f'{path} does not exist; give the work folder of a run'
  )
  results = files.read_json(path)
  # Another schema may give the same names another meaning.
  valid = (tasks,) if isinstance(tasks, str) else tasks
  errors.check(
    isinstance(results, dict)
    and results.get('task') in valid
    and results.get('schema') == _SCHEMA,
    f'{path} is not of task {" or ".join(valid)}, schema {_SCHEMA}; run again',
  )
  fields = {**_HEADER, **dict.fromkeys(sections, list), **required}
  for name, kind in fields.items():
    errors.check(
      isinstance(results.get(name), kind),
      f"{path}: '{name}' is missing or is not a {kind.__name__}; run again",
    )
  for section, fields_of_row in sections.items():
    check_rows(path, section, results[section], fields_of_row)
  return results


def draw_figures(
  figures: Iterable[ReportFigure], advance: Callable[[], None]
) -> list[tuple[ReportFigure, bytes | None]]:
  """Draws figures to PNGs; a figure that gives a reason is left out.

  Args:
    figures: the figures; an iterator draws each when it is asked for.
    advance: called after each.
  """
  # One after the other: drawn figures take much memory.
  pairs: list[tuple[ReportFigure, bytes | None]] = []
  for figure in figures:
    if figure.figure is not None:
      pairs.append((figure, style.png(figure.figure)))
    elif figure.reason:
      pairs.append((figure, None))
    advance()
  return pairs


def find_caption(captions: Mapping[str, str], name: str) -> str | None:
  """Finds the caption of a figure by name or pattern; None without one."""
  matches = (key for key in captions if fnmatch.fnmatchcase(name, key))
  return next((captions[key] for key in matches), None)


def write_figures(
  folder: pathlib.Path,
  figures: list[tuple[ReportFigure, bytes | None]],
  captions: Mapping[str, str],
) -> None:
  """Writes PNGs, and removes outdated ones of an earlier report.

  Args:
    folder: of the PNGs.
    figures: figures and their PNGs.
    captions: of all figures that an earlier report may have left.
  """
  images = {figure.name: png for figure, png in figures if png is not None}
  for path in folder.glob('*.png'):
    # Only known names: the user may keep other files in the folder.
    if path.stem not in images and find_caption(captions, path.stem):
      path.unlink()
  for name, png in images.items():
    files.write(folder / f'{name}.png', operator.methodcaller('write', png))


def _figure_html(
  report: Report, figure: ReportFigure, png: bytes | None
) -> str:
  if png is None or figure.figure is None:
    name = page.escape(figure.name.replace('_', ' '))
    reason = page.escape(figure.reason)
    return f'<p class="soft">The figure "{name}" was left out: {reason}.</p>'
  # The heading of a figure describes it to readers who cannot see it.
  title = ' '.join(figure.figure.get_suptitle().split()) or figure.name
  caption = find_caption(report.captions, figure.name)
  assert caption is not None, f'figure {figure.name} has no caption'
  return page.picture(png, title, caption)


def render(
  report: Report,
  results: Results,
  figures: list[tuple[ReportFigure, bytes | None]],
) -> str:
  """Renders the page as self-contained HTML.

  Args:
    report: of the study.
    results: checked contents of results.json.
    figures: figures and their PNGs.
  """
  verdict = report.verdict(results)
  sections = {
    'Tables': ''.join(map(text_tables.html, report.tables(results).values())),
    'Figures': '\n'.join(_figure_html(report, *pair) for pair in figures),
    **report.sections(results),
    **page.remark_section(results),
    'How to read this': page.definition_list(report.glossary),
    'How to get the same numbers': page.reproduction_section(
      results['provenance'],
      results['config'],
      list(results['config']['seeds']),
    ),
  }
  if report.arrange is not None:
    sections = report.arrange(results, sections)
  return page.fill_page(
    name=page.escape(results['name']),
    label=page.escape(verdict.label),
    banner=page.banner(results['smoke']),
    tone='flat' if results['smoke'] else verdict.tone,
    heading=page.escape(verdict.label),
    sentences=page.paragraphs(verdict.sentences),
    sections=sections,
  )


def show(report: Report, workdir: os.PathLike | str) -> pathlib.Path:
  """Writes tables/, figures/ and report.html into a work folder.

  Args:
    report: of the study of the run.
    workdir: its work folder, with results.json.

  Returns:
    The path of report.html.

  Raises:
    UserError: results.json is missing, broken or of another task, or the folder
      is not writable.
  """
  folder = pathlib.Path(workdir)
  results = report.read(folder)
  # Tables first: they need no drawing, and stay if a figure fails.
  texts = (
    report.table_files(results)
    if report.table_files
    else text_tables.markdown_files(report.tables(results), results['smoke'])
  )
  for name, text in texts.items():
    files.write_text(folder / 'tables' / name, text)
  list_names = report.figure_names or (lambda results: report.captions)
  total, label = len(list_names(results)), report.verdict(results).label
  with progress.bar('drawing the report', total, 'figures') as advance:
    figures = draw_figures(report.figures(results, label), advance)
  write_figures(folder / 'figures', figures, report.captions)
  html = folder / 'report.html'
  files.write_text(html, render(report, results, figures))
  if report.console is not None:
    report.console(results)
  return html
