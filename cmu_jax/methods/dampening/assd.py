r"""ASSD: SSD with its threshold taken from the sizes of the sets.

  a = percentile p of I_f,j / I_r,j over all parameters j
  p = 100 - ln(1 + 100 |S_f| / |S_tr|),   gamma = 1

No hyperparameter is tuned: the larger S_f, the more parameters are dampened.

References:
  Parameter-Tuning-Free Data Entry Error Unlearning with Adaptive Selective
  Synaptic Dampening, arXiv 2402.10098, section 3.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from cmu_jax.core.types import Info, Method, Network, Variables
from cmu_jax.methods.dampening import importance, ssd


class PreparedThreshold(NamedTuple):
  """The shared work of a repair.

  Attributes:
    importances: I_r and I_f.
    threshold: a.
  """

  importances: importance.Importances
  threshold: Float[Array, '']


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


def assd(
  network: Network,
  *,
  kind: str = 'batch',
  denominator: str = 'retain',
  batch_size: int = 512,
  augment: bool = True,
) -> Method:
  """SSD without hyperparameters; arguments as for `ssd.ssd`.

  References:
    arXiv 2402.10098, section 3; gamma = 1.
  """
  config = importance.ImportanceConfig(network, kind, batch_size, augment)

  def prepare(
    variables: Variables, data: Any, importances: importance.Importances
  ) -> PreparedThreshold:
    del variables
    ratios = sorted_ratios(importances)
    threshold = percentile(ratios, forget_share(data))
    return PreparedThreshold(importances, threshold)

  def solve(
    variables: Variables, prepared: PreparedThreshold, hyper: Any
  ) -> tuple[PyTree, Info]:
    del hyper
    importances, threshold = prepared
    # Nothing is vectorised over a grid here, so the host reads the numbers.
    return ssd.dampen(variables.params, importances, threshold, 1.0), {
      'gradient_evaluations': int(importances.cost),
      'threshold': float(threshold),
    }

  return ssd.dampening_method(config, denominator, prepare, solve)
