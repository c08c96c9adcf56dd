"""Means, spreads and confidence intervals over the seeds of a run."""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats


class Spread(NamedTuple):
  """Mean and spread of a quantity over seeds.

  Attributes:
    mean: mean over the seeds that have the quantity.
    std: sample standard deviation; None for a single seed.
    n: number of these seeds.
  """

  mean: float
  std: float | None
  n: int


class Interval(NamedTuple):
  """Two-sided 95 % t-interval of a mean."""

  mean: float
  low: float
  high: float


def spread(values: list[float]) -> Spread | None:
  """Computes mean and sample standard deviation; None without values."""
  if not values:
    return None
  # A single seed says nothing about the spread, which is not 0.
  std = float(np.std(values, ddof=1)) if len(values) > 1 else None
  return Spread(float(np.mean(values)), std, len(values))


@functools.cache
def _quantile(freedom: int) -> float:
  """Looks up the quantile of Student's t, which takes SciPy long."""
  # 0.975, because both tails together have 5 %.
  return stats.t.ppf(0.975, freedom)


def interval(difference: Float[np.ndarray, 's']) -> Interval | None:
  """Computes the t-interval of the mean of paired differences of seeds.

  Returns None below two seeds. With s seeds, Student's t has s - 1 degrees of
  freedom: with three seeds, the interval is 4.3 standard errors wide on either
  side, the honest price of few seeds.
  """
  s = len(difference)
  if s < 2:
    return None
  mean = float(difference.mean())
  half = float(_quantile(s - 1) * difference.std(ddof=1) / s**0.5)
  return Interval(mean, mean - half, mean + half)
