"""What a run measured, as tables in the layout of AMUN's Tables 1 and 2."""

from cmu_jax.report import stats, text_tables
from cmu_jax.report.frame import Results
from cmu_jax.report.text_tables import TextTable
from cmu_jax.studies.engine import gaps
from cmu_jax.studies.subsets import load

# Column -> heading; in points.
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
_SEEN = 'what it could see'
COLUMNS = (
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


def _spread(found: Results, method: str, column: str) -> str:
  """'95.45 ± 0.19' in points; a dash where there is none."""
  values = [
    100 * row[column]
    for row in load.rows(found, method)
    if row.get(column) is not None
  ]
  spread = stats.spread(values)
  if spread is None:
    return text_tables.DASH
  std = '' if spread.std is None else f' ± {spread.std:.2f}'
  return f'{spread.mean:.2f}{std}'


def gap(found: Results, method: str) -> gaps.Gap | None:
  """The gap of a method to Retrain."""
  attack = found['config']['attack']
  best = load.rows(found, 'retrain')
  return gaps.gap(load.rows(found, method), best, attack)


def _gap_cells(found: Results, method: str) -> tuple[str, str]:
  one = gap(found, method)
  if one is None:
    return text_tables.DASH, text_tables.DASH
  std = '' if one.std is None else f' ± {one.std:.2f}'
  return f'{one.of_means:.2f}', f'{one.of_runs:.2f}{std}'


def _there(found: Results, columns: dict[str, str]) -> list[str]:
  return [
    name
    for name in columns
    if any(row.get(name) is not None for row in found['rows'])
  ]


def _seen(found: Results, method: str) -> str:
  return next((r['information'] for r in load.rows(found, method)), '')


def over(found: Results) -> str:
  """What the numbers are means over."""
  config = found['config']
  asked = len(config['seeds']) * len(config['forget_seeds']) * config['runs']
  there = max(
    (len(load.rows(found, method)) for method in found['methods']), default=0
  )
  missing = '' if there >= asked else f'; {asked - there} are missing'
  return (
    f'Mean ± sample standard deviation over {there} runs '
    f'({len(config["seeds"])} networks, {len(config["forget_seeds"])} forget '
    f'sets each{missing}).'
  )


def main(found: Results, group: str) -> TextTable:
  """AMUN's Table 1 (with D_R) or 2 (without).

  Args:
    found: checked contents of results.json.
    group: a key of `load.groups`.
  """
  shown = _there(found, _MAIN)
  rows = [
    (
      method,
      *(_spread(found, method, name) for name in shown),
      *_gap_cells(found, method),
      _seen(found, method),
    )
    for method in load.groups(found)[group]
  ]
  attack = ATTACKS[found['config']['attack']]
  return TextTable(
    f'Forgetting {group}',
    (over(found), COLUMNS, f'{GAPS} The attack of the gap is {attack}.'),
    (
      'method',
      *(_MAIN[name] for name in shown),
      'gap of means',
      'mean of gaps',
      _SEEN,
    ),
    tuple(rows),
    prose_columns=1,
  )


def audits(found: Results) -> TextTable:
  """Every attack by method, in points."""
  shown = _there(found, _AUDIT)
  rows = [
    (method, *(_spread(found, method, name) for name in shown))
    for method in found['methods']
  ]
  note = (
    'Of the logit-scaled confidence where nothing is said. RMIA with the test '
    'images as population; its AUC is that of its ratio unless most scores are '
    'tied.'
  )
  head = ('method', *(_AUDIT[name] for name in shown))
  return TextTable(
    'Attacks on membership', (over(found), note), head, tuple(rows)
  )


def by_request(found: Results, method: str) -> dict[int, list[float]]:
  """Request -> FR AUC minus FT AUC of each run, in points."""
  held: dict[int, list[float]] = {}
  for row in found['requests']:
    if row['method'] == method:
      value = 100 * (row['fr_auc'] - row['ft_auc'])
      held.setdefault(row['request'], []).append(value)
  return held


def in_turn(found: Results) -> TextTable:
  """Requests one after another, by method."""
  methods = dict.fromkeys(row['method'] for row in found['requests'])
  held = {method: by_request(found, method) for method in methods}
  numbers = sorted({i for one in held.values() for i in one})
  rows = []
  for method, values in held.items():
    cells = [stats.spread(values.get(i, [])) for i in numbers]
    texts = [text_tables.DASH if c is None else f'{c.mean:.2f}' for c in cells]
    rows.append((method, *texts))
  note = (
    'FR AUC minus FT AUC of the request at hand, in points, mean over runs: '
    'high where what was just forgotten looks unlike what is retained and like '
    'test images. amun takes all adversarial images from the original network, '
    'amun_adaptive from the network as it is by then. Nothing is tuned anew.'
  )
  head = ('method', *(f'request {i}' for i in numbers))
  return TextTable('Requests one after another', (note,), head, tuple(rows))


def _hyper(found: Results, method: str) -> str:
  chosen = found['methods'][method]['hyper']
  return ' '.join(f'{k}={v:g}' for k, v in chosen.items()) or text_tables.DASH


def choices(found: Results) -> TextTable:
  """What each method does, its hyperparameters, and what they cost."""
  rows, bounded = [], any('largest_norm' in row for row in found['rows'])
  for method, facts in found['methods'].items():
    own = load.rows(found, method)
    seconds = stats.spread([row['seconds'] for row in own])
    tried = [row for row in found['tuning'] if row['method'] == method]
    diverged = sum(row['diverged'] for row in own)
    norms = [row['largest_norm'] for row in own if 'largest_norm' in row]
    norm = stats.spread(norms)
    rows.append(
      (
        method,
        _hyper(found, method),
        str(len(tried) or 1),
        text_tables.time_text(seconds.mean if seconds else None, False),
        str(diverged),
        *(
          [f'{norm.mean:.2f}' if norm else text_tables.DASH] if bounded else []
        ),
        facts['says'],
      )
    )
  note = (
    'Chosen by the least gap on forget sets of their own, '
    f'{_listed(found["config"]["tuning_seeds"])}, of the first network; never '
    'on those that are reported.'
  )
  head = (
    *('method', 'chosen', 'tried', 'seconds a run', 'diverged'),
    *(['largest norm'] if bounded else []),
    'does',
  )
  return TextTable('What was run', (note,), head, tuple(rows), prose_columns=1)


def _listed(seeds: list) -> str:
  return f'seed{"s" if len(seeds) > 1 else ""} {", ".join(map(str, seeds))}'


def contents(found: Results) -> dict[str, TextTable]:
  """All tables: name of the file, without its ending -> its table."""
  made = {
    group.replace(' ', '_'): main(found, group) for group in load.groups(found)
  }
  turns = {'requests': in_turn(found)} if found['requests'] else {}
  return {**made, **turns, 'audits': audits(found), 'choices': choices(found)}
