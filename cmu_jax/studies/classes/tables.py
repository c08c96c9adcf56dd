"""What a run measured, as tables in the layout of the thesis's Table 5.1."""

from collections.abc import Sequence

from cmu_jax.report import stats, text_tables
from cmu_jax.report.frame import Results
from cmu_jax.report.text_tables import TextTable
from cmu_jax.studies.classes import load
from cmu_jax.studies.classes.load import Row

# Column -> heading; in points.
_MAIN = {
  'retain_accuracy': 'ACC_r',
  'forget_accuracy': 'ACC_f',
  'mis': 'MIS',
}
_MORE = {
  'train_retain_accuracy': 'ACC_r, trained on',
  'train_forget_accuracy': 'ACC_f, trained on',
  'forget_probability': 'probability of the class',
  'mia_nn_accuracy': 'MIA-NN accuracy',
  'loss_auc': 'loss AUC',
  'entropy_auc': 'entropy AUC',
}
COLUMNS = (
  'ACC_r and ACC_f are accuracies on unseen images of the retained classes and '
  'of the forgotten one, in percent. MIS is the share of forgotten images that '
  'a support vector machine on the confidence holds for unseen, in percent. '
  'U-LiRA is the AUC with which forgotten images tell unlearned from '
  'retrained networks, times 100: by the confidence in the class itself, and '
  'in its nearest class.'
)
AUDITS = (
  'The MIA-NN gap is the difference to retrained networks of the accuracy, in '
  'points, with which images of the forgotten class are told from those of its '
  'nearest class by the retained logits. TV is the total variation, times 100, '
  'between the mean answer to unseen images of the class and that of retrained '
  'networks. The row retrain has each retrained network beside the others: '
  'that is the noise floor, and "x floor" is a multiple of it.'
)


def _spread(rows: Sequence[Row], column: str) -> str:
  """'95.45 ± 0.19' in points, over classes and seeds; a dash for nothing."""
  values = [100 * row[column] for row in rows if row.get(column) is not None]
  spread = stats.spread(values)
  if spread is None:
    return text_tables.DASH
  std = '' if spread.std is None else f' ± {spread.std:.2f}'
  return f'{spread.mean:.2f}{std}'


def times(found: Results, method: str, column: str) -> float | None:
  """A method's mean gap over that of retrained networks, class by class."""
  own = load.mean(load.rows(found, method), column)
  floor = load.mean(load.rows(found, 'retrain'), column)
  return own / floor if own is not None and floor else None


def _times(found: Results, method: str, column: str) -> str:
  value = times(found, method, column)
  return text_tables.DASH if value is None else f'{value:.1f}'


def ulira(found: Results, method: str, statistic: str) -> list[Row]:
  """Rows of U-LiRA, one a class."""
  return [
    row
    for row in found['ulira']
    if (row['method'], row['statistic']) == (method, statistic)
  ]


def over(found: Results) -> str:
  """What the numbers are means over."""
  config = found['config']
  classes, seeds = len(config['forget_classes']), len(config['seeds'])
  most = max((len(load.rows(found, m)) for m in found['methods']), default=0)
  asked = classes * max(seeds, config['retrained'])
  missing = '' if most >= asked else '; some are missing'
  return (
    f'Mean ± sample standard deviation over {classes} classes, each forgotten '
    f'by itself, of {seeds} networks; retrain: {config["retrained"]} networks '
    f'without each class{missing}.' + _networks(found)
  )


def _networks(found: Results) -> str:
  """What U-LiRA rests on."""
  rows = [row for row in found['ulira'] if row['method'] != 'retrain']
  if not rows:
    return ''
  few, known = min(r['unlearned'] for r in rows), rows[0]['retrained']
  kind = 'shadow models' if found['config'].get('shadows') else "the run's own"
  return (
    f' U-LiRA: {few} networks that forgot a class and {known} that never saw '
    f'it, {kind}, each held out in turn.'
  )


def main(found: Results) -> TextTable:
  """The thesis's Table 5.1, with noise floors."""
  head = ['method', *_MAIN.values(), 'U-LiRA', 'U-LiRA, nearest']
  head += ['MIA-NN gap', 'x floor', 'TV', 'x floor', 'seconds', 'sees']
  lines = []
  for method in found['methods']:
    rows = load.rows(found, method)
    seconds = stats.spread([row['seconds'] for row in rows])
    lines.append(
      (
        method,
        *(_spread(rows, name) for name in _MAIN),
        *(_spread(ulira(found, method, s), 'ulira_auc') for s in _STATISTICS),
        _spread(rows, 'mia_nn_gap'),
        _times(found, method, 'mia_nn_gap'),
        _spread(rows, 'tv'),
        _times(found, method, 'tv'),
        text_tables.time_text(seconds.mean if seconds else None, False),
        rows[0]['information'] if rows else '',
      )
    )
  notes = (over(found), COLUMNS, AUDITS)
  title = 'Forgetting a class'
  return TextTable(title, notes, tuple(head), tuple(lines), prose_columns=1)


_STATISTICS = ('own', 'nearest')


def more(found: Results) -> TextTable:
  """What else was measured."""
  lines = [
    (method, *(_spread(load.rows(found, method), name) for name in _MORE))
    for method in found['methods']
  ]
  note = (
    'In points. Loss and entropy AUC tell forgotten images that were trained '
    'on from unseen ones of the same class; 50 is chance, and near is what '
    'retraining has.'
  )
  head = ('method', *_MORE.values())
  return TextTable('More of the same networks', (note,), head, tuple(lines))


def classes(found: Results) -> TextTable:
  """Total variation by class."""
  names, numbers = found['class_names'], found['config']['forget_classes']
  nearest = {
    row['forget_class']: names[row['nearest_class']]
    for row in load.rows(found, 'retrain')
  }
  lines = []
  for method in found['methods']:
    held = load.by_class(load.rows(found, method), 'tv')
    cells = [
      f'{100 * held[c]:.1f}' if c in held else text_tables.DASH for c in numbers
    ]
    lines.append((method, *cells))
  head = tuple(f'{names[c]} → {nearest.get(c, "?")}' for c in numbers)
  note = (
    'TV times 100, mean over networks, by forgotten class → the class that '
    'retrained networks most often take it for.'
  )
  return TextTable('Class by class', (note,), ('method', *head), tuple(lines))


def noise(found: Results) -> TextTable:
  """TRW with noise in its similarities."""
  lines = [
    (
      f'{beta:g}',
      f'{level:g}',
      *(
        _spread(rows, name) for name in ('retain_accuracy', 'mia_nn_gap', 'tv')
      ),
    )
    for (beta, level), rows in load.noisy(found).items()
  ]
  note = (
    'A Gaussian is drawn once for each class and added to its cosine with the '
    'forgotten one, which lies between -1 and 1. The other hyperparameters '
    'stay as they were chosen, and beta too, or it is that of the paper.'
  )
  head = ('beta', 'standard deviation', 'ACC_r', 'MIA-NN gap', 'TV')
  return TextTable('TRW with noisy similarities', (note,), head, tuple(lines))


def tilt(found: Results) -> TextTable | None:
  """TRW by beta, on tuning classes, at the best learning rate of each."""
  tried: dict[float, dict[float, list[Row]]] = {}
  for row in found['tuning']:
    if row['method'] == 'trw' and not row['diverged']:
      by_rate = tried.setdefault(row['hyper']['beta'], {})
      by_rate.setdefault(row['hyper']['learning_rate'], []).append(row)
  lines = []
  for beta, by_rate in sorted(tried.items()):
    rows = min(by_rate.values(), key=lambda some: load.mean(some, 'tv') or 0)
    shown = ('retain_accuracy', 'mia_nn_gap', 'tv')
    lines.append((f'{beta:g}', *(_spread(rows, name) for name in shown)))
  if len(lines) < 2:
    return None
  note = (
    'On validation images of the classes that hyperparameters are chosen on, '
    'at the learning rate with the least TV.'
  )
  head = ('beta', 'ACC_r', 'MIA-NN gap', 'TV')
  return TextTable('Strength of the tilt', (note,), head, tuple(lines))


def choices(found: Results) -> TextTable:
  """What each method does, and what was chosen for it."""
  lines = []
  for method, facts in found['methods'].items():
    chosen = ' '.join(
      f'{k}={v:g}' for k, v in facts['hyper'].items() if k != 'noise'
    )
    tried = [row for row in found['tuning'] if row['method'] == method]
    points = {tuple(row['hyper'].items()) for row in tried}
    gone = load.diverged(found, method)
    line = method, str(len(points) or 1), str(gone), chosen or text_tables.DASH
    lines.append((*line, facts['says']))
  note = (
    'Chosen by the least mean of |ΔACC_r|, |ΔACC_f| and TV to retrained '
    'networks, on validation images and on other classes than those that are '
    'reported; neither MIA-NN nor U-LiRA has a part in it.'
  )
  head = ('method', 'tried', 'diverged', 'chosen', 'does')
  return TextTable('What was run', (note,), head, tuple(lines), prose_columns=2)


def contents(found: Results) -> dict[str, TextTable]:
  """All tables: name of the file, without its ending -> its table."""
  made = {'classes_forgotten': main(found), 'by_class': classes(found)}
  if found['noise']:
    made['noise'] = noise(found)
  tilted = tilt(found)
  if tilted is not None:
    made['tilt'] = tilted
  return {**made, 'more': more(found), 'choices': choices(found)}
