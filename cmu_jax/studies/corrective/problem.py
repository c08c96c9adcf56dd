"""The problem of a seed, and the inputs that it offers to methods.

S_tr is the training set as trained on, S_m its manipulated part. A developer
has found S_f, the first round(fraction |S_m|) samples of a random order of S_m.
Hence larger fractions contain smaller ones. S_tr without S_f still contains the
other samples of S_m, with their wrong labels and triggers.
"""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from cmu_jax.core import errors
from cmu_jax.core.types import Batch, MethodInputs, Proxy
from cmu_jax.training import descent

NEEDS = MethodInputs._fields


class Problem(NamedTuple):
  """All data of a problem; methods receive the parts that `give` selects.

  Attributes:
    train: S_tr, with the labels and triggers that it was trained with.
    truth: true labels of S_tr, for metrics only.
    rank: of each sample in the order in which S_m is identified; -1 outside
      S_m.
    proxy: held-out images with the same corruption, or None.
    clean_proxy: the same images with true labels, or None.
    validation: images with true labels; no result is measured on them.
  """

  train: Batch
  truth: Int[np.ndarray, 'n']
  rank: Int[np.ndarray, 'n']
  proxy: Proxy | None
  clean_proxy: Batch | None
  validation: Batch


def find_manipulated(problem: Problem) -> Bool[np.ndarray, 'n']:
  """Returns the mask of S_m."""
  return problem.rank >= 0


def count_identified(problem: Problem, fraction: float) -> int:
  """Computes |S_f| = round(fraction |S_m|), halves upwards.

  Raises:
    UserError: the fraction is not above 0 and at most 1, or identifies nothing.
  """
  errors.check(
    0 < fraction <= 1,
    f'identified fraction {fraction} must lie above 0 and be at most 1',
  )
  total = int(find_manipulated(problem).sum())
  # 0.35 x 10 is a little less than 3.5 in floating point.
  count = math.floor(fraction * total + 0.5 + 1e-9)
  errors.check(
    count > 0,
    f'identified fraction {fraction} of {total} manipulated samples is none; '
    f'use {1 / max(total, 1):.2g} or more',
  )
  return count


def find_identified(problem: Problem, fraction: float) -> Bool[np.ndarray, 'n']:
  """Returns the mask of S_f."""
  # Ranks are nested: a larger fraction contains a smaller one.
  count = count_identified(problem, fraction)
  return find_manipulated(problem) & (problem.rank < count)


def give(
  problem: Problem, fraction: float, needs: tuple[str, ...]
) -> MethodInputs:
  """Selects the inputs that a method declares, at an identified fraction.

  Args:
    problem: all data.
    fraction: |S_f| / |S_m|, above 0 and at most 1.
    needs: names of fields of `MethodInputs`.

  Raises:
    UserError: an unknown part, one that this problem does not have, or a
      fraction that cannot be.
  """
  for name in needs:
    if name not in NEEDS:
      raise errors.unknown_name('part of a problem', name, NEEDS)
  mask = find_identified(problem, fraction)
  # Only names of `NEEDS` go out, the truth and the ranks never.
  parts: dict[str, Any] = problem._asdict()
  if 'retain' in needs:
    # S_tr without S_f: the rest of S_m is in it, with its wrong labels.
    retain = np.flatnonzero(~mask)
    parts['retain'] = descent.gather_samples(
      problem.train, retain, mask.size, False
    )
  if 'ordinary' in needs:
    # The same images; a method that reads no label must not get any.
    blank = problem.train._replace(label=jnp.zeros_like(problem.train.label))
    parts['ordinary'] = descent.gather_samples(
      blank, np.flatnonzero(~mask), mask.size, False
    )
  if 'forget' in needs:
    # As long as S_m: one compilation serves all fractions.
    total = int(find_manipulated(problem).sum())
    forget = np.flatnonzero(mask)
    parts['forget'] = descent.gather_samples(problem.train, forget, total, True)
  for name in needs:
    errors.check(
      parts[name] is not None,
      f'this problem has no {name}: set config.proxy_fraction above 0',
    )
  return MethodInputs(**{name: parts[name] for name in needs})
