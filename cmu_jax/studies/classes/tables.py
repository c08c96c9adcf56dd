"""Tables of the study, in the layout of the thesis's Table 5.1."""

from collections.abc import Sequence

import numpy as np

from cmu_jax.report import stats, text_tables
from cmu_jax.report.frame import Results
from cmu_jax.report.text_tables import TextTable
from cmu_jax.studies.engine import gaps
from cmu_jax.studies.engine.gaps import Row

# Column of a row -> its heading; values in points.
_MAIN = {'retain_accuracy': 'ACC_r', 'forget_accuracy': 'ACC_f', 'mis': 'MIS'}
_MORE = {
  'train_retain_accuracy': 'ACC_r, trained on',
  'train_forget_accuracy': 'ACC_f, trained on',
  'forget_probability': 'probability of the class',
  'mia_nn_accuracy': 'MIA-NN accuracy',
  'loss_auc': 'loss AUC',
  'entropy_auc': 'entropy AUC',
}
_TRW = {'retain_accuracy': 'ACC_r', 'mia_nn_gap': 'MIA-NN gap', 'tv': 'TV'}
_COLUMNS = (
  'ACC_r and ACC_f are accuracies on unseen images of the retained classes and '
  'of the forgotten one, in percent. MIS is the share of forgotten images that '
  'a support vector machine on the confidence holds for unseen, in percent. '
  'U-LiRA is the AUC with which forgotten images tell unlearned from '
  'retrained networks, times 100: by the confidence in the class itself, and '
  'in its nearest class.'
)
_AUDITS = (
  'The MIA-NN gap is the difference to retrained networks of the accuracy, in '
  'points, with which images of the forgotten class are told from those of its '
  'nearest class by the retained logits. TV is the total variation, times 100, '
  'between the mean answer to unseen images of the class and that of retrained '
  'networks. The row retrain has each retrained network beside the others: '
  'that is the noise floor, and "x floor" is a multiple of it.'
)


# The attack of U-LiRA, see `measure.statistics`.
_STATISTICS = ('own', 'nearest')


def _all_rows(results: Results, method: str) -> list[Row]:
  return [row for row in results['rows'] if row['method'] == method]


def rows_of(results: Results, method: str) -> list[Row]:
  """Selects the reported rows of a method, except diverged ones."""
  return [row for row in _all_rows(results, method) if not row['diverged']]


def mean_by_class(rows: Sequence[Row], column: str) -> dict[int, float]:
  """Computes class -> mean of a column over the rows that have it."""
  values: dict[int, list[float]] = {}
  for row in rows:
    if row.get(column) is not None:
      values.setdefault(row['forget_class'], []).append(row[column])
  return {number: float(np.mean(x)) for number, x in values.items()}


def difference(
  rows: Sequence[Row], others: Sequence[Row], column: str
) -> stats.Interval | None:
  """Computes the mean of rows minus others, in points, with its interval.

  The rows are paired by class, because classes differ most. The result is None
  below two classes.
  """
  means, base = mean_by_class(rows, column), mean_by_class(others, column)
  classes = sorted(means.keys() & base.keys())
  return stats.interval(np.array([100 * (means[c] - base[c]) for c in classes]))


def mean_points(rows: Sequence[Row], column: str) -> float | None:
  """Computes the mean over classes of a column, in points."""
  means = mean_by_class(rows, column)
  # Classes first, so that a class with more networks counts no more.
  return 100 * float(np.mean(list(means.values()))) if means else None


def group_noise(results: Results) -> dict[tuple[float, float], list[Row]]:
  """Groups the rows of noisy TRW: (beta, noise) -> rows, in rising order."""
  groups: dict[tuple[float, float], list[Row]] = {}
  for row in results['noise']:
    if not row['diverged']:
      key = row['hyper']['beta'], row['hyper']['noise']
      groups.setdefault(key, []).append(row)
  return dict(sorted(groups.items()))


def floor_multiple(results: Results, method: str, column: str) -> float | None:
  """Divides the mean gap of a method by that of retrained networks."""
  # Of the means, because a class whose floor is near 0 would dominate.
  value = mean_points(rows_of(results, method), column)
  floor = mean_points(rows_of(results, 'retrain'), column)
  return value / floor if value is not None and floor else None


def _floor_text(results: Results, method: str, column: str) -> str:
  value = floor_multiple(results, method, column)
  return text_tables.DASH if value is None else f'{value:.1f}'


def _describe_runs(results: Results) -> str:
  """Describes the networks behind each mean."""
  config = results['config']
  classes, seeds = len(config['forget_classes']), len(config['seeds'])
  counts = [len(rows_of(results, method)) for method in results['methods']]
  # The row with most networks is either retraining or a method.
  planned = classes * max(seeds, config['retrained'])
  missing = '' if max(counts, default=0) >= planned else '; some are missing'
  return (
    f'Mean ± sample standard deviation over {classes} classes, each forgotten '
    f'by itself, of {seeds} networks; retrain: {config["retrained"]} networks '
    f'without each class{missing}.' + _describe_ulira(results)
  )


def _describe_ulira(results: Results) -> str:
  """Describes the networks that U-LiRA compares."""
  rows = [row for row in results['ulira'] if row['method'] != 'retrain']
  if not rows:
    return ''
  fewest, retrained = min(r['unlearned'] for r in rows), rows[0]['retrained']
  shadows = results['config'].get('shadows')
  kind = 'shadow models' if shadows else "the run's own"
  return (
    f' U-LiRA: {fewest} networks that forgot a class and {retrained} that '
    f'never saw it, {kind}, each held out in turn.'
  )


def main_table(results: Results) -> TextTable:
  """Builds the thesis's Table 5.1, with noise floors."""
  head = ['method', *_MAIN.values(), 'U-LiRA', 'U-LiRA, nearest']
  head += ['MIA-NN gap', 'x floor', 'TV', 'x floor', 'seconds', 'sees']
  # (method, statistic) -> its rows, one a class.
  ulira: dict[tuple[str, str], list[Row]] = {}
  for row in results['ulira']:
    ulira.setdefault((row['method'], row['statistic']), []).append(row)
  lines = []
  for method in results['methods']:
    rows = rows_of(results, method)
    seconds = stats.spread([row['seconds'] for row in rows])
    lines.append(
      (
        method,
        *(gaps.points_text(rows, name) for name in _MAIN),
        *(
          gaps.points_text(ulira.get((method, s), []), 'ulira_auc')
          for s in _STATISTICS
        ),
        gaps.points_text(rows, 'mia_nn_gap'),
        _floor_text(results, method, 'mia_nn_gap'),
        gaps.points_text(rows, 'tv'),
        _floor_text(results, method, 'tv'),
        text_tables.time_text(seconds.mean if seconds else None, False),
        rows[0]['information'] if rows else '',
      )
    )
  notes = (_describe_runs(results), _COLUMNS, _AUDITS)
  title = 'Forgetting a class'
  return TextTable(title, notes, tuple(head), tuple(lines), prose_columns=1)


def audit_table(results: Results) -> TextTable:
  """Builds the table of the other measurements."""
  note = (
    'In points. Loss and entropy AUC tell forgotten images that were trained '
    'on from unseen ones of the same class; 50 is chance, and near is what '
    'retraining has.'
  )
  rows = {(m,): rows_of(results, m) for m in results['methods']}
  return gaps.points_table('More of the same networks', (note,), _MORE, rows)


def class_table(results: Results) -> TextTable:
  """Builds the table of total variation by class."""
  names, numbers = results['class_names'], results['config']['forget_classes']
  # The same for all retrained networks of a class.
  nearest = {
    row['forget_class']: names[row['nearest_class']]
    for row in rows_of(results, 'retrain')
  }
  lines = []
  for method in results['methods']:
    means = mean_by_class(rows_of(results, method), 'tv')
    cells = [
      f'{100 * means[c]:.1f}' if c in means else text_tables.DASH
      for c in numbers
    ]
    lines.append((method, *cells))
  head = tuple(f'{names[c]} → {nearest.get(c, "?")}' for c in numbers)
  note = (
    'TV times 100, mean over networks, by forgotten class → the class that '
    'retrained networks most often take it for.'
  )
  return TextTable('Class by class', (note,), ('method', *head), tuple(lines))


def noise_table(results: Results) -> TextTable:
  """Builds the table of TRW with noise in its similarities."""
  note = (
    'A Gaussian is drawn once for each class and added to its cosine with the '
    'forgotten one, which lies between -1 and 1. The other hyperparameters '
    'stay as they were chosen, and beta too, or it is that of the paper.'
  )
  rows = {
    (f'{beta:g}', f'{level:g}'): group
    for (beta, level), group in group_noise(results).items()
  }
  title, keys = 'TRW with noisy similarities', ('beta', 'standard deviation')
  return gaps.points_table(title, (note,), _TRW, rows, keys)


def tilt_table(results: Results) -> TextTable | None:
  """Builds the table of TRW by beta, each at its best learning rate."""
  tried: dict[float, dict[float, list[Row]]] = {}
  for row in results['tuning']:
    if row['method'] == 'trw' and not row['diverged']:
      by_rate = tried.setdefault(row['hyper']['beta'], {})
      by_rate.setdefault(row['hyper']['learning_rate'], []).append(row)
  # A single beta is no comparison.
  if len(tried) < 2:
    return None
  rows = {
    (f'{beta:g}',): min(
      by_rate.values(), key=lambda group: mean_points(group, 'tv') or 0
    )
    for beta, by_rate in sorted(tried.items())
  }
  note = (
    'On validation images of the classes that hyperparameters are chosen on, '
    'at the learning rate with the least TV.'
  )
  title = 'Strength of the tilt'
  return gaps.points_table(title, (note,), _TRW, rows, ('beta',))


def choice_table(results: Results) -> TextTable:
  """Builds the table of methods and their hyperparameters."""
  lines = []
  for method, facts in results['methods'].items():
    chosen = ' '.join(
      f'{k}={v:g}' for k, v in facts['hyper'].items() if k != 'noise'
    )
    tried = [row for row in results['tuning'] if row['method'] == method]
    # Each point has a row for every tuning class.
    points = {tuple(row['hyper'].items()) for row in tried}
    diverged = len(_all_rows(results, method)) - len(rows_of(results, method))
    line = (
      method,
      str(len(points) or 1),
      str(diverged),
      chosen or text_tables.DASH,
    )
    lines.append((*line, facts['says']))
  note = (
    'Chosen by the least mean of |ΔACC_r|, |ΔACC_f| and TV to retrained '
    'networks, on validation images and on other classes than those that are '
    'reported; neither MIA-NN nor U-LiRA has a part in it.'
  )
  head = ('method', 'tried', 'diverged', 'chosen', 'does')
  return TextTable('What was run', (note,), head, tuple(lines), prose_columns=2)


def build_tables(results: Results) -> dict[str, TextTable]:
  """Builds all tables: name of the file, without its ending -> its table."""
  tables = {
    'classes_forgotten': main_table(results),
    'by_class': class_table(results),
  }
  # Only with TRW, and config.noises.
  if results['noise']:
    tables['noise'] = noise_table(results)
  tilt = tilt_table(results)
  if tilt is not None:
    tables['tilt'] = tilt
  return tables | {
    'more': audit_table(results),
    'choices': choice_table(results),
  }
