"""The tables of an audit, as texts."""

from typing import Any

from cmu_jax.report import stats, text_tables
from cmu_jax.report.frame import Results
from cmu_jax.report.text_tables import TextTable

Row = dict[str, Any]

_NUMBERS = {
  'auroc': 'AUC',
  'balanced_accuracy': 'balanced accuracy',
  'tpr_1_percent': 'TPR at 1 % FPR',
  'tpr_01_percent': 'TPR at 0.1 % FPR',
}
_ACCURACIES = {
  'forget_accuracy': 'UA',
  'retain_accuracy': 'RA',
  'test_accuracy': 'TA',
}


def name_attack(row: Row) -> str:
  """Names an attack; 'adaptive' where its references were unlearned too."""
  # U-LiRA always compares with networks that forgot.
  adaptive = row['adaptive'] and row['attack'] != 'U-LiRA'
  return f'{row["attack"]}, adaptive' if adaptive else row['attack']


def describe_clusters(results: Results) -> str:
  """Describes what the bootstrap draws as a whole."""
  ways = results['config']['evaluate'].get('clusters') or ()
  if not ways:
    return 'each score taken for independent of the others'
  return f'whole {" and ".join(ways)} drawn'


def _estimate_text(value: dict[str, float] | None) -> str:
  if value is None:
    return 'too few points'
  low, high = 100 * value['low'], 100 * value['high']
  return f'{100 * value["value"]:.2f} [{low:.2f}, {high:.2f}]'


def _mean_text(values: list[float]) -> str:
  return text_tables.spread_text(stats.spread([100 * x for x in values]))


def attack_table(results: Results, points: str) -> TextTable:
  """Builds the table of all attacks on forgotten or on retained points."""
  rows = [row for row in results['rows'] if row['points'] == points]
  confidence = results['config']['evaluate']['confidence']
  comparison = {
    'forget': 'D_F against points that the network never saw: 50 is perfect',
    'retain': 'D_R against points that the network never saw: members',
  }[points]
  counts = rows[0] if rows else {'positives': 0, 'negatives': 0}
  note = (
    f'In points. {comparison}. {counts["positives"]} and {counts["negatives"]} '
    f'scores, pooled; in brackets {confidence:.0%} intervals, '
    f'{describe_clusters(results)}. By network: mean and standard deviation of '
    'the AUC.'
  )
  texts = [
    (
      row['method'],
      name_attack(row),
      *(_estimate_text(row[name]) for name in _NUMBERS),
      _mean_text(row['by_network']),
    )
    for row in rows
  ]
  head = ('method', 'attack', *_NUMBERS.values(), 'AUC by network')
  title = 'Forgotten or unseen' if points == 'forget' else 'Retained or unseen'
  return TextTable(title, (note,), head, tuple(texts))


def interval_table(results: Results) -> TextTable | None:
  """Builds the table of intervals of the AUC, one for each way to draw."""
  rows = [row for row in results['rows'] if row.get('intervals')]
  if not rows:
    return None
  ways = tuple(rows[0]['intervals'])
  confidence = results['config']['evaluate']['confidence']
  note = (
    f'AUC of D_F, {confidence:.0%} intervals by what the bootstrap draws. '
    'Scores of a network share its training, scores '
    'of a point its references: drawn one by one they make intervals too '
    'narrow. The tables above and the verdict have '
    f'{describe_clusters(results)}; few networks make an interval over '
    'networks alone somewhat narrow.'
  )
  texts = [
    (
      row['method'],
      name_attack(row),
      f'{100 * row["auroc"]["value"]:.2f}',
      *(f'[{100 * low:.2f}, {100 * high:.2f}]' for low, high in sides),
    )
    for row in rows
    if (sides := row['intervals'].values())
  ]
  head = ('method', 'attack', 'AUC', *(f'over {name}' for name in ways))
  return TextTable('What the intervals rest on', (note,), head, tuple(texts))


def accuracy_table(results: Results) -> TextTable:
  """Builds the table of accuracies by method."""
  rows = {row['method']: row for row in results['rows']}
  texts = [
    (method, *(_mean_text(row[name]) for name in _ACCURACIES), says)
    for method, says in results['methods'].items()
    if (row := rows.get(method)) is not None
  ]
  note = (
    'Mean and standard deviation over networks, in points. UA is the accuracy '
    'on D_F itself, RA on D_R, TA on points never seen.'
  )
  head = ('method', *_ACCURACIES.values(), 'does')
  return TextTable('Accuracy', (note,), head, tuple(texts), prose_columns=1)


def build_tables(results: Results) -> dict[str, TextTable]:
  """Builds all tables: name of the file, without its ending -> its table."""
  tables = {'forgotten': attack_table(results, 'forget')}
  if any(row['points'] == 'retain' for row in results['rows']):
    tables['retained'] = attack_table(results, 'retain')
  tables['accuracy'] = accuracy_table(results)
  intervals = interval_table(results)
  return tables if intervals is None else {**tables, 'intervals': intervals}
