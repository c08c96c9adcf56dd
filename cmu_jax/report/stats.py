"""Means, spreads and paired comparisons over the seeds of a run."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from cmu_jax.studies.cuts.results import Results


class Spread(NamedTuple):
  """A quantity over seeds.

  Attributes:
    mean: mean over the seeds that have the quantity.
    std: sample standard deviation; None for a single seed.
    n: how many seeds have it.
  """

  mean: float
  std: float | None
  n: int


class Interval(NamedTuple):
  """Two-sided 95 % t-interval of a mean."""

  mean: float
  low: float
  high: float


def by_seed(results: Results, method: str, key: str) -> dict[int, float]:
  """The values of one column for one method, leaving out null ones."""
  return {
    row['seed']: float(row[key])
    for row in results['rows']
    if row['method'] == method and row.get(key) is not None
  }


def spread(values: list[float]) -> Spread | None:
  """Mean and sample standard deviation; None without values."""
  if not values:
    return None
  std = float(np.std(values, ddof=1)) if len(values) > 1 else None
  return Spread(float(np.mean(values)), std, len(values))


def paired(
  results: Results, key: str, methods: tuple[str, ...]
) -> Float[np.ndarray, 's m']:
  """Values of `key` for m methods, at the seeds that all of them have."""
  columns = [by_seed(results, method, key) for method in methods]
  seeds = sorted(set.intersection(*(set(column) for column in columns)))
  table = [[column[seed] for column in columns] for seed in seeds]
  return np.asarray(table, float).reshape(len(seeds), len(methods))


def interval(difference: Float[np.ndarray, 's']) -> Interval | None:
  """The t-interval of the mean of paired differences; None below two seeds.

  Student's t with s - 1 degrees of freedom: with three seeds it is 4.3
  standard errors wide on either side, which is the honest price of few seeds.
  """
  s = len(difference)
  if s < 2:
    return None
  mean = float(difference.mean())
  half = float(stats.t.ppf(0.975, s - 1) * difference.std(ddof=1) / s**0.5)
  return Interval(mean, mean - half, mean + half)


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
  seen = np.isfinite(table)
  total = np.where(seen, table, 0).sum(axis=0)
  number = seen.sum(axis=0)
  return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def class_changes(
  results: Results,
) -> tuple[Float[np.ndarray, 'k'], Float[np.ndarray, 'k']]:
  """Accuracy a class before and after CUTS, over the seeds that have both."""
  both = [
    {row['seed'] for row in results['per_class'] if row['method'] == method}
    for method in ('corrupted', 'cuts')
  ]
  seeds = both[0] & both[1]
  before = class_means(results, 'corrupted', seeds)
  return before, class_means(results, 'cuts', seeds)
