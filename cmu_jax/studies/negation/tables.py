"""The table of a run on negation, off results.json alone."""

import numpy as np

from cmu_jax.report.frame import Results
from cmu_jax.report.text_tables import TextTable

NAMES = {
  'task_vector': 'a task vector',
  'uniform': 'their mean',
  'negmerge': 'NegMerge',
}
_HEAD = (
  'forget set',
  'vector',
  'strength',
  'fine-tuned',
  'before',
  'forget accuracy',
  'control before',
  'control accuracy',
)
_NOTE = (
  'Test accuracies; a task vector is the mean over seeds. The strength is the '
  'one of lowest accuracy on validation images of the forget set among those '
  'that keep the share config.floor of the control accuracy; 0 where none does.'
)


def means(results: Results) -> list[tuple[str, str, dict[str, float]]]:
  """Forget set, method and the mean of every number, over seeds."""
  groups: dict[tuple[str, str], list] = {}
  for row in results['rows']:
    groups.setdefault((row['forget_set'], row['method']), []).append(row)
  keys = (
    'strength',
    'tuned_accuracy',
    'forget_accuracy_before',
    'forget_accuracy',
    'control_accuracy_before',
    'control_accuracy',
  )
  return [
    (*names, {key: float(np.mean([r[key] for r in rows])) for key in keys})
    for names, rows in groups.items()
  ]


def lines(results: Results) -> list[tuple[str, ...]]:
  """A row for each forget set and method, then the averages over sets."""
  found, rows = means(results), []
  for name, method, values in found:
    cells = (f'{value:.3f}' for value in values.values())
    rows.append((name, NAMES[method], *cells))
  for method in dict.fromkeys(method for _, method, _ in found):
    of_it = [values for _, other, values in found if other == method]
    if len(of_it) > 1:
      cells = (f'{np.mean([v[k] for v in of_it]):.3f}' for k in of_it[0])
      rows.append((f'mean of {len(of_it)}', NAMES[method], *cells))
  return rows


def contents(results: Results) -> dict[str, TextTable]:
  """All tables: name of the file, without its ending -> its table."""
  rows = tuple(lines(results))
  return {'summary': TextTable('Before and after', (_NOTE,), _HEAD, rows)}
