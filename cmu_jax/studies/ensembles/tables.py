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


def values(
  results: Results, threat: str, method: str, key: str
) -> dict[int, float]:
  """A quantity by seed, leaving out null ones."""
  return {
    row['seed']: float(row[key])
    for row in results['rows']
    if (row['threat'], row['method']) == (threat, method)
    and row.get(key) is not None
  }


def methods(results: Results) -> list[str]:
  """Methods that have rows, in the order of `NAMES`."""
  present = {row['method'] for row in results['rows']}
  return [name for name in NAMES if name in present]


def threats(results: Results) -> list[str]:
  """Threat models that have rows."""
  present = {row['threat'] for row in results['rows']}
  return [name for name in THREATS if name in present]


def _cell(by_seed: dict[int, float], digits: int) -> str:
  spread = stats.spread(list(by_seed.values()))
  if spread is None:
    return text_tables.DASH
  text = f'{spread.mean:.{digits}f}'
  return text if spread.std is None else f'{text} ± {spread.std:.{digits}f}'


def _by_method(
  results: Results, threat: str, columns: dict[str, tuple[str, int]]
) -> tuple[tuple[str, ...], ...]:
  return tuple(
    (
      NAMES[method],
      *(
        _cell(values(results, threat, method, key), digits)
        for key, (_, digits) in columns.items()
      ),
    )
    for method in methods(results)
  )


def rates(results: Results, threat: str) -> TextTable:
  """The effect of the attacks of a threat model on every ensemble."""
  head = ('ensemble', *(name for name, _ in METRICS.values()))
  note = (
    'Mean ± standard deviation over seeds. Robust accuracies are among images '
    'that were right before; T_rate is over ordered pairs of members, among '
    'images that both have right and on which the attack on the first works.'
  )
  title = f'Threat model: {THREATS[threat]}'
  return TextTable(title, (note,), head, _by_method(results, threat, METRICS))


def networks(results: Results) -> TextTable:
  """Norms, bounds and training time of the networks."""
  head = ('ensemble', *(name for name, _ in NETWORKS.values()))
  threat = threats(results)[0]
  note = (
    'Norms are of linear layers, of network input; idle epochs are those in '
    'which the penalty of LOTOS was 0 throughout.'
  )
  rows = _by_method(results, threat, NETWORKS)
  return TextTable('The networks', (note,), head, rows)


class Change(NamedTuple):
  """A paired difference over seeds.

  Attributes:
    mean: over the seeds that have both.
    low: end of the 95 % t-interval; None below two seeds.
    high: likewise.
    seeds: how many.
  """

  mean: float
  low: float | None
  high: float | None
  seeds: int


def change(
  results: Results, threat: str, key: str, before: str, after: str
) -> Change | None:
  """Compares a quantity between two methods, seed by seed."""
  baseline = values(results, threat, before, key)
  changed = values(results, threat, after, key)
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
  """'−0.120 [−0.200, −0.040]'."""
  if change is None:
    return text_tables.DASH
  text = f'{change.mean:+.3f}'
  if change.low is not None and change.high is not None:
    text += f' [{change.low:+.3f}, {change.high:+.3f}]'
  return text.replace('-', '−')


def changes(results: Results, threat: str) -> TextTable:
  """The effect of clipping, and of the penalty on top of it."""
  present = methods(results)
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
      *(format_change(change(results, threat, key, a, b)) for key in keys),
    )
    for a, b in pairs
  )
  return TextTable(
    f'Differences, seed by seed: {THREATS[threat]}',
    ("Mean and 95 % interval of Student's t over seeds.",),
    ('difference', *(METRICS[key][0] for key in keys)),
    rows,
  )


def contents(results: Results) -> dict[str, TextTable]:
  """All tables: name of the file, without its ending -> its table."""
  if not results['rows']:
    return {}
  grids = {}
  for threat in threats(results):
    grids[f'rates_{threat}'] = rates(results, threat)
    grids[f'differences_{threat}'] = changes(results, threat)
  return {**grids, 'networks': networks(results)}
