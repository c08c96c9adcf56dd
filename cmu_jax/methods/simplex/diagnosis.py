"""How far to trust a mean over a simplex: what is said of it, and warned of."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import PyTree

from cmu_jax.methods.simplex.estimates import Estimate

SPACES = ('outputs', 'logits', 'probabilities', 'features')
# Measured on small networks: with logits spread wider than this an expansion of
# probabilities can be further from their mean than the centroid itself.
WIDE = 0.5
_ROUNDING = 1e-5
# Squares of smaller probabilities leave the range of float32.
_TINY = 1e-15


class SimplexWarning(UserWarning):
  """A mean over a simplex that should not be trusted."""


@struct.dataclass
class Ensemble:
  """A mean output over a simplex, and how far to trust it.

  Attributes:
    value: the mean.
    variance: of every output over the simplex, to first order; where the
      method has it for nothing (Taylor), else None.
    error: the standard error of Monte Carlo, else None.
    spread: of Taylor methods, to first order: the root mean square deviation
      over the simplex of the outputs; of probabilities that of their
      logarithms, as logits have it, which should be well below 1.
    outside: probabilities: the share of entries outside of [0, 1], else None.
    space: what was averaged: 'outputs' (of `fn`, not said further), 'logits',
      'probabilities' or 'features'.
    method: by which rule.
    visits: points and directions the network was run at.
  """

  value: PyTree
  variance: PyTree = None
  error: PyTree = None
  spread: Any = None
  outside: Any = None
  space: str = struct.field(pytree_node=False, default='outputs')
  method: str = struct.field(pytree_node=False, default='cubature2')
  visits: int = struct.field(pytree_node=False, default=1)


def _array(outputs: PyTree) -> Any:
  """The outputs if they are one array, else None."""
  found = jax.tree.leaves(outputs)
  return found[0] if len(found) == 1 and found[0].ndim else None


def _probable(middle: Any) -> bool:
  """Whether outputs look like rows of probabilities; False while traced."""
  if middle is None or isinstance(middle, jax.core.Tracer):
    return False
  rows = np.asarray(middle)
  sums = np.abs(rows.sum(-1) - 1).max(initial=0)
  return bool(rows.shape[-1] > 1 and rows.min(initial=1) >= 0 and sums < 1e-3)


def judged(found: Estimate, method: str, space: str) -> Ensemble:
  """The result with its diagnostics; warns of what is known already.

  Args:
    found: the estimate; inside of a transformation nothing is known of it.
    method: its name.
    space: what was averaged, of SPACES.
  """
  value, middle = _array(found.value), _array(found.centre)
  variance = _array(found.variance)
  chances = space == 'probabilities' or (
    space == 'outputs' and _probable(middle)
  )
  outside = spread = None
  if chances and value is not None:
    wrong = (value < -_ROUNDING) | (value > 1 + _ROUNDING)
    outside = jnp.mean(wrong.astype(jnp.float32))
  if variance is not None:
    spread = jnp.sqrt(jnp.mean(variance))
    if chances:
      seen = middle > _TINY
      relative = variance / jnp.square(jnp.where(seen, middle, 1))
      count = jnp.maximum(jnp.sum(seen), 1)
      spread = jnp.sqrt(jnp.sum(jnp.where(seen, relative, 0)) / count)
  if chances:
    _warn(method, spread, outside)
  return Ensemble(
    found.value,
    found.variance,
    found.error,
    spread,
    outside,
    space,
    method,
    found.visits,
  )


def _warn(method: str, spread: Any, outside: Any) -> None:
  known = lambda x: x is not None and not isinstance(x, jax.core.Tracer)
  if known(spread) and float(spread) > WIDE:
    warnings.warn(
      f'{method} on probabilities whose logits vary by {float(spread):.2f} '
      f'over the simplex (over {WIDE}): it may be worse than the centroid; '
      "average logits, or use 'cubature2'",
      SimplexWarning,
      stacklevel=4,
    )
  if known(outside) and float(outside) > 0:
    warnings.warn(
      f'{method}: {100 * float(outside):.2g} % of the mean probabilities are '
      "outside of [0, 1]; use 'cubature2', whose weights are positive",
      SimplexWarning,
      stacklevel=4,
    )
