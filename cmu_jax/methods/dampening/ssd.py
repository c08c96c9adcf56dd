r"""SSD, selective synaptic dampening.

With importances I_r for what is kept and I_f for S_f (`importance`),

  theta_j <- min((gamma I_r,j / I_f,j)^e, 1) theta_j   where I_f,j > a I_r,j

and as it was elsewhere. Where gamma >= a the result does not depend on a: of
the 50 points of the published grid 39 differ. Biases and the affine part of
BatchNorm take part, running statistics do not.

References:
  Selective Synaptic Dampening, arXiv 2308.07707, section 3.
  Corrective Machine Unlearning, arXiv 2402.14015, section 3.2 and appendix A.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from cmu_jax.core import errors, rng
from cmu_jax.core.types import (
  Info,
  Method,
  Network,
  PRNGKey,
  Samples,
  Variables,
)
from cmu_jax.methods.dampening import importance
from cmu_jax.training import descent

_DENOMINATORS = 'retain', 'full'
Number = float | Float[Array, '']
Point = dict[str, float]

_WEIGHTS = (0.1, 1.0, 10.0, 50.0, 100.0, 500.0, 1e3, 1e4, 1e5, 1e6)
_RATIOS = (0.1, 0.5, 1.0, 5.0, 10.0)
# What the SSD paper settles on, and a point of the grid.
_DEFAULT = {'ssd_selection_weight': 10.0, 'ssd_dampening': 1.0}


def published_grid() -> tuple[Point, ...]:
  """The 50 points of arXiv 2402.14015: 10 weights a, 5 ratios gamma / a."""
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
  """Points whose results differ, and which of them each point equals.

  Args:
    points: of 'ssd_selection_weight' a and 'ssd_dampening' gamma, in absolute
      terms. From gamma >= a on, gamma alone counts, so that the point with
      a = gamma stands for all of them.
  """
  found: list[Point] = []
  positions = []
  for point in points:
    weight, dampening = point.values()
    same = {
      'ssd_selection_weight': max(weight, dampening),
      'ssd_dampening': dampening,
    }
    same = point if dampening < weight else same
    if same not in found:
      found.append(same)
    positions.append(found.index(same))
  return tuple(found), positions


def default_grid() -> tuple[Point, ...]:
  """The 39 distinct points of the published grid; the SSD paper's is first."""
  points = distinct_points(published_grid())[0]
  return (_DEFAULT, *(point for point in points if point != _DEFAULT))


@jax.jit
def dampen(
  params: PyTree,
  importances: importance.Importances,
  weight: Number,
  dampening: Number,
  exponent: Number = 1.0,
) -> PyTree:
  """Dampened parameters (arXiv 2308.07707, equations 7 and 8).

  Args:
    params: theta_o.
    importances: importances.
    weight: a, from which ratio I_f / I_r on a parameter is selected; infinity
      selects none.
    dampening: gamma, in absolute terms.
    exponent: e.

  Returns:
    Parameters. Where both importances are zero they stay; where only I_r is,
    they become zero.
  """

  def one(theta, kept, bad):
    selected = bad > weight * kept
    ratio = dampening * kept / jnp.where(selected, bad, 1)
    beta = jnp.minimum(ratio**exponent, 1)
    return jnp.where(selected, beta * theta, theta)

  return jax.tree.map(one, params, importances.retain, importances.forget)


@jax.jit
def _join_sets(retain: Samples, forget: Samples) -> tuple[Samples, Any, Any]:
  """All rows, and which valid ones are of the first and the second set."""
  rows = descent.join_samples(retain, forget)
  first = jnp.arange(rows.valid.shape[0]) < retain.valid.shape[0]
  return rows, rows.valid & first, rows.valid & ~first


def compute_importances(
  key: PRNGKey,
  config: importance.ImportanceConfig,
  variables: Variables,
  data: Any,
  denominator: str = 'retain',
) -> importance.Importances:
  """I_r and I_f of what a method was given.

  Args:
    key: of sample order and augmentation.
    config: which importance, of which network.
    variables: theta_o.
    data: its parts `retain` and `forget`.
    denominator: 'retain' takes I_r over S_tr without S_f, as the corrective
      benchmark does; 'full' over all of S_tr, as the SSD paper.

  Raises:
    UserError: an unknown kind of importance or denominator.
  """
  if denominator not in _DENOMINATORS:
    raise errors.unknown_name('denominator', denominator, _DENOMINATORS)
  # Both are parts of the same rows, so that one compilation serves both.
  rows, kept, bad = _join_sets(data.retain, data.forget)
  kept = rows.valid if denominator == 'full' else kept
  found = [
    importance.compute(
      rng.fold_in(key, name),
      config,
      variables,
      rows._replace(valid=valid),
      f'importances ({name})',
    )
    for name, valid in (('retain', kept), ('forget', bad))
  ]
  return importance.Importances(found[0], found[1], kept.sum() + bad.sum())


def ssd(
  network: Network,
  *,
  kind: str = 'batch',
  denominator: str = 'retain',
  batch_size: int = 512,
  augment: bool = True,
  exponent: float = 1.0,
  grid: tuple[Point, ...] | None = None,
) -> Method:
  """Dampens what matters for S_f and little else.

  Args:
    network: the model and its input step.
    kind: which importance; 'batch' is what was published.
    denominator: 'retain' or 'full', see `importances`.
    batch_size: samples a batch; 512 in the benchmark.
    augment: whether images are augmented as in training.
    exponent: e.
    grid: points of 'ssd_selection_weight' (a) and 'ssd_dampening' (gamma, in
      absolute terms); None for the 39 distinct ones of the benchmark.

  Returns:
    A method. Importances are prepared once for a whole grid; the gradient
    evaluations of a point are those of one repair, importances included.

  References:
    Corrective Machine Unlearning, arXiv 2402.14015, section 3.2: of its
    methods, the one that removes poison from the smallest identified fraction
    on, for 8.94 points of clean accuracy on CIFAR-10 (table 1).
  """
  measure = importance.ImportanceConfig(
    network.model, network.inputs, kind, batch_size, augment
  )

  def prepare(
    key,
    variables: Variables,
    given: Any,
    pair: importance.Importances | None = None,
  ) -> importance.Importances:
    if pair is not None:
      return pair
    return compute_importances(key, measure, variables, given, denominator)

  def solve(
    key,
    variables: Variables,
    given: Any,
    prepared: importance.Importances,
    hyper: Any,
  ) -> tuple[Variables, Info]:
    del key, given
    params = dampen(
      variables.params,
      prepared,
      hyper['ssd_selection_weight'],
      hyper['ssd_dampening'],
      exponent,
    )
    return variables._replace(params=params), {
      'gradient_evaluations': prepared.cost
    }

  points = default_grid() if grid is None else grid
  return Method(
    ('retain', 'forget'),
    prepare,
    solve,
    points,
    True,
    importances=importance.ImportanceRequest(measure, denominator),
  )
