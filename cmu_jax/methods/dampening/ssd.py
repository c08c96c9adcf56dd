r"""SSD, selective synaptic dampening, and ASSD, without hyperparameters.

With importances I_r for the retained samples and I_f for S_f (`importance`),

  theta_j <- min(gamma I_r,j / I_f,j, 1) theta_j   where I_f,j > a I_r,j

and unchanged elsewhere. For gamma >= a the result does not depend on a: of the
50 points of the published grid 39 differ. Biases and the affine part of
BatchNorm take part, running statistics do not. ASSD takes a from the sizes of
the sets: the larger S_f, the more parameters are dampened.

  a = percentile p of I_f,j / I_r,j over all parameters j
  p = 100 - ln(1 + 100 |S_f| / |S_tr|),   gamma = 1

References:
  Selective Synaptic Dampening, arXiv 2308.07707, section 3.
  Corrective Machine Unlearning, arXiv 2402.14015, section 3.2 and appendix A.
  ASSD, Parameter-Tuning-Free Data Entry Error Unlearning, arXiv 2402.10098,
  section 3.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from cmu_jax.core import errors, rng
from cmu_jax.core.types import (
  Info,
  Method,
  Network,
  PRNGKey,
  Result,
  Samples,
  Variables,
)
from cmu_jax.methods import finetuning
from cmu_jax.methods.dampening import importance
from cmu_jax.training import descent

_DENOMINATORS = 'retain', 'full'
Number = float | Float[Array, '']
Point = dict[str, float]

_WEIGHTS = (0.1, 1.0, 10.0, 50.0, 100.0, 500.0, 1e3, 1e4, 1e5, 1e6)
_RATIOS = (0.1, 0.5, 1.0, 5.0, 10.0)
# The choice of the SSD paper, which is a point of the grid.
_DEFAULT = {'ssd_selection_weight': 10.0, 'ssd_dampening': 1.0}


def published_grid() -> tuple[Point, ...]:
  """The 50 points of arXiv 2402.14015: 10 weights a, 5 ratios gamma / a."""
  # Twelve digits undo the rounding of the product: points that are equal on
  # paper must be equal as floats for `distinct_points`.
  return tuple(
    {
      'ssd_selection_weight': weight,
      'ssd_dampening': float(f'{ratio * weight:.12g}'),
    }
    for weight in _WEIGHTS
    for ratio in _RATIOS
  )


def distinct_points(
  points: tuple[Point, ...],
) -> tuple[tuple[Point, ...], list[int]]:
  """Returns points with different results, and the position for each point.

  Args:
    points: of 'ssd_selection_weight' a and 'ssd_dampening' gamma, in absolute
      terms.
  """
  representatives: list[Point] = []
  positions = []
  for point in points:
    weight, dampening = point.values()
    # Where I_f / I_r lies between a and gamma the factor is 1. For gamma >= a
    # the point a = gamma is therefore equivalent.
    representative = point
    if dampening >= weight:
      representative = {
        'ssd_selection_weight': dampening,
        'ssd_dampening': dampening,
      }
    if representative not in representatives:
      representatives.append(representative)
    positions.append(representatives.index(representative))
  return tuple(representatives), positions


def default_grid() -> tuple[Point, ...]:
  """The 39 distinct points of the published grid; the SSD paper's is first."""
  points = distinct_points(published_grid())[0]
  # First, because the first point of a grid is the default of a method.
  return (_DEFAULT, *(point for point in points if point != _DEFAULT))


@jax.jit
def dampen(
  params: PyTree,
  importances: importance.Importances,
  weight: Number,
  dampening: Number,
) -> PyTree:
  """Dampens parameters (arXiv 2308.07707, equations 7 and 8).

  Args:
    importances: I_r and I_f.
    weight: a; a parameter is selected if I_f / I_r exceeds it, so infinity
      selects none.
    dampening: gamma, in absolute terms.

  Returns:
    Parameters. They stay where both importances are zero, and become zero
    where only I_r is.
  """

  def dampen_leaf(theta, retain, forget):
    selected = forget > weight * retain
    # Unselected entries may have I_f = 0: dividing by 1 there avoids 0 / 0.
    ratio = dampening * retain / jnp.where(selected, forget, 1)
    beta = jnp.minimum(ratio, 1)
    return jnp.where(selected, beta * theta, theta)

  return jax.tree.map(
    dampen_leaf, params, importances.retain, importances.forget
  )


@jax.jit
def _join_sets(
  retain: Samples, forget: Samples
) -> tuple[Samples, Bool[Array, 'n'], Bool[Array, 'n']]:
  """Joins two sets; returns the rows and the valid rows of either set."""
  rows = descent.join_samples(retain, forget)
  is_retain = jnp.arange(rows.valid.shape[0]) < retain.valid.shape[0]
  return rows, rows.valid & is_retain, rows.valid & ~is_retain


def compute_importances(
  key: PRNGKey,
  config: importance.ImportanceConfig,
  variables: Variables,
  data: Any,
  denominator: str = 'retain',
) -> importance.Importances:
  """Computes I_r and I_f of the samples that a method receives.

  Args:
    key: seeds the sample order and the augmentation.
    config: the importance and its network.
    data: its sets `retain` and `forget`.
    denominator: 'retain' takes I_r over S_tr without S_f, as the corrective
      benchmark does; 'full' over all of S_tr, as the SSD paper.

  Raises:
    UserError: the kind of importance or the denominator is unknown.
  """
  if denominator not in _DENOMINATORS:
    raise errors.unknown_name('denominator', denominator, _DENOMINATORS)
  # Both sets are masks of the same rows, so that one compilation serves both.
  rows, retain, forget = _join_sets(data.retain, data.forget)
  retain = rows.valid if denominator == 'full' else retain
  compute = lambda name, valid: importance.compute(
    rng.fold_in(key, name),
    config,
    variables,
    rows._replace(valid=valid),
    f'importances ({name})',
  )
  return importance.Importances(
    compute('retain', retain),
    compute('forget', forget),
    retain.sum() + forget.sum(),
  )


def dampening_method(
  config: importance.ImportanceConfig,
  denominator: str,
  prepare: Callable[[Variables, Any, importance.Importances], Any],
  solve: Callable[[Variables, Any, Any], tuple[PyTree, Info]],
  grid: tuple[Point, ...] | None = None,
) -> Method:
  """Makes a method that starts from importances of S_f and of the rest.

  Args:
    config: the importance and its network.
    denominator: 'retain' or 'full', see `compute_importances`.
    prepare: (variables, data, importances) -> the work that all points share.
    solve: (variables, prepared, hyper) -> (parameters, info).
    grid: hyperparameters; a whole grid must be one program. None for a method
      without hyperparameters.
  """

  def prepare_method(
    key,
    variables: Variables,
    data: Any,
    importances: importance.Importances | None = None,
  ) -> Any:
    # The corrective study passes importances that several methods share.
    if importances is None:
      importances = compute_importances(
        key, config, variables, data, denominator
      )
    return prepare(variables, data, importances)

  def solve_method(key, variables: Variables, data, prepared, hyper) -> Result:
    del key, data
    params, info = solve(variables, prepared, hyper)
    return variables._replace(params=params), info

  return Method(
    ('retain', 'forget'),
    prepare_method,
    solve_method,
    ({},) if grid is None else grid,
    elementwise=grid is not None,
    importances=importance.ImportanceRequest(config, denominator),
  )


@finetuning.check_settings
def ssd(
  network: Network,
  *,
  kind: str = 'batch',
  denominator: str = 'retain',
  batch_size: int = 512,
  augment: bool = True,
  grid: tuple[Point, ...] | None = None,
) -> Method:
  """Dampens the parameters that matter for S_f and little else.

  Args:
    kind: the importance; 'batch' is the published choice.
    denominator: 'retain' or 'full', see `compute_importances`.
    batch_size: samples in a batch; 512 in the benchmark.
    augment: whether images are augmented as in training.
    grid: points of 'ssd_selection_weight' (a) and 'ssd_dampening' (gamma, in
      absolute terms); None for the 39 distinct points of the benchmark.

  Returns:
    A method. Importances are prepared once for a whole grid; the gradient
    evaluations of a point include them, because one repair needs them.

  References:
    Corrective Machine Unlearning, arXiv 2402.14015, section 3.2: of its
    methods, SSD alone removes poison from the smallest identified fraction on,
    for 8.94 points of clean accuracy on CIFAR-10 (table 1).
  """
  config = importance.ImportanceConfig(network, kind, batch_size, augment)

  def solve(
    variables: Variables, prepared: importance.Importances, hyper: Any
  ) -> tuple[PyTree, Info]:
    params = dampen(
      variables.params,
      prepared,
      hyper['ssd_selection_weight'],
      hyper['ssd_dampening'],
    )
    return params, {'gradient_evaluations': prepared.cost}

  return dampening_method(
    config,
    denominator,
    lambda variables, data, importances: importances,
    solve,
    default_grid() if grid is None else grid,
  )


@jax.jit
def sorted_ratios(importances: importance.Importances) -> Float[Array, 'p']:
  """Returns I_f / I_r of all parameters in falling order.

  0 / 0 counts as 0, and an infinite ratio as the largest finite number.
  """

  def divide(retain, forget):
    ratio = forget / jnp.where(retain > 0, retain, 1)
    ratio = jnp.where((retain == 0) & (forget > 0), jnp.inf, ratio)
    # `percentile` interpolates: infinity times a weight of 0 would be NaN.
    return jnp.minimum(ratio, jnp.finfo(ratio.dtype).max).reshape(-1)

  ratios = jax.tree.map(divide, importances.retain, importances.forget)
  return -jnp.sort(-jnp.concatenate(jax.tree.leaves(ratios)))


@jax.jit
def percentile(
  falling: Float[Array, 'p'], share: Float[Array, '*s']
) -> Float[Array, '*s']:
  """Returns the percentile 100 - ln(1 + 100 share), linearly interpolated.

  Args:
    falling: numbers in falling order.
    share: of the samples, |S_f| / |S_tr| in ASSD.
  """
  lowest = falling.shape[0] - 1
  # Counted from the top: near the other end float32 cannot distinguish the
  # ranks of millions of parameters.
  position = jnp.clip(jnp.log1p(100 * share) / 100, 0, 1) * lowest
  above = jnp.floor(position).astype(jnp.int32)
  fraction = position - above
  below = jnp.minimum(above + 1, lowest)
  return (1 - fraction) * falling[above] + fraction * falling[below]


def forget_share(data: Any) -> Float[Array, '']:
  """Returns |S_f| / |S_tr|."""
  forget = data.forget.valid.sum()
  return forget / (forget + data.retain.valid.sum())


@finetuning.check_settings
def assd(
  network: Network,
  *,
  kind: str = 'batch',
  denominator: str = 'retain',
  batch_size: int = 512,
  augment: bool = True,
) -> Method:
  """SSD without hyperparameters; arguments as for `ssd`.

  References:
    arXiv 2402.10098, section 3; gamma = 1.
  """
  config = importance.ImportanceConfig(network, kind, batch_size, augment)

  def prepare(
    variables: Variables, data: Any, importances: importance.Importances
  ) -> tuple[importance.Importances, Float[Array, '']]:
    del variables
    ratios = sorted_ratios(importances)
    return importances, percentile(ratios, forget_share(data))

  def solve(
    variables: Variables, prepared: tuple, hyper: Any
  ) -> tuple[PyTree, Info]:
    del hyper
    importances, threshold = prepared
    # Nothing is vectorised over a grid here, so the host reads the numbers.
    return dampen(variables.params, importances, threshold, 1.0), {
      'gradient_evaluations': int(importances.cost),
      'threshold': float(threshold),
    }

  return dampening_method(config, denominator, prepare, solve)
