"""The report of the CUTS study: its verdict, the evidence, how to repeat it."""

import os
import pathlib
import zipfile
from collections.abc import Iterator

import numpy as np

from cmu_jax.core import errors
from cmu_jax.report import frame, page, text_tables
from cmu_jax.report.frame import UNFINISHED, Results, Verdict
from cmu_jax.report.style import ReportFigure
from cmu_jax.report.text_tables import TextTable
from cmu_jax.studies.cuts import (
  curves,
  maps,
  seed_stats,
  tables,
  verdict,
  words,
)
from cmu_jax.studies.cuts.seed_stats import Arrays

# Verdicts that are missing here are neither good nor bad news.
_TONES = {'repaired': 'good', 'partly repaired': 'good', 'made worse': 'bad'}
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
CAPTIONS = {
  'methods': (
    'Every method on clean test images (and on triggered ones, if there was a '
    'trigger). Each dot is a seed, each bar the mean over seeds. A useful '
    'method moves away from "do nothing" towards the oracle.'
  ),
  'alpha_curve': (
    'How far to step. Above: what CUTS looks at while it chooses alpha, '
    'without any correct label. Below: what each alpha would do to test '
    'images, measured afterwards. Thin lines are seeds, bold lines their '
    'mean; dashed uprights mark the alpha that CUTS chose. A gap in the score '
    'means that the model predicted fewer than two classes.'
  ),
  'confusions': (
    'Out of 100 test images of a true class (row), how many are given each '
    'predicted class (column), pooled over seeds. A perfect model has 100 on '
    'the diagonal and nothing elsewhere. Both panels share one colour scale.'
  ),
  'feature_path': (
    'The features that the network computes before its last layer, flattened '
    'to the two directions in which they vary most, for the first seed. Each '
    'line follows the centre of one true class as alpha grows. Classes that '
    'move apart become easier to tell from one another.'
  ),
}
# Errors of numpy.load; a lone .npy array is no archive to open: TypeError.
_BROKEN = (EOFError, OSError, TypeError, ValueError, zipfile.BadZipFile)
# Arrays that figures need.
_ARRAYS = {
  'confusions': ('confusion_corrupted', 'confusion_cuts'),
  'feature_path': ('feature_path', 'feature_path_alpha', 'feature_path_label'),
}
_SECTIONS = {
  'rows': ('method', 'seed'),
  'per_class': ('method', 'seed', 'accuracy'),
  'curves': ('seed',),
}


def read(workdir: os.PathLike | str) -> Results:
  """Reads results.json, and as `arrays` what lies in arrays.npz.

  Raises:
    UserError: a file is missing, broken or of another study.
  """
  tasks = 'label_noise', 'poison'
  required = {'class_names': list}
  results = frame.read_results(workdir, tasks, required, _SECTIONS)
  folder, rows = pathlib.Path(workdir), results['rows']
  # A run that was stopped early has no rows at all.
  for method in ('corrupted', 'cuts') if rows or results['finished'] else ():
    errors.check(
      any(row['method'] == method for row in rows),
      f"{folder / 'results.json'}: rows hold no method '{method}', so there is "
      'nothing to compare; let the run finish',
    )
  return {**results, 'arrays': read_arrays(folder, len(results['class_names']))}


def read_arrays(workdir: pathlib.Path, classes: int) -> Arrays:
  """Reads the arrays of arrays.npz; none where the run wrote no such file.

  Raises:
    UserError: the file is not an npz archive of plain arrays, or the arrays
      do not fit together.
  """
  path = workdir / 'arrays.npz'
  # An unfinished run has no arrays, but its table is still of use.
  if not path.is_file():
    return {}
  try:
    # Pickled arrays could run code, so they are refused.
    with path.open('rb') as file, np.load(file, allow_pickle=False) as archive:
      arrays = {name: archive[name] for name in archive.files}
  except _BROKEN as error:
    raise errors.UserError(
      f'{path} is not an archive of plain arrays; run again to rewrite it'
    ) from error
  shape = {name: array.shape for name, array in arrays.items()}
  expected = {
    name: (*shape[name][:1], classes, classes)
    for name in _ARRAYS['confusions']
    if name in shape
  }
  # The figure indexes the three arrays together, so their shapes must agree.
  if 'feature_path' in shape:
    points = shape.get('feature_path_alpha', (0,))
    images = shape.get('feature_path_label', (0,))
    expected['feature_path'] = (*points, *images, 2)
  for name, expectation in expected.items():
    errors.check(
      shape[name] == expectation,
      f'{path}: {name} has shape {shape[name]}, expected {expectation}; run '
      'again to rewrite it',
    )
  return arrays


def _verdict(results: Results) -> Verdict:
  if not results['rows']:
    return Verdict('No seed is done yet', 'flat', (UNFINISHED,))
  finding = verdict.decide(results)
  seeds = {row['seed'] for row in results['rows']}
  # A missing seed may still change the verdict.
  absent = set(results['config']['seeds']) - seeds
  sentences = (*finding.sentences, *([UNFINISHED] if absent else []))
  tone = _TONES.get(finding.label, 'flat')
  return Verdict(finding.label.capitalize(), tone, sentences)


def _tables(results: Results) -> dict[str, TextTable]:
  return {
    'results': tables.methods_table(results),
    'per_class': tables.class_table(results),
  }


def _explain_absence(name: str, results: Results, arrays: Arrays) -> str:
  """Names the data that the run lacks for a figure; '' if it has all."""
  needed = _ARRAYS.get(name, ())
  if absent := [key for key in needed if key not in arrays]:
    return f'the run recorded no {", ".join(absent)} in arrays.npz'
  # An empty array would fail while it is drawn, with an obscure message.
  if needed and 0 in (size := arrays[needed[0]].shape):
    return f'{needed[0]} is empty: its shape is {size}'
  if name == 'alpha_curve' and not results['curves']:
    return 'the run recorded no curves over alpha in results.json'
  return ''


def draw_figures(results: Results, label: str) -> Iterator[ReportFigure]:
  """Draws the figures one by one; a figure without its data has a reason."""
  # All studies share this signature; these figures do not need the label.
  del label
  # The lambdas delay the drawing until the data are known to be there.
  arrays = results['arrays']
  makers = {
    'methods': lambda: curves.draw_methods(results),
    'alpha_curve': lambda: curves.draw_alpha_curve(results),
    'confusions': lambda: maps.draw_confusions(results, arrays),
    'feature_path': lambda: maps.draw_feature_path(results, arrays),
  }
  for name, make in makers.items() if results['rows'] else ():
    reason = _explain_absence(name, results, arrays)
    yield ReportFigure(name, None if reason else make(), reason)


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
  finding = verdict.decide(results)
  audited = words.describe_audit(results)
  return {
    page.harm_heading(finding.harmed): page.harm_table(finding.harmed),
    'All methods': text_tables.html(tables.methods_table(results)),
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
  read=read,
  verdict=_verdict,
  tables=_tables,
  figures=draw_figures,
  captions=CAPTIONS,
  sections=lambda results: {},
  glossary=words.GLOSSARY,
  arrange=_arrange,
  console=tables.console,
)
