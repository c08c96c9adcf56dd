"""Numbers over the seeds of a run, and their texts in tables and figures."""

import math
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

from cmu_jax.report.frame import Results

Arrays = dict[str, np.ndarray]


def by_seed(results: Results, method: str, key: str) -> dict[int, float]:
  """The values of one column for one method, leaving out null ones."""
  values = {
    row['seed']: float(row[key])
    for row in results['rows']
    if row['method'] == method and row.get(key) is not None
  }
  if key != 'recovery_percent':
    return values
  # Older results have a recovery even where the oracle is below doing nothing.
  oracle, corrupted = (
    by_seed(results, name, 'test_accuracy') for name in ('oracle', 'corrupted')
  )
  return {
    seed: value
    for seed, value in values.items()
    if oracle.get(seed, math.inf) > corrupted.get(seed, -math.inf)
  }


def pair_by_seed(
  results: Results, key: str, methods: tuple[str, ...]
) -> Float[np.ndarray, 's m']:
  """Pairs the values of m methods at the seeds that all methods have."""
  columns = [by_seed(results, method, key) for method in methods]
  # Differences within a seed cancel the luck of that seed.
  seeds = sorted(set.intersection(*(set(column) for column in columns)))
  table = [[column[seed] for column in columns] for seed in seeds]
  # The reshape gives an empty table two axes as well.
  return np.asarray(table, float).reshape(len(seeds), len(methods))


def class_means(
  results: Results, method: str, seeds: set[int]
) -> Float[np.ndarray, 'k']:
  """Mean accuracy a class over seeds; NaN for a class without test images."""
  rows = [
    [np.nan if value is None else value for value in row['accuracy']]
    for row in results['per_class']
    if row['method'] == method and row['seed'] in seeds
  ]
  table = np.asarray(rows, float).reshape(-1, len(results['class_names']))
  measured = np.isfinite(table)
  total = np.where(measured, table, 0).sum(axis=0)
  number = measured.sum(axis=0)
  # np.nanmean would warn about a class without values.
  return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def class_changes(
  results: Results, method: str = 'cuts'
) -> tuple[Float[np.ndarray, 'k'], Float[np.ndarray, 'k']]:
  """Accuracy a class before and after, over the seeds that have both."""
  measured = [
    {row['seed'] for row in results['per_class'] if row['method'] == name}
    for name in ('corrupted', method)
  ]
  # A seed with a single measurement would bias the difference.
  seeds = measured[0] & measured[1]
  corrupted = class_means(results, 'corrupted', seeds)
  return corrupted, class_means(results, method, seeds)


# The order here is the order of the columns in all tables.
METRICS = {
  'test_accuracy': 'test accuracy',
  'estimated_accuracy': 'estimated accuracy',
  'recovery_percent': 'recovery [%]',
  'attack_success_rate': 'attack success',
  'target_class_accuracy': 'target class acc.',
  'label_recovery_rate': 'label recovery',
}


def name_metric(key: str) -> str:
  """The column head of a metric key."""
  if key in METRICS:
    return METRICS[key]
  return key.replace('_', ' ').replace(' percent', ' [%]')


def select_columns(measured: Iterable[str], task: str) -> list[str]:
  """The main metrics among those found, in order.

  A poisoned model is about as accurate as the oracle, so the share of that
  gap that was recovered says nothing and is left out.
  """
  keys = set(measured)
  if task == 'poison':
    keys -= {'recovery_percent'}
  return [key for key in METRICS if key in keys]


def format_alphas(values: Iterable[float]) -> str:
  """Formats an alpha, or its range over seeds: '0.95' or '0.9 to 1.05'."""
  distinct = sorted(set(values))
  if not distinct:
    return ''
  low, high = f'{distinct[0]:.4g}', f'{distinct[-1]:.4g}'
  # The texts are compared, because values that print alike are no range.
  return low if low == high else f'{low} to {high}'


def format_count(number: int, noun: str) -> str:
  """'1 seed', '3 seeds'."""
  return f'{number} {noun}' if number == 1 else f'{number} {noun}s'
