r"""ASSD: SSD with its threshold taken from the sizes of the sets.

  a = percentile p of I_f,j / I_r,j over all parameters j
  p = 100 - ln(1 + 100 |S_f| / |S_tr|),   gamma = 1

so that nothing is tuned: the larger S_f, the more parameters are dampened.

References:
  Parameter-Tuning-Free Data Entry Error Unlearning with Adaptive Selective
  Synaptic Dampening, arXiv 2402.10098, section 3.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cmu_jax.core.types import (
  Info,
  Method,
  Network,
  Variables,
)
from cmu_jax.methods.dampening import importance, ssd


class PreparedThreshold(NamedTuple):
  """What a repair needs.

  Attributes:
    pair: importances.
    threshold: a.
  """

  importances: importance.Importances
  threshold: Float[Array, '']


@jax.jit
def sorted_ratios(importances: importance.Importances) -> Float[Array, 'p']:
  """I_f / I_r of all parameters, falling.

  0 / 0 counts as 0, and what is infinite as the largest number there is.
  """

  def one(kept, bad):
    ratio = bad / jnp.where(kept > 0, kept, 1)
    ratio = jnp.where((kept == 0) & (bad > 0), jnp.inf, ratio)
    return jnp.minimum(ratio, jnp.finfo(ratio.dtype).max).reshape(-1)

  found = jax.tree.leaves(
    jax.tree.map(one, importances.retain, importances.forget)
  )
  return -jnp.sort(-jnp.concatenate(found))


@jax.jit
def percentile(
  falling: Float[Array, 'p'], share: Float[Array, '*s']
) -> Float[Array, '*s']:
  """The percentile 100 - ln(1 + 100 share), linearly interpolated.

  Its place is counted from the top, where float32 still tells the ranks of
  millions of parameters apart.

  Args:
    falling: numbers in falling order.
    share: of the samples, |S_f| / |S_tr| in ASSD.
  """
  last = falling.shape[0] - 1
  place = jnp.clip(jnp.log1p(100 * share) / 100, 0, 1) * last
  above = jnp.floor(place).astype(jnp.int32)
  rest = place - above
  below = jnp.minimum(above + 1, last)
  return (1 - rest) * falling[above] + rest * falling[below]


def forget_share(data: Any) -> Float[Array, '']:
  """|S_f| / |S_tr|."""
  bad = data.forget.valid.sum()
  return bad / (bad + data.retain.valid.sum())


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
  measure = importance.ImportanceConfig(
    network.model, network.inputs, kind, batch_size, augment
  )

  def prepare(
    key,
    variables: Variables,
    given: Any,
    pair: importance.Importances | None = None,
  ) -> PreparedThreshold:
    if pair is None:
      pair = ssd.compute_importances(
        key, measure, variables, given, denominator
      )
    return PreparedThreshold(
      pair, percentile(sorted_ratios(pair), forget_share(given))
    )

  def solve(
    key,
    variables: Variables,
    given: Any,
    prepared: PreparedThreshold,
    hyper: Any,
  ) -> tuple[Variables, Info]:
    del key, given, hyper
    params = ssd.dampen(
      variables.params, prepared.importances, prepared.threshold, 1.0
    )
    return variables._replace(params=params), {
      'gradient_evaluations': int(prepared.importances.cost),
      'threshold': float(prepared.threshold),
    }

  return Method(
    ('retain', 'forget'),
    prepare,
    solve,
    importances=importance.ImportanceRequest(measure, denominator),
  )
