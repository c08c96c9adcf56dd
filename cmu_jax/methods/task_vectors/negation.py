"""How far to go against a task vector: validation data decide.

The strength lambda is the one with the lowest accuracy on the data to forget
among those that keep 95 % of the accuracy on control data.

References:
  Editing Models with Task Arithmetic (arXiv 2212.04089, ICLR 2023), section 3;
  NegMerge (arXiv 2410.05583, ICML 2025), section 4.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from cmu_jax.core import errors, progress

# Accuracies are counts over counts: what differs by rounding is a tie.
_ROUNDING = 1e-9


class SweepResult(NamedTuple):
  """A sweep of strengths and what was chosen from it.

  Attributes:
    lambdas: strengths, ascending.
    forget: validation accuracy on the data to forget, at each.
    control: validation accuracy on control data, at each.
    reference: the control accuracy of the unedited network.
    threshold: what the control accuracy may not fall below.
    chosen: the strength; 0 where none is feasible.
    position: of it among the strengths; None where none is feasible.
  """

  lambdas: Float[np.ndarray, 'm']
  forget: Float[np.ndarray, 'm']
  control: Float[np.ndarray, 'm']
  reference: float
  threshold: float
  strength: float
  position: int | None

  @property
  def feasible(self) -> bool:
    return self.position is not None


def choose(
  lambdas: Sequence[Any] | np.ndarray,
  forget: Sequence[Any] | np.ndarray,
  control: Sequence[Any] | np.ndarray,
  reference: Any = None,
  control_floor: float = 0.95,
) -> SweepResult:
  """The strength that forgets most while control data stay known.

  Among strengths whose control accuracy is at least control_floor times the
  reference the lowest forget accuracy wins; of equal ones the smallest
  strength. Where none is feasible the strength is 0: the network stays as it
  is. Accuracies that are not numbers are not feasible.

  Args:
    lambdas: strengths >= 0, in any order.
    forget: validation accuracy on the data to forget, at each.
    control: validation accuracy on control data, at each.
    reference: the control accuracy of the unedited network; None takes that of
      strength 0.
    control_floor: the share of it that must stay.

  Raises:
    UserError: columns of different lengths, none at all, negative strengths,
      or no reference.
  """
  columns = [np.asarray(x, np.float64) for x in (lambdas, forget, control)]
  errors.check(
    columns[0].ndim == 1 and columns[0].size,
    'the sweep has no strengths; give a list of one or more lambdas',
  )
  errors.check(
    all(x.shape == columns[0].shape for x in columns),
    f'the sweep has columns of {[x.size for x in columns]} values; give one '
    'forget and one control accuracy for each lambda',
  )
  strengths, lost, kept = (
    x[np.argsort(columns[0], kind='stable')] for x in columns
  )
  errors.check(
    strengths[0] >= 0, f'lambda {strengths[0]} is negative; use 0 or more'
  )
  if reference is None:
    errors.check(
      strengths[0] == 0,
      'the sweep has no control accuracy of the unedited network; put 0 among '
      'the lambdas or give the reference',
    )
    reference = kept[0]
  threshold = control_floor * reference
  position = None
  for i, (accuracy, control_accuracy) in enumerate(
    zip(lost, kept, strict=True)
  ):
    feasible = control_accuracy >= threshold - _ROUNDING * abs(threshold)
    best = np.inf if position is None else lost[position]
    if feasible and accuracy < best - _ROUNDING:
      position = i
  chosen = 0.0 if position is None else float(strengths[position])
  return SweepResult(
    strengths, lost, kept, float(reference), threshold, chosen, position
  )


def negation_sweep(
  eval_fn: Callable[[Any], tuple[float, float]],
  build: Callable[[float], Any],
  lambdas: Sequence[Any] | np.ndarray | None = None,
  control_floor: float = 0.95,
) -> SweepResult:
  """Evaluates a grid of strengths on validation data and chooses one.

  Args:
    eval_fn: what `build` makes -> (forget accuracy, control accuracy).
    build: strength -> parameters, or whatever `eval_fn` takes.
    lambdas: strengths; 0, 0.05, ..., 1 by default. If 0 is not among them it
      is evaluated too, for the reference, but cannot be chosen.
    control_floor: the share of the control accuracy that must stay.

  Raises:
    UserError: no strengths, or negative ones.
  """
  given = np.linspace(0, 1, 21) if lambdas is None else lambdas
  strengths = np.sort(np.asarray(given, np.float64))
  errors.check(
    strengths.size, 'the sweep has no strengths; give one or more lambdas'
  )
  missing = strengths[0] != 0
  reference = float(eval_fn(build(0.0))[1]) if missing else None
  found = []
  with progress.bar('lambdas', strengths.size, unit='lambdas') as advance:
    for strength in strengths:
      forget, control = eval_fn(build(float(strength)))
      found.append((float(forget), float(control)))
      advance()
  lost, kept = np.array(found).T
  return choose(strengths, lost, kept, reference, control_floor)
