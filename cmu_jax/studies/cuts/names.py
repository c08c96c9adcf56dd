"""Names of metrics and numbers as text, in tables and figures."""

from collections.abc import Iterable

# The order here is the order of the columns in all tables.
METRICS = {
  'test_accuracy': 'test accuracy',
  'recovery_percent': 'recovery [%]',
  'attack_success_rate': 'attack success',
  'target_class_accuracy': 'target class acc.',
  'label_recovery_rate': 'label recovery',
}


def metric(key: str) -> str:
  """The column head of a metric key."""
  if key in METRICS:
    return METRICS[key]
  return key.replace('_', ' ').replace(' percent', ' [%]')


def columns(measured: Iterable[str], task: str) -> list[str]:
  """The main metrics among those found, in order.

  A poisoned model is about as accurate as the oracle, so the share of that
  gap that was recovered says nothing and is left out.
  """
  keys = set(measured)
  if task == 'poison':
    keys -= {'recovery_percent'}
  return [key for key in METRICS if key in keys]


def alphas(values: Iterable[float]) -> str:
  """Formats an alpha, or its range over seeds: '0.95' or '0.9 to 1.05'."""
  distinct = sorted(set(values))
  if not distinct:
    return ''
  low, high = f'{distinct[0]:.4g}', f'{distinct[-1]:.4g}'
  # The texts are compared, because values that print alike are no range.
  return low if low == high else f'{low} to {high}'


def count(number: int, noun: str) -> str:
  """'1 seed', '3 seeds'."""
  return f'{number} {noun}' if number == 1 else f'{number} {noun}s'
