"""The strength of a negated task vector, chosen on validation data.

The strength lambda is the one with the lowest accuracy on the data to forget
among all that keep 95 % of the accuracy on control data.

References:
  Editing Models with Task Arithmetic (arXiv 2212.04089, ICLR 2023), section 3;
  NegMerge (arXiv 2410.05583, ICML 2025), section 4.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from cmu_jax.core import errors, progress

# Accuracies are ratios of counts: differences by rounding are ties.
_ROUNDING = 1e-9


class SweepResult(NamedTuple):
  """A sweep of strengths and the choice from it.

  Attributes:
    lambdas: strengths, ascending.
    forget: validation accuracy on the data to forget, at each.
    control: validation accuracy on control data, at each.
    reference: the control accuracy of the unedited network.
    threshold: the lowest acceptable control accuracy.
    strength: the choice; 0 if no strength is feasible.
    position: of the choice among the strengths; None if none is feasible.
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
  """Chooses the strength that forgets most and keeps the control accuracy.

  Among strengths whose control accuracy is at least control_floor times the
  reference the lowest forget accuracy wins; the smallest strength breaks ties.
  If none is feasible the strength is 0: the network stays unedited. Accuracies
  that are not numbers are not feasible.

  Args:
    lambdas: strengths >= 0, in any order.
    forget: validation accuracy on the data to forget, at each.
    control: validation accuracy on control data, at each.
    reference: the control accuracy of the unedited network; None takes that of
      strength 0.
    control_floor: the share of it to keep.

  Raises:
    UserError: columns of different lengths, none at all, negative strengths,
      or no reference.
  """
  # float64: float32 would round the default strengths, such as 0.35.
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
  order = np.argsort(columns[0], kind='stable')
  strengths, forgets, controls = (x[order] for x in columns)
  errors.check(
    strengths[0] >= 0, f'lambda {strengths[0]} is negative; use 0 or more'
  )
  if reference is None:
    errors.check(
      strengths[0] == 0,
      'the sweep has no control accuracy of the unedited network; put 0 among '
      'the lambdas or give the reference',
    )
    reference = controls[0]
  threshold = control_floor * reference
  position = None
  for i, (accuracy, control_accuracy) in enumerate(
    zip(forgets, controls, strict=True)
  ):
    # A comparison with NaN is False, so NaN is neither feasible nor better.
    feasible = control_accuracy >= threshold - _ROUNDING * abs(threshold)
    best = np.inf if position is None else forgets[position]
    if feasible and accuracy < best - _ROUNDING:
      position = i
  strength = 0.0 if position is None else float(strengths[position])
  return SweepResult(
    strengths,
    forgets,
    controls,
    float(reference),
    threshold,
    strength,
    position,
  )


def negation_sweep(
  eval_fn: Callable[[Any], tuple[float, float]],
  build: Callable[[float], Any],
  lambdas: Sequence[Any] | np.ndarray | None = None,
  control_floor: float = 0.95,
) -> SweepResult:
  """Evaluates a grid of strengths on validation data and chooses one.

  Args:
    eval_fn: output of `build` -> (forget accuracy, control accuracy).
    build: strength -> parameters, or any other input of `eval_fn`.
    lambdas: strengths; 0, 0.05, ..., 1 by default.
    control_floor: the share of the control accuracy to keep.

  Raises:
    UserError: no strengths, or negative ones.
  """
  grid = np.linspace(0, 1, 21) if lambdas is None else lambdas
  strengths = np.sort(np.asarray(grid, np.float64))
  errors.check(
    strengths.size, 'the sweep has no strengths; give one or more lambdas'
  )
  # Strength 0 is evaluated in any case, for the reference; it can be chosen
  # only if the caller listed it.
  missing = strengths[0] != 0
  reference = float(eval_fn(build(0.0))[1]) if missing else None
  accuracies = []
  with progress.bar('lambdas', strengths.size, unit='lambdas') as advance:
    for strength in strengths:
      forget, control = eval_fn(build(float(strength)))
      accuracies.append((float(forget), float(control)))
      advance()
  forgets, controls = np.array(accuracies).T
  return choose(strengths, forgets, controls, reference, control_floor)
