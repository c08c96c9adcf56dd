"""Tables of an ensemble study, from results.json alone."""

from typing import NamedTuple

import numpy as np

from cmu_jax.report import stats, text_tables
from cmu_jax.report.frame import Results
from cmu_jax.report.text_tables import TextTable

NAMES = {
  'plain': 'plain',
  'clipped': 'clipped',
  'lotos': 'LOTOS',
  'lotos_unclipped': 'LOTOS, not clipped',
  'trs': 'TRS',
}
# Key: heading, and digits.
METRICS: dict[str, tuple[str, int]] = {
  'test_accuracy': ('accuracy', 3),
  'member_accuracy': ('member accuracy', 3),
  't_rate': ('T_rate', 3),
  'joint_failure_rate': ('joint failure', 3),
  'member_robust_accuracy': ('member robust acc.', 3),
  'robust_accuracy': ('ensemble robust acc.', 3),
  'black_box_accuracy': ('black-box robust acc.', 3),
  'untouched_accuracy': ('accuracy without attack', 3),
}
NETWORKS: dict[str, tuple[str, int]] = {
  'largest_layer_norm': ('largest layer norm', 3),
  'member_lipschitz_bound': ('Lipschitz bound of a member', 2),
  'idle_epochs': ('idle epochs', 0),
  'training_seconds': ('training [s]', 1),
}
THREATS = {
  'correct': 'normalisation inside the network (correct)',
  'paper_compat_clamp': 'as released: clamped after normalisation',
}


def by_seed(
  results: Results, threat: str, method: str, key: str
) -> dict[int, float]:
  """Selects a quantity by seed, leaving out null values."""
  return {
    row['seed']: float(row[key])
    for row in results['rows']
    if (row['threat'], row['method']) == (threat, method)
    and row.get(key) is not None
  }


def list_methods(results: Results) -> list[str]:
  """Lists the methods with rows, in the order of `NAMES`."""
  present = {row['method'] for row in results['rows']}
  return [name for name in NAMES if name in present]


def list_threats(results: Results) -> list[str]:
  """Lists the threat models with rows."""
  present = {row['threat'] for row in results['rows']}
  return [name for name in THREATS if name in present]


def _by_method(
  results: Results, threat: str, columns: dict[str, tuple[str, int]]
) -> tuple[tuple[str, ...], ...]:
  def format_cell(method: str, key: str, digits: int) -> str:
    values = by_seed(results, threat, method, key).values()
    return text_tables.spread_text(stats.spread(list(values)), digits)

  return tuple(
    (NAMES[m], *(format_cell(m, key, n) for key, (_, n) in columns.items()))
    for m in list_methods(results)
  )


def rate_table(results: Results, threat: str) -> TextTable:
  """Builds the table of rates under a threat model, by ensemble."""
  head = ('ensemble', *(name for name, _ in METRICS.values()))
  note = (
    'Mean ± standard deviation over seeds. Robust accuracies are among images '
    'that were right before; T_rate is over ordered pairs of members, among '
    'images that both have right and on which the attack on the first works.'
  )
  title = f'Threat model: {THREATS[threat]}'
  return TextTable(title, (note,), head, _by_method(results, threat, METRICS))


def network_table(results: Results) -> TextTable:
  """Builds the table of norms, bounds and training times."""
  head = ('ensemble', *(name for name, _ in NETWORKS.values()))
  # Networks are the same under every threat model.
  threat = list_threats(results)[0]
  note = (
    'Norms are of linear layers, of network input; idle epochs are those in '
    'which the penalty of LOTOS was 0 throughout.'
  )
  rows = _by_method(results, threat, NETWORKS)
  return TextTable('The networks', (note,), head, rows)


class Change(NamedTuple):
  """A paired difference over the seeds that have both methods."""

  mean: float
  # The 95 % t-interval; None below two seeds.
  low: float | None
  high: float | None
  seeds: int


def compare(
  results: Results, threat: str, key: str, before: str, after: str
) -> Change | None:
  """Compares a quantity between two methods, seed by seed."""
  baseline = by_seed(results, threat, before, key)
  changed = by_seed(results, threat, after, key)
  shared = sorted(baseline.keys() & changed.keys())
  if not shared:
    return None
  difference = np.asarray([changed[s] - baseline[s] for s in shared])
  between = stats.interval(difference)
  mean, count = float(difference.mean()), len(shared)
  if between is None:
    return Change(mean, None, None, count)
  return Change(mean, between.low, between.high, count)


def format_change(change: Change | None) -> str:
  """Formats a change as '−0.120 [−0.200, −0.040]'."""
  if change is None:
    return text_tables.DASH
  text = f'{change.mean:+.3f}'
  if change.low is not None and change.high is not None:
    text += f' [{change.low:+.3f}, {change.high:+.3f}]'
  return text.replace('-', '−')


def change_table(results: Results, threat: str) -> TextTable:
  """Builds the table of differences between methods, over seeds."""
  present = list_methods(results)
  pairs = [
    (a, b)
    for a, b in (('plain', 'clipped'), ('clipped', 'lotos'), ('plain', 'trs'))
    if a in present and b in present
  ]
  keys = (
    'test_accuracy',
    't_rate',
    'joint_failure_rate',
    'robust_accuracy',
    'black_box_accuracy',
  )
  rows = tuple(
    (
      f'{NAMES[b]} − {NAMES[a]}',
      *(format_change(compare(results, threat, key, a, b)) for key in keys),
    )
    for a, b in pairs
  )
  return TextTable(
    f'Differences, seed by seed: {THREATS[threat]}',
    # Pairs by seed: ensembles of a seed start from the same weights.
    ("Mean and 95 % interval of Student's t over seeds.",),
    ('difference', *(METRICS[key][0] for key in keys)),
    rows,
  )


def build_tables(results: Results) -> dict[str, TextTable]:
  """Builds all tables: name of the file, without its ending -> its table."""
  tables = {}
  for threat in list_threats(results):
    tables[f'rates_{threat}'] = rate_table(results, threat)
    tables[f'differences_{threat}'] = change_table(results, threat)
  # Before the first row there is nothing to show.
  return {**tables, 'networks': network_table(results)} if tables else {}
