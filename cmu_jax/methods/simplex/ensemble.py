"""How far to trust a mean over a simplex: what is said of it, and warned of.

`simplex_ensemble`: the mean output of infinitely many networks.

Which space is averaged is the choice of whoever writes `fn`: logits,
probabilities or features. The result says which one it was.

On probabilities prefer 'cubature2', the default: it takes one forward pass a
vertex, has the order of a second-order expansion, and its weights are positive,
so that it always returns probabilities. 'taylor2' on probabilities is worse
than the plain centroid where the simplex is wide, and may leave [0, 1]; a
warning says so at run time.

References:
  Machine Unlearning via Task Simplex Arithmetic (NeurIPS 2025) proposes the
  ensemble. Its formula is not public: the closed forms here are ours.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import PyTree

from cmu_jax.core import errors
from cmu_jax.core.types import PRNGKey
from cmu_jax.methods.simplex import cubature, estimates
from cmu_jax.methods.simplex.estimates import MeanEstimate
from cmu_jax.methods.simplex.geometry import TaskSimplex, frame
from cmu_jax.methods.task_vectors import leaves

SPACES = ('outputs', 'logits', 'probabilities', 'features')
# Measured on small networks: with logits spread wider than this an expansion of
# probabilities can be further from their mean than the centroid itself.
WIDE_SPREAD = 0.5
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


def _single_array(outputs: PyTree) -> Any:
  """The outputs if they are one array, else None."""
  found = jax.tree.leaves(outputs)
  return found[0] if len(found) == 1 and found[0].ndim else None


def _look_like_probabilities(middle: Any) -> bool:
  """Whether outputs look like rows of probabilities; False while traced."""
  if middle is None or isinstance(middle, jax.core.Tracer):
    return False
  rows = np.asarray(middle)
  sums = np.abs(rows.sum(-1) - 1).max(initial=0)
  return bool(rows.shape[-1] > 1 and rows.min(initial=1) >= 0 and sums < 1e-3)


def _attach_diagnostics(
  found: MeanEstimate, method: str, space: str
) -> Ensemble:
  """The result with its diagnostics; warns of what is known already.

  Args:
    found: the estimate; inside of a transformation nothing is known of it.
    method: its name.
    space: what was averaged, of SPACES.
  """
  value, middle = _single_array(found.value), _single_array(found.centre)
  variance = _single_array(found.variance)
  chances = space == 'probabilities' or (
    space == 'outputs' and _look_like_probabilities(middle)
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
    _warn_if_unreliable(method, spread, outside)
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


def _warn_if_unreliable(method: str, spread: Any, outside: Any) -> None:
  known = lambda x: x is not None and not isinstance(x, jax.core.Tracer)
  if known(spread) and float(spread) > WIDE_SPREAD:
    warnings.warn(
      f'{method} on probabilities whose logits vary by {float(spread):.2f} '
      f'over the simplex (over {WIDE_SPREAD}): it may be worse than the '
      f'centroid; '
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


METHODS = (
  'cubature2',
  'taylor2',
  'taylor3',
  'cubature3',
  'grundmann_moeller',
  'tangent',
  'centroid',
  'vertices',
  'mc',
  'mc_cv',
)


def simplex_ensemble(
  fn: Callable[..., PyTree],
  simplex: TaskSimplex,
  *args: Any,
  method: str = 'cubature2',
  space: str = 'outputs',
  key: PRNGKey | None = None,
  **options: Any,
) -> Ensemble:
  """E fn(theta(w), *args) over the networks of a simplex.

  Stacked task vectors: one program, which may be transformed by jit, vmap and
  grad. Task vectors of a function: read one after another on the host (each
  method passes over them twice; combinations, as Monte Carlo or a Helmert basis
  take, read all of them for each), with about three times the parameters on
  the device at once.

  Args:
    fn: (params, *args) -> outputs, pure and without dropout. For images too
      many to be seen at once call this for each batch of them.
    simplex: base, task vectors, scale.
    *args: of the network, such as images.
    method: 'cubature2', 'cubature3', 'grundmann_moeller' (an odd `degree`),
      'taylor2' (`directions`: 'deviations', 'helmert' or a rank; `backend`:
      'jvp' or 'jet'), 'taylor3', 'tangent' (`fn` returns features, `head` maps
      them to outputs; `anchor`, `degree`), 'mc' and 'mc_cv' (`key`, `n`),
      'centroid' or 'vertices'.
    space: what `fn` returns: 'logits', 'probabilities' or 'features'.
    key: of Monte Carlo.
    **options: fields of `estimates.MethodOptions`.

  Raises:
    UserError: an unknown method, space or option, or an unfit simplex.
  """
  _check_arguments(method, space, key, options)
  chosen = estimates.MethodOptions(**options)
  simplex.validate()
  if callable(simplex.taus):
    found = _estimate(fn, simplex, key, args, method, chosen)
  else:
    found = _estimate_stacked(fn, simplex, key, args, method, chosen)
  return _attach_diagnostics(found, method, space)


def _check_arguments(
  method: str, space: str, key: Any, options: dict[str, Any]
) -> None:
  if method not in METHODS:
    raise errors.unknown_name('simplex method', method, METHODS)
  if space not in SPACES:
    raise errors.unknown_name('space', space, SPACES)
  for name in options:
    if name not in estimates.MethodOptions._fields:
      raise errors.unknown_name('option', name, estimates.MethodOptions._fields)
  errors.check(
    key is not None or method not in ('mc', 'mc_cv'),
    f"method '{method}' draws networks; give it a key",
  )
  errors.check(
    options.get('n', 2) >= 2, 'Monte Carlo needs n of 2 samples or more'
  )
  anchor = options.get('anchor', 'centroid')
  if anchor not in ('centroid', 'base'):
    raise errors.unknown_name('anchor', anchor, ('centroid', 'base'))


def _estimate(
  fn: Callable,
  simplex: TaskSimplex,
  key: Any,
  args: tuple,
  method: str,
  options: estimates.MethodOptions,
) -> estimates.MeanEstimate:
  """One method; stacked vectors: traced, a stream: one call a vertex."""
  one = frame(simplex, options.anchor if method == 'tangent' else 'centroid')
  rule = cubature.line_rule(method, one.total)
  if method == 'tangent':
    errors.check(
      simplex.alpha is None or options.head is None,
      "the head's mean under 'tangent' is that of the uniform simplex; leave "
      'alpha out',
    )
    return estimates.tangent(one, fn, args, options)
  if method == 'centroid' or simplex.q == 1:
    return estimates.centroid(one, fn, args)
  if rule is not None:
    return estimates.along_lines(one, fn, args, rule)
  if method in ('taylor2', 'taylor3'):
    order = int(method[-1])
    return estimates.taylor(one, fn, args, order, options, simplex.gram)
  if method in ('mc', 'mc_cv'):
    rows = simplex.sample(key, options.n)
    return estimates.monte_carlo(one, fn, args, rows, method == 'mc_cv')
  errors.check(
    simplex.alpha is None,
    f"'{method}' is a rule for the uniform simplex; leave alpha out or use "
    "'cubature2'",
  )
  nodes, weights = cubature.simplex_weights(
    simplex.q, 'grundmann_moeller', options.degree
  )
  return estimates.at_nodes(one, fn, args, nodes, weights)


@functools.lru_cache(maxsize=64)
def _compile(
  fn: Callable,
  skeletons: tuple[leaves.Skeleton, leaves.Skeleton],
  method: str,
  options: estimates.MethodOptions,
) -> Callable:
  """A whole method as one program, made once for a network."""

  def run(base, taus, scale, alpha, key, args):
    simplex = TaskSimplex(
      leaves.join(skeletons[0], *base),
      leaves.join(skeletons[1], *taus),
      scale,
      alpha,
    )
    return _estimate(fn, simplex, key, args, method, options)

  return jax.jit(run)


def _estimate_stacked(
  fn: Callable,
  simplex: TaskSimplex,
  key: Any,
  args: tuple,
  method: str,
  options: estimates.MethodOptions,
) -> estimates.MeanEstimate:
  base, taus = leaves.split(simplex.base), leaves.split(simplex.taus)
  run = _compile(fn, (base.skeleton, taus.skeleton), method, options)
  return run(base[:2], taus[:2], simplex.scale, simplex.alpha, key, args)
