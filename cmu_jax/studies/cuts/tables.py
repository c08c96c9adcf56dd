"""Every method side by side: Markdown files and one terminal table."""

import io
from typing import Any, NamedTuple

import numpy as np
import rich.console
import rich.markup
import rich.table

from cmu_jax.methods import study_names
from cmu_jax.report import stats, text_tables
from cmu_jax.report.frame import Results
from cmu_jax.report.stats import Spread
from cmu_jax.report.text_tables import DASH, TextTable
from cmu_jax.studies.cuts import seed_stats


class Row(NamedTuple):
  """Results of a method over all seeds."""

  method: str
  label: str
  note: str  # a warning such as 'diagnostic: uses test labels', or ''
  information: str
  seeds: int
  alpha: str  # the alpha it used, a range over seeds, or ''
  metrics: dict[str, Spread]


def _metric_keys(results: Results) -> list[str]:
  """Lists the metrics with a value, the main metrics in front."""
  # A dictionary keeps the order of the columns, unlike a set.
  measured = {
    key: None
    for row in results['rows']
    for key, value in row.items()
    if key.endswith(('_accuracy', '_rate', '_percent')) and value is not None
  }
  main = seed_stats.select_columns(measured, results['task'])
  return main + [key for key in measured if key not in seed_stats.METRICS]


def _alpha(rows: list[dict[str, Any]]) -> str:
  used = [float(row['alpha']) for row in rows if row.get('alpha') is not None]
  idle = sum(row.get('selected') is False for row in rows)
  text = seed_stats.format_alphas(used)
  return f'{text} (abstained {idle}/{len(rows)})' if idle else text


def summarize_methods(results: Results) -> list[Row]:
  """Creates a row for each method, from doing nothing to the oracle."""
  keys = _metric_keys(results)
  table = []
  for method in study_names.sort_names(
    study_names.CUTS, [row['method'] for row in results['rows']]
  ):
    rows = [row for row in results['rows'] if row['method'] == method]
    spreads = {
      key: stats.spread(list(seed_stats.by_seed(results, method, key).values()))
      for key in keys
    }
    texts = study_names.present(method, results['task'])
    information = dict.fromkeys(
      str(row.get('information') or '') for row in rows
    )
    table.append(
      Row(
        method=method,
        label=texts.label,
        note=texts.note,
        information=' / '.join(text for text in information if text),
        seeds=len({row['seed'] for row in rows}),
        alpha=_alpha(rows),
        metrics={key: value for key, value in spreads.items() if value},
      )
    )
  return table


def format_cell(key: str, value: Spread | None) -> str:
  """Formats a spread as '0.812 ± 0.004', or as a dash."""
  # A percentage with one decimal is as fine as a rate with three.
  digits = 1 if key.endswith('_percent') else 3
  return text_tables.spread_text(value, digits)


def describe_seeds(results: Results) -> str:
  """Explains the numbers of every table."""
  seeds = len({row['seed'] for row in results['rows']})
  if seeds == 1:
    return 'One seed: no spread is known. Accuracies and rates from 0 to 1.'
  return (
    f'Mean ± sample standard deviation over {seeds} seeds. '
    'Accuracies and rates from 0 to 1.'
  )


def select_columns(results: Results) -> list[str]:
  """Lists the main metrics that this run measured."""
  return [key for key in _metric_keys(results) if key in seed_stats.METRICS]


def methods_table(results: Results) -> TextTable:
  """Compares the methods in every metric that was measured."""
  keys = _metric_keys(results)
  metrics = (seed_stats.name_metric(key) for key in keys)
  columns = ('method', 'note', 'alpha', 'seeds', *metrics, 'what it could see')
  rows = tuple(
    (
      *(row.label, row.note, row.alpha or DASH, str(row.seeds)),
      *(format_cell(key, row.metrics.get(key)) for key in keys),
      row.information,
    )
    for row in summarize_methods(results)
  )
  return TextTable('Methods', (describe_seeds(results),), columns, rows, 1)


def class_table(results: Results) -> TextTable:
  """Compares accuracies on clean test images by class, mean over seeds."""
  methods = study_names.sort_names(
    study_names.CUTS, [row['method'] for row in results['per_class']]
  )
  labels = [study_names.present(method).label for method in methods]
  seeds = {row['seed'] for row in results['per_class']}
  means = [seed_stats.class_means(results, method, seeds) for method in methods]
  rows = tuple(
    (
      str(name),
      *(DASH if np.isnan(mean[i]) else f'{mean[i]:.3f}' for mean in means),
    )
    for i, name in enumerate(results['class_names'])
  )
  note = (
    'Clean test images, mean over '
    f'{seed_stats.format_count(len(seeds), "seed")}. A dash: no test image of '
    'that class.'
  )
  return TextTable('Accuracy by class', (note,), ('class', *labels), rows)


def _describe_information(row: Row) -> str:
  information = row.information or 'not recorded'
  return f'{information} ({row.note})' if row.note else information


def _terminal_table(results: Results, rows: list[Row]) -> rich.table.Table:
  keys = select_columns(results)
  # The texts are too long for a column of a terminal: letters stand for them.
  texts = dict.fromkeys(map(_describe_information, rows))
  letters = {text: chr(ord('a') + i % 26) for i, text in enumerate(texts)}
  lines = tuple(
    (
      *(row.label, letters[_describe_information(row)], row.alpha or DASH),
      *(format_cell(key, row.metrics.get(key)) for key in keys),
    )
    for row in rows
  )
  head = ('method', '', 'alpha', *map(seed_stats.name_metric, keys))
  table = text_tables.terminal(TextTable('', (), head, lines))
  warning = '   smoke: not evidence' if results['smoke'] else ''
  legend = [describe_seeds(results), 'What each method could see:']
  legend += [f'{letter}  {text}' for text, letter in letters.items()]
  # Names may contain brackets, which rich would read as markup.
  table.title = rich.markup.escape(results['name'] + warning)
  table.caption = rich.markup.escape('\n'.join(legend))
  table.title_justify = table.caption_justify = 'left'
  for line, row in zip(table.rows, rows, strict=True):
    line.style = 'bold' if row.method == 'cuts' else None
  return table


def console(
  results: Results, file: io.StringIO | io.TextIOWrapper | None = None
) -> None:
  """Prints the table of methods, 80 to 100 columns wide, also into a pipe."""
  # Outside a terminal the width is fixed, so that logs do not vary.
  probe = rich.console.Console(file=file)
  width = min(max(probe.width, 80), 100) if probe.is_terminal else 100
  rich.console.Console(file=file, width=width, highlight=False).print(
    _terminal_table(results, summarize_methods(results))
  )
