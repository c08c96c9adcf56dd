"""What the reports of all runs on cells share: their page and their files."""

import operator
import os
import pathlib
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from cmu_jax.core import files, progress
from cmu_jax.report import grids, page, style, template
from cmu_jax.report.grids import Grid
from cmu_jax.report.rows import Results
from cmu_jax.studies.cuts.figures import Drawn

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
  tables: Callable[[Results], dict[str, Grid]]
  figures: Callable[[Results, str], Iterable[Drawn]]
  captions: dict[str, str]
  sections: Callable[[Results], dict[str, str]]
  glossary: dict[str, str]


def drawings(
  drawn: Iterable[Drawn], advance: Callable[[], None]
) -> list[tuple[Drawn, bytes]]:
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
  drawn: list[tuple[Drawn, bytes]],
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
  report: Report, found: Results, drawn: list[tuple[Drawn, bytes]]
) -> str:
  """The whole page as HTML that needs nothing else.

  Args:
    report: of this kind of run.
    found: checked contents of results.json.
    drawn: figures and their PNGs.
  """
  said = report.verdict(found)
  return template.fill(
    name=page.escape(found['name']),
    label=page.escape(said.label),
    banner=page.banner(found['smoke']),
    tone='flat' if found['smoke'] else said.tone,
    heading=page.escape(said.label),
    sentences=page.paragraphs(said.sentences),
    sections={
      'Tables': ''.join(map(grids.html, report.tables(found).values())),
      'Figures': '\n'.join(
        page.picture(png, one.name, report.captions[one.name])
        for one, png in drawn
      ),
      **report.sections(found),
      'How to read this': page.terms(report.glossary),
      'How to get the same numbers': page.reproduce(
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
  tables = grids.files(report.tables(found), found['smoke'])
  for name, text in tables.items():
    files.write_text(folder / 'tables' / name, text)
  total, label = len(report.captions), report.verdict(found).label
  with progress.bar('drawing the report', total, 'figures') as advance:
    drawn = drawings(report.figures(found, label), advance)
  write_figures(folder / 'figures', drawn, report.captions)
  html = folder / 'report.html'
  files.write_text(html, render(report, found, drawn))
  return html
