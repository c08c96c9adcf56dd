"""Tables of the study, in the layout of AMUN's Tables 1 and 2."""

from cmu_jax.report import stats, text_tables
from cmu_jax.report.frame import Results
from cmu_jax.report.text_tables import TextTable
from cmu_jax.studies.engine import gaps
from cmu_jax.studies.engine.gaps import Row

# Column of a row -> its heading; values in points.
_MAIN = {
  'forget_accuracy': 'UA',
  'retain_accuracy': 'RA',
  'test_accuracy': 'TA',
  'ft_auc': 'FT AUC',
  'ft_auc_rmia': 'FT AUC (RMIA)',
  'ft_auc_rmia_ratio': 'of its ratio',
  'mis': 'MIS',
}
_AUDIT = {
  'ft_auc': 'FT AUC',
  'fr_auc': 'FR AUC',
  'rt_auc': 'RT AUC',
  'ft_tpr_1_percent': 'TPR at 1 % FPR',
  'ft_auc_rmia': 'FT AUC (RMIA)',
  'ft_auc_rmia_ratio': 'of its ratio',
  'fr_auc_rmia': 'FR AUC (RMIA)',
  'rt_auc_rmia': 'RT AUC (RMIA)',
  'rmia_tied': 'tied',
}
ATTACKS = {
  'confidence': 'FT AUC of the confidence',
  'rmia': 'FT AUC of RMIA',
  'rmia_ratio': 'FT AUC of the ratio of RMIA',
  'mis': 'MIS',
}
_INFORMATION = 'what it could see'
_COLUMNS = (
  'UA, RA and TA are accuracies on the forgotten images (the higher, the '
  'nearer to the original), the retained and the test images, in percent. FT '
  'AUC tells forgotten from test images, FR AUC retained from forgotten, RT '
  'AUC retained from test images; MIS is the share of forgotten images that a '
  'support vector machine on the confidence holds for unseen, all times 100. '
  'None of them has an ideal of its own: near is what retraining has.'
)
GAPS = (
  'The gap is the mean absolute difference to Retrain over UA, RA, TA and the '
  'attack, in points: of the means over runs, and the mean of the gaps of '
  'single runs, which is never smaller.'
)


def rows_of(results: Results, method: str) -> list[Row]:
  """Selects the reported rows of a method."""
  return [row for row in results['rows'] if row['method'] == method]


def _information(results: Results, method: str) -> str:
  rows = rows_of(results, method)
  return rows[0]['information'] if rows else ''


def group_methods(results: Results) -> dict[str, list[str]]:
  """Groups the methods: 'with D_R' and 'without D_R' -> names, in order.

  Doing nothing and retraining are in both groups, because every method is
  compared with them.
  """
  groups: dict[str, list[str]] = {'with D_R': [], 'without D_R': []}
  shared = []
  for method in results['methods']:
    # Read from the rows, because reports do not load the methods.
    information = _information(results, method)
    alone = 'D_F' in information and 'D_R' not in information
    if method in ('none', 'retrain'):
      shared.append(method)
    else:
      groups['without D_R' if alone else 'with D_R'].append(method)
  return {name: shared + group for name, group in groups.items() if group}


def compute_gap(results: Results, method: str) -> gaps.Gap | None:
  """Computes the gap of a method to Retrain."""
  attack = results['config']['attack']
  retrained = rows_of(results, 'retrain')
  return gaps.compute_gap(rows_of(results, method), retrained, attack)


def _gap_cells(results: Results, method: str) -> tuple[str, str]:
  gap = compute_gap(results, method)
  if gap is None:
    return text_tables.DASH, text_tables.DASH
  std = '' if gap.std is None else f' ± {gap.std:.2f}'
  return f'{gap.of_means:.2f}', f'{gap.of_runs:.2f}{std}'


def _filled_columns(results: Results, columns: dict[str, str]) -> list[str]:
  """Lists the columns that have a value in some row."""
  return [
    name
    for name in columns
    if any(row.get(name) is not None for row in results['rows'])
  ]


def _describe_runs(results: Results) -> str:
  """Describes the runs behind each mean."""
  config = results['config']
  networks, sets = len(config['seeds']), len(config['forget_seeds'])
  planned = networks * sets * config['runs']
  count = max(
    (len(rows_of(results, method)) for method in results['methods']), default=0
  )
  missing = '' if count >= planned else f'; {planned - count} are missing'
  return (
    f'Mean ± sample standard deviation over {count} runs '
    f'({networks} networks, {sets} forget '
    f'sets each{missing}).'
  )


def main_table(results: Results, group: str) -> TextTable:
  """Builds AMUN's Table 1 (with D_R) or 2 (without)."""
  # Without references, the columns of RMIA are empty.
  columns = _filled_columns(results, _MAIN)
  rows = [
    (
      method,
      *(gaps.points_text(rows_of(results, method), name) for name in columns),
      *_gap_cells(results, method),
      _information(results, method),
    )
    for method in group_methods(results)[group]
  ]
  attack = ATTACKS[results['config']['attack']]
  notes = (
    _describe_runs(results),
    _COLUMNS,
    f'{GAPS} The attack of the gap is {attack}.',
  )
  head = (
    'method',
    *(_MAIN[name] for name in columns),
    'gap of means',
    'mean of gaps',
    _INFORMATION,
  )
  title = f'Forgetting {group}'
  return TextTable(title, notes, head, tuple(rows), prose_columns=1)


def audit_table(results: Results) -> TextTable:
  """Builds the table of all attacks by method, in points."""
  note = (
    'Of the logit-scaled confidence where nothing is said. RMIA with the test '
    'images as population; its AUC is that of its ratio unless most scores are '
    'tied.'
  )
  return gaps.points_table(
    'Attacks on membership',
    (_describe_runs(results), note),
    {name: _AUDIT[name] for name in _filled_columns(results, _AUDIT)},
    {(method,): rows_of(results, method) for method in results['methods']},
  )


def requests_of(results: Results, method: str) -> dict[int, list[float]]:
  """Computes request -> FR AUC minus FT AUC of each run, in points."""
  values: dict[int, list[float]] = {}
  for row in results['requests']:
    if row['method'] == method:
      value = 100 * (row['fr_auc'] - row['ft_auc'])
      values.setdefault(row['request'], []).append(value)
  return values


def request_table(results: Results) -> TextTable:
  """Builds the table of requests in sequence, by method."""
  methods = dict.fromkeys(row['method'] for row in results['requests'])
  values = {method: requests_of(results, method) for method in methods}
  numbers = sorted({i for by_request in values.values() for i in by_request})
  rows = []
  for method, by_request in values.items():
    spreads = [stats.spread(by_request.get(i, [])) for i in numbers]
    means = [
      text_tables.DASH if s is None else f'{s.mean:.2f}' for s in spreads
    ]
    rows.append((method, *means))
  note = (
    'FR AUC minus FT AUC of the request at hand, in points, mean over runs: '
    'high where what was just forgotten looks unlike what is retained and like '
    'test images. amun takes all adversarial images from the original network, '
    'amun_adaptive from the network as it is by then. Nothing is tuned anew.'
  )
  head = ('method', *(f'request {i}' for i in numbers))
  return TextTable('Requests one after another', (note,), head, tuple(rows))


def _format_hyper(hyper: dict[str, float]) -> str:
  return ' '.join(f'{k}={v:g}' for k, v in hyper.items()) or text_tables.DASH


def _choice_row(
  results: Results, method: str, bounded: bool
) -> tuple[str, ...]:
  rows, facts = rows_of(results, method), results['methods'][method]
  seconds = stats.spread([row['seconds'] for row in rows])
  tried = sum(row['method'] == method for row in results['tuning'])
  norms = [row['largest_norm'] for row in rows if 'largest_norm' in row]
  norm = stats.spread(norms)
  norm_text = f'{norm.mean:.2f}' if norm else text_tables.DASH
  return (
    method,
    _format_hyper(facts['hyper']),
    # A method without a grid is tried once, and has no tuning rows.
    str(tried or 1),
    text_tables.time_text(seconds.mean if seconds else None, False),
    str(sum(row['diverged'] for row in rows)),
    *([norm_text] if bounded else []),
    facts['says'],
  )


def choice_table(results: Results) -> TextTable:
  """Builds the table of methods: hyperparameters, cost and description."""
  bounded = any('largest_norm' in row for row in results['rows'])
  rows = [_choice_row(results, name, bounded) for name in results['methods']]
  seeds = results['config']['tuning_seeds']
  note = (
    'Chosen by the least gap on forget sets of their own, '
    f'seed{"s" if len(seeds) > 1 else ""} {", ".join(map(str, seeds))}, of the '
    'first network; never on those that are reported.'
  )
  head = (
    *('method', 'chosen', 'tried', 'seconds a run', 'diverged'),
    *(['largest norm'] if bounded else []),
    'does',
  )
  return TextTable('What was run', (note,), head, tuple(rows), prose_columns=1)


def build_tables(results: Results) -> dict[str, TextTable]:
  """Builds all tables: name of the file, without its ending -> its table."""
  tables = {
    group.replace(' ', '_'): main_table(results, group)
    for group in group_methods(results)
  }
  # Most runs have no requests.
  if results['requests']:
    tables['requests'] = request_table(results)
  return tables | {
    'audits': audit_table(results),
    'choices': choice_table(results),
  }
