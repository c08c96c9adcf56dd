"""`simplex_ensemble`: the mean output of infinitely many networks.

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
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import PyTree

from cmu_jax.core import errors
from cmu_jax.core.types import PRNGKey
from cmu_jax.methods.simplex import cubature, diagnosis, estimates
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


def simplex_ensemble(
  fn: Callable[..., PyTree],
  simplex: TaskSimplex,
  *args: Any,
  method: str = 'cubature2',
  space: str = 'outputs',
  key: PRNGKey | None = None,
  **options: Any,
) -> diagnosis.Ensemble:
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
    **options: fields of `estimates.Options`.

  Raises:
    UserError: an unknown method, space or option, or an unfit simplex.
  """
  _check(method, space, key, options)
  chosen = estimates.Options(**options)
  simplex.checked()
  if callable(simplex.taus):
    found = _run(fn, simplex, key, args, method, chosen)
  else:
    found = _whole(fn, simplex, key, args, method, chosen)
  return diagnosis.judged(found, method, space)


def _check(method: str, space: str, key: Any, options: dict[str, Any]) -> None:
  if method not in METHODS:
    raise errors.unknown('simplex method', method, METHODS)
  if space not in diagnosis.SPACES:
    raise errors.unknown('space', space, diagnosis.SPACES)
  for name in options:
    if name not in estimates.Options._fields:
      raise errors.unknown('option', name, estimates.Options._fields)
  errors.check(
    key is not None or method not in ('mc', 'mc_cv'),
    f"method '{method}' draws networks; give it a key",
  )
  errors.check(
    options.get('n', 2) >= 2, 'Monte Carlo needs n of 2 samples or more'
  )
  anchor = options.get('anchor', 'centroid')
  if anchor not in ('centroid', 'base'):
    raise errors.unknown('anchor', anchor, ('centroid', 'base'))


def _run(
  fn: Callable,
  simplex: TaskSimplex,
  key: Any,
  args: tuple,
  method: str,
  options: estimates.Options,
) -> estimates.Estimate:
  """One method; stacked vectors: traced, a stream: one call a vertex."""
  one = frame(simplex, options.anchor if method == 'tangent' else 'centroid')
  rule = cubature.on_lines(method, one.total)
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
    return estimates.on_lines(one, fn, args, rule)
  if method in ('taylor2', 'taylor3'):
    order = int(method[-1])
    return estimates.taylor(one, fn, args, order, options, simplex.gram)
  if method in ('mc', 'mc_cv'):
    rows = simplex.sample(key, options.n)
    return estimates.sampled(one, fn, args, rows, method == 'mc_cv')
  errors.check(
    simplex.alpha is None,
    f"'{method}' is a rule for the uniform simplex; leave alpha out or use "
    "'cubature2'",
  )
  nodes, weights = cubature.simplex_weights(
    simplex.q, 'grundmann_moeller', options.degree
  )
  return estimates.by_nodes(one, fn, args, nodes, weights)


@functools.lru_cache(maxsize=64)
def _program(
  fn: Callable,
  skeletons: tuple[leaves.Skeleton, leaves.Skeleton],
  method: str,
  options: estimates.Options,
) -> Callable:
  """A whole method as one program, made once for a network."""

  def run(base, taus, scale, alpha, key, args):
    simplex = TaskSimplex(
      leaves.joined(skeletons[0], *base),
      leaves.joined(skeletons[1], *taus),
      scale,
      alpha,
    )
    return _run(fn, simplex, key, args, method, options)

  return jax.jit(run)


def _whole(
  fn: Callable,
  simplex: TaskSimplex,
  key: Any,
  args: tuple,
  method: str,
  options: estimates.Options,
) -> estimates.Estimate:
  base, taus = leaves.split(simplex.base), leaves.split(simplex.taus)
  run = _program(fn, (base.skeleton, taus.skeleton), method, options)
  return run(base[:2], taus[:2], simplex.scale, simplex.alpha, key, args)
