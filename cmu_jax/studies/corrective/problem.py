"""What one seed of the benchmark poses, and what of it a method may see.

S_tr is the training set as trained on, S_m its manipulated part. A developer
has found S_f, the first round(fraction |S_m|) samples of one random order of
S_m, so that larger fractions contain smaller ones. What is left, S_tr without
S_f, still holds the rest of S_m under its wrong labels and triggers.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from cmu_jax.core import errors
from cmu_jax.core.types import Batch, MethodInputs, Proxy
from cmu_jax.training import descent

NEEDS = MethodInputs._fields


class Problem(NamedTuple):
  """Everything there is on a seed; methods see what `give` hands out.

  Attributes:
    train: S_tr, with the labels and triggers that it was trained with.
    truth: true labels of S_tr, for metrics only.
    rank: place of each sample in the order in which S_m is identified; -1
      outside S_m.
    proxy: other images with the same corruption; None if none are held out.
    clean_proxy: the same images with true labels, None likewise.
    validation: images with true labels, of which nothing is reported.
  """

  train: Batch
  truth: Int[np.ndarray, 'n']
  rank: Int[np.ndarray, 'n']
  proxy: Proxy | None
  clean_proxy: Batch | None
  validation: Batch


def manipulated(problem: Problem) -> Bool[np.ndarray, 'n']:
  """Where S_m is."""
  return problem.rank >= 0


def identified_count(problem: Problem, fraction: float) -> int:
  """|S_f| = round(fraction |S_m|), halves upwards.

  Raises:
    UserError: the fraction is not above 0 and at most 1, or identifies nothing.
  """
  errors.check(
    0 < fraction <= 1,
    f'identified fraction {fraction} must lie above 0 and be at most 1',
  )
  total = int(manipulated(problem).sum())
  count = math.floor(fraction * total + 0.5 + 1e-9)
  errors.check(
    count > 0,
    f'identified fraction {fraction} of {total} manipulated samples is none; '
    f'use {1 / max(total, 1):.2g} or more',
  )
  return count


def identified(problem: Problem, fraction: float) -> Bool[np.ndarray, 'n']:
  """Where S_f is."""
  count = identified_count(problem, fraction)
  return manipulated(problem) & (problem.rank < count)


def give(
  problem: Problem, fraction: float, needs: tuple[str, ...]
) -> MethodInputs:
  """What a method that declared `needs` may see at an identified fraction.

  Args:
    problem: everything there is.
    fraction: |S_f| / |S_m|, above 0 and at most 1.
    needs: names of parts of `Given`.

  Raises:
    UserError: an unknown part, one that this problem does not have, or a
      fraction that cannot be.
  """
  for name in needs:
    if name not in NEEDS:
      raise errors.unknown_name('part of a problem', name, NEEDS)
  known = identified(problem, fraction)
  parts: dict[str, Any] = {
    'proxy': problem.proxy,
    'clean_proxy': problem.clean_proxy,
    'validation': problem.validation,
  }
  if 'retain' in needs:
    rest = np.flatnonzero(~known)
    parts['retain'] = descent.gather_samples(
      problem.train, rest, known.size, False
    )
  if 'forget' in needs:
    total = int(manipulated(problem).sum())
    found = np.flatnonzero(known)
    parts['forget'] = descent.gather_samples(problem.train, found, total, True)
  for name in needs:
    errors.check(
      parts[name] is not None,
      f'this problem has no {name}: set config.proxy_fraction above 0',
    )
  return MethodInputs(**{name: parts[name] for name in needs})
