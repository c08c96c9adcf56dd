"""The tables of an audit, as texts."""

from typing import Any

from cmu_jax.report import stats, text_tables
from cmu_jax.report.text_tables import TextTable

Results = dict[str, Any]
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


def attack(row: Row) -> str:
  """An attack's name; RMIA and LiRA say if their references were unlearned."""
  known = row['adaptive'] and row['attack'] != 'U-LiRA'
  return f'{row["attack"]}, adaptive' if known else row['attack']


def drawn(found: Results) -> str:
  """What the bootstrap draws as a whole, in words."""
  ways = found['config']['evaluate'].get('clusters') or ()
  if not ways:
    return 'each score taken for independent of the others'
  return f'whole {" and ".join(ways)} drawn'


def _estimate(value: dict[str, float] | None) -> str:
  if value is None:
    return 'too few points'
  low, high = 100 * value['low'], 100 * value['high']
  return f'{100 * value["value"]:.2f} [{low:.2f}, {high:.2f}]'


def _mean(values: list[float]) -> str:
  found = stats.spread(values)
  if found is None:
    return text_tables.DASH
  if len(values) < 2:
    return f'{100 * found.mean:.2f}'
  return f'{100 * found.mean:.2f} ± {100 * (found.std or 0):.2f}'


def _attacks(found: Results, points: str) -> TextTable:
  rows = [row for row in found['rows'] if row['points'] == points]
  confidence = found['config']['evaluate']['confidence']
  seen = {
    'forget': 'D_F against points that the network never saw: 50 is perfect',
    'retain': 'D_R against points that the network never saw: members',
  }[points]
  counts = rows[0] if rows else {'positives': 0, 'negatives': 0}
  note = (
    f'In points. {seen}. {counts["positives"]} and {counts["negatives"]} '
    f'scores, pooled; in brackets {confidence:.0%} intervals, '
    f'{drawn(found)}. By network: mean and standard deviation of the AUC.'
  )
  texts = [
    (
      row['method'],
      attack(row),
      *(_estimate(row[name]) for name in _NUMBERS),
      _mean(row['by_network']),
    )
    for row in rows
  ]
  head = ('method', 'attack', *_NUMBERS.values(), 'AUC by network')
  title = 'Forgotten or unseen' if points == 'forget' else 'Retained or unseen'
  return TextTable(title, (note,), head, tuple(texts))


def _intervals(found: Results) -> TextTable | None:
  """The AUC of forgotten points with an interval for each way to draw."""
  rows = [row for row in found['rows'] if row.get('intervals')]
  if not rows:
    return None
  ways = tuple(rows[0]['intervals'])
  note = (
    f'AUC of D_F, {found["config"]["evaluate"]["confidence"]:.0%} intervals by '
    'what the bootstrap draws. Scores of a network share its training, scores '
    'of a point its references: drawn one by one they make intervals too '
    f'narrow. The tables above and the verdict have {drawn(found)}; few '
    'networks make an interval over networks alone somewhat narrow.'
  )
  texts = [
    (
      row['method'],
      attack(row),
      f'{100 * row["auroc"]["value"]:.2f}',
      *(f'[{100 * low:.2f}, {100 * high:.2f}]' for low, high in sides),
    )
    for row in rows
    if (sides := row['intervals'].values())
  ]
  head = ('method', 'attack', 'AUC', *(f'over {way}' for way in ways))
  return TextTable('What the intervals rest on', (note,), head, tuple(texts))


def _accuracy(found: Results) -> TextTable:
  rows = {row['method']: row for row in found['rows']}
  texts = [
    (method, *(_mean(row[name]) for name in _ACCURACIES), says)
    for method, says in found['methods'].items()
    if (row := rows.get(method)) is not None
  ]
  note = (
    'Mean and standard deviation over networks, in points. UA is the accuracy '
    'on D_F itself, RA on D_R, TA on points never seen.'
  )
  head = ('method', *_ACCURACIES.values(), 'does')
  return TextTable('Accuracy', (note,), head, tuple(texts), prose_columns=1)


def contents(found: Results) -> dict[str, TextTable]:
  """All tables: name of the file, without its ending -> its table."""
  made = {'forgotten': _attacks(found, 'forget')}
  if any(row['points'] == 'retain' for row in found['rows']):
    made['retained'] = _attacks(found, 'retain')
  made['accuracy'] = _accuracy(found)
  wide = _intervals(found)
  return made if wide is None else {**made, 'intervals': wide}
