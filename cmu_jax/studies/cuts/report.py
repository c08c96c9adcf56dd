"""The report of the CUTS study: its verdict, the evidence, how to repeat it."""

import os
import pathlib
from collections.abc import Iterator

from cmu_jax.report import frame, page
from cmu_jax.report.frame import UNFINISHED, Verdict
from cmu_jax.report.style import ReportFigure
from cmu_jax.report.text_tables import DASH, TextTable
from cmu_jax.studies.cuts import (
  figures,
  load,
  seed_stats,
  tables,
  verdict,
  words,
)
from cmu_jax.studies.cuts.load import Results

# Verdicts that are missing here are neither good nor bad news.
_TONES = {
  'repaired': 'good',
  'partly repaired': 'good',
  'made worse': 'bad',
}
_RULES = {
  'label_noise': (
    'The verdict is "repaired" when on average at least 90 % of the gap to the '
    'oracle is closed and the 95 % interval of the change lies above zero, '
    '"partly repaired" when only the latter holds, and "made worse" when the '
    'interval lies below zero or accuracy fell by more than a point on '
    "average. The interval is Student's t over paired differences of seeds."
  ),
  'poison': (
    'The verdict is "repaired" when the attack success rate on triggered test '
    'images is at most 0.05, test accuracy fell by at most 2 points and no '
    'class by more than 5; "partly repaired" when the rate at least halved '
    'without such harm; and "made worse" with such harm, even if the trigger '
    'no longer works.'
  ),
}


def _read(workdir: os.PathLike | str) -> Results:
  """Reads results.json, and the arrays that are no rows."""
  folder = pathlib.Path(workdir)
  results = load.results(folder)
  return {
    **results,
    'arrays': load.arrays(folder, len(results['class_names'])),
  }


def _verdict(results: Results) -> Verdict:
  if not results['rows']:
    return Verdict('No seed is done yet', 'flat', (UNFINISHED,))
  finding = verdict.verdict(results)
  seeds = {row['seed'] for row in results['rows']}
  # A missing seed may still change the verdict.
  absent = set(results['config']['seeds']) - seeds
  sentences = (*finding.sentences, *([UNFINISHED] if absent else []))
  tone = _TONES.get(finding.label, 'flat')
  return Verdict(finding.label, tone, sentences)


def _tables(results: Results) -> dict[str, TextTable]:
  return {
    'results': tables.methods_table(results),
    'per_class': tables.class_table(results),
  }


def _figures(results: Results, label: str) -> Iterator[ReportFigure]:
  # All studies share this signature; these figures do not need the label.
  del label
  if results['rows']:
    yield from figures.draw(results, results['arrays'])


def _method_row(row: tables.Row, keys: list[str]) -> str:
  note = f'<small>{page.escape(row.note)}</small>' if row.note else ''
  numbers = ''.join(
    f'<td class="number">{tables.cell(key, row.metrics.get(key))}</td>'
    for key in keys
  )
  kind = ' class="own"' if row.method == 'cuts' else ''
  return (
    f'<tr{kind}><td>{page.escape(row.label)}{note}</td>'
    f'<td class="alpha">{page.escape(row.alpha or DASH)}</td>{numbers}'
    f'<td class="seen">{page.escape(row.information)}</td></tr>'
  )


def _methods(results: Results) -> str:
  """Formats the main metrics; the row of CUTS stands out."""
  keys = tables.columns(results)
  head = [('', 'method'), ('', 'alpha')]
  head += [('number', seed_stats.name_metric(key)) for key in keys]
  head += [('', 'what it could see')]
  rows = [_method_row(row, keys) for row in tables.summary(results)]
  caption = f'<p class="soft">{page.escape(tables.caption(results))}</p>'
  return page.table(head, rows) + caption


def _limits(results: Results, sentences: tuple[str, ...]) -> str:
  number = len(seed_stats.by_seed(results, 'cuts', 'test_accuracy'))
  limits = (
    'This is one network on one data set, repeated with '
    f'{seed_stats.format_count(number, "seed")}; another network or another '
    'corruption may behave differently.'
  )
  return page.paragraphs([*sentences, _RULES[results['task']], limits])


def _arrange(results: Results, standard: dict[str, str]) -> dict[str, str]:
  """Puts harm to classes first, because an average hides it."""
  if not results['rows']:
    return standard
  finding = verdict.verdict(results)
  audited = words.describe_audit(results)
  return {
    page.harm_heading(finding.harmed): page.harm_table(finding.harmed),
    'All methods': _methods(results),
    'Figures': standard['Figures'],
    'What was wrong': page.paragraphs(words.describe_corruption(results)),
    'What was done': page.paragraphs(words.describe_repair(results)),
    'How sure this is': _limits(results, finding.sure),
    'Are the wrong labels still in there?': page.paragraphs(audited),
    **page.remark_section(results),
    'How to get the same numbers': standard['How to get the same numbers'],
    'Words used here': standard['How to read this'],
  }


REPORT = frame.Report(
  read=_read,
  verdict=_verdict,
  tables=_tables,
  figures=_figures,
  captions=figures.CAPTIONS,
  sections=lambda results: {},
  glossary=words.GLOSSARY,
  arrange=_arrange,
  console=tables.console,
)
