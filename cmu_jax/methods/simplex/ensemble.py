"""`simplex_ensemble`: the mean output of infinitely many networks.

The author of `fn` chooses the averaged space: logits, probabilities or
features. The result names it.

On probabilities prefer 'cubature2', the default: it takes one forward pass a
vertex, has the order of a second-order expansion, and its weights are positive,
so that it always returns probabilities. 'taylor2' on probabilities is worse
than the plain centroid on a wide simplex, and may leave [0, 1]; a warning says
so at run time.

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
from cmu_jax.methods.simplex.geometry import TaskSimplex, frame
from cmu_jax.methods.task_vectors import leaves

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
SPACES = ('outputs', 'logits', 'probabilities', 'features')
# Measured on small networks: if logits spread wider than this, an expansion of
# probabilities can be further from their mean than the centroid itself.
WIDE_SPREAD = 0.5
_ROUNDING = 1e-5
# Squares of smaller probabilities leave the range of float32.
_TINY = 1e-15


class SimplexWarning(UserWarning):
  """A mean over a simplex is unreliable."""


@struct.dataclass
class Ensemble:
  """A mean output over a simplex, with its diagnostics.

  Attributes:
    value: the mean.
    variance: of every output over the simplex, to first order; a by-product of
      Taylor methods, else None.
    error: the standard error of Monte Carlo, else None.
    spread: of Taylor methods, to first order: the root mean square deviation
      over the simplex of the outputs; of probabilities that of their
      logarithms, as of logits, which should be well below 1.
    outside: probabilities: the share of entries outside of [0, 1], else None.
    space: the averaged space: 'outputs' (of `fn`, unspecified), 'logits',
      'probabilities' or 'features'.
    method: the rule.
    visits: points and directions at which the network ran.
  """

  value: PyTree
  variance: PyTree = None
  error: PyTree = None
  spread: Any = None
  outside: Any = None
  space: str = struct.field(pytree_node=False, default='outputs')
  method: str = struct.field(pytree_node=False, default='cubature2')
  visits: int = struct.field(pytree_node=False, default=1)


def simplex_ensemble(
  fn: Callable[..., PyTree],
  simplex: TaskSimplex,
  *args: Any,
  method: str = 'cubature2',
  space: str = 'outputs',
  key: PRNGKey | None = None,
  **options: Any,
) -> Ensemble:
  """Computes E fn(theta(w), *args) over the networks of a simplex.

  Stacked task vectors run as one program, which jit, vmap and grad may
  transform. Task vectors of a function are read one after another on the host.
  Each method passes over them twice; combinations, as of Monte Carlo or of a
  Helmert basis, read all of them each time. The device then holds about three
  times the parameters.

  Args:
    fn: (params, *args) -> outputs, pure and without dropout. If not all images
      fit into memory, call this once for each batch.
    simplex: base, task vectors, scale.
    *args: of the network, such as images.
    method: 'cubature2', 'cubature3', 'grundmann_moeller' (an odd `degree`),
      'taylor2' (`directions`: 'deviations', 'helmert' or a rank), 'taylor3',
      'tangent' (`fn` returns features, `head` maps them to outputs; `anchor`,
      `degree`), 'mc' and 'mc_cv' (`key`, `n`), 'centroid' or 'vertices'.
    space: outputs of `fn`: 'logits', 'probabilities' or 'features'.
    key: of Monte Carlo.
    **options: fields of `estimates.MethodOptions`.

  Raises:
    UserError: an unknown method, space or option, or an unfit simplex.
  """
  _check_arguments(method, space, key, options)
  method_options = estimates.MethodOptions(**options)
  simplex.validate()
  run = _estimate if callable(simplex.taus) else _estimate_stacked
  estimate = run(fn, simplex, key, args, method, method_options)
  return _attach_diagnostics(estimate, method, space)


def _check_arguments(
  method: str, space: str, key: Any, options: dict[str, Any]
) -> None:
  if method not in METHODS:
    raise errors.unknown_name('simplex method', method, METHODS)
  if space not in SPACES:
    raise errors.unknown_name('space', space, SPACES)
  # `MethodOptions(**options)` would raise a TypeError without a suggestion.
  for name in options:
    if name not in estimates.MethodOptions._fields:
      raise errors.unknown_name('option', name, estimates.MethodOptions._fields)
  errors.check(
    key is not None or method not in ('mc', 'mc_cv'),
    f"method '{method}' draws networks; give it a key",
  )
  # One sample has no standard error.
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
  """Runs a method; traced for stacked vectors, on the host for a stream."""
  anchor = options.anchor if method == 'tangent' else 'centroid'
  centred = frame(simplex, anchor)
  rule = cubature.line_rule(method, centred.total)
  if method == 'tangent':
    errors.check(
      simplex.alpha is None or options.head is None,
      "the head's mean under 'tangent' is that of the uniform simplex; leave "
      'alpha out',
    )
    return estimates.tangent(centred, fn, args, options)
  # All rules agree on a single vertex; some of their formulas divide by zero.
  if method == 'centroid' or simplex.q == 1:
    return estimates.centroid(centred, fn, args)
  if rule is not None:
    return estimates.along_lines(centred, fn, args, rule)
  if method in ('taylor2', 'taylor3'):
    order = int(method[-1])
    return estimates.taylor(centred, fn, args, order, options, simplex.gram)
  if method in ('mc', 'mc_cv'):
    rows = simplex.sample(key, options.n)
    return estimates.monte_carlo(centred, fn, args, rows, method == 'mc_cv')
  errors.check(
    simplex.alpha is None,
    f"'{method}' is a rule for the uniform simplex; leave alpha out or use "
    "'cubature2'",
  )
  nodes, weights = cubature.simplex_weights(
    simplex.q, 'grundmann_moeller', options.degree
  )
  return estimates.at_nodes(centred, fn, args, nodes, weights)


# Static parts are hashable, so that all simplices of a network share one
# compilation; arrays arrive as arguments.
@functools.lru_cache(maxsize=64)
def _compile(
  fn: Callable,
  skeletons: tuple[leaves.Skeleton, leaves.Skeleton],
  method: str,
  options: estimates.MethodOptions,
) -> Callable:
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


def _single_array(outputs: PyTree) -> Any:
  """The outputs if they are one array, else None."""
  arrays = jax.tree.leaves(outputs)
  return arrays[0] if len(arrays) == 1 and arrays[0].ndim else None


def _look_like_probabilities(centre: Any) -> bool:
  """Checks that outputs are rows that sum to 1; False while traced."""
  if centre is None or isinstance(centre, jax.core.Tracer):
    return False
  rows = np.asarray(centre)
  sums = np.abs(rows.sum(-1) - 1).max(initial=0)
  return bool(rows.shape[-1] > 1 and rows.min(initial=1) >= 0 and sums < 1e-3)


def _attach_diagnostics(
  estimate: estimates.MeanEstimate, method: str, space: str
) -> Ensemble:
  """Adds spread and outside to an estimate; warns if it is unreliable."""
  value, centre = _single_array(estimate.value), _single_array(estimate.centre)
  variance = _single_array(estimate.variance)
  # A user who names no space may still average probabilities.
  probabilities = space == 'probabilities' or (
    space == 'outputs' and _look_like_probabilities(centre)
  )
  outside = spread = None
  if probabilities and value is not None:
    wrong = (value < -_ROUNDING) | (value > 1 + _ROUNDING)
    outside = jnp.mean(wrong.astype(jnp.float32))
  if variance is not None:
    spread = jnp.sqrt(jnp.mean(variance))
    if probabilities:
      # Var(log p) is about Var(p) / p^2: comparable with the spread of logits.
      is_positive = centre > _TINY
      relative = variance / jnp.square(jnp.where(is_positive, centre, 1))
      count = jnp.maximum(jnp.sum(is_positive), 1)
      spread = jnp.sqrt(jnp.sum(jnp.where(is_positive, relative, 0)) / count)
  if probabilities:
    _warn_if_unreliable(method, spread, outside)
  return Ensemble(
    estimate.value,
    estimate.variance,
    estimate.error,
    spread,
    outside,
    space,
    method,
    estimate.visits,
  )


def _warn_if_unreliable(method: str, spread: Any, outside: Any) -> None:
  # Inside of jit the values are unknown; the fields of the result remain.
  is_known = lambda x: x is not None and not isinstance(x, jax.core.Tracer)
  if is_known(spread) and float(spread) > WIDE_SPREAD:
    warnings.warn(
      f'{method} on probabilities whose logits vary by {float(spread):.2f} '
      f'over the simplex (over {WIDE_SPREAD}): it may be worse than the '
      "centroid; average logits, or use 'cubature2'",
      SimplexWarning,
      stacklevel=4,
    )
  if is_known(outside) and float(outside) > 0:
    warnings.warn(
      f'{method}: {100 * float(outside):.2g} % of the mean probabilities are '
      "outside of [0, 1]; use 'cubature2', whose weights are positive",
      SimplexWarning,
      stacklevel=4,
    )
