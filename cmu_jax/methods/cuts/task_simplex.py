r"""CUTS whose S task vectors span a simplex, instead of being averaged.

  tau_s   = theta_s - theta_mix          one for each draw of the proxy
  answer  = E_w softmax f(theta_mix - alpha sum_s w_s tau_s),  w uniform

CUTS answers with the centroid, the one network at w_s = 1 / S. The mean over
the simplex is taken by `cubature2`: the probabilities of S networks, each drawn
from its corner towards the centroid by 1 / sqrt(S + 1), are averaged. This
closed form is ours. It takes S forward passes and there is no single network
with these predictions.

References:
  Subtract the Corruption (arXiv 2511.18660, 2025);
  Machine Unlearning via Task Simplex Arithmetic (NeurIPS 2025).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from cmu_jax.core import jit, rng, tree, vectorize
from cmu_jax.core.types import (
  Info,
  Method,
  Model,
  Network,
  Training,
  Variables,
)
from cmu_jax.methods import objectives, simplex
from cmu_jax.methods.cuts import forget_proxy
from cmu_jax.training import descent


def _ensemble_members(
  frozen: tuple[str, ...], variables: Variables, tuned: PyTree, alpha: Any
) -> Variables:
  count = jax.tree.leaves(tuned)[0].shape[0]
  eligible = tree.edit_predicate(variables, frozen)
  start = variables.params
  taus = jax.vmap(lambda end: tree.task_vector(start, end, eligible))(tuned)
  spanned = simplex.TaskSimplex(start, taus, alpha)
  nodes = jnp.asarray(simplex.simplex_weights(count)[0], jnp.float32)
  repeated = jax.tree.map(
    lambda x: jnp.broadcast_to(x, (count, *x.shape)), variables.batch_stats
  )
  return Variables(jax.lax.map(spanned.point, nodes), repeated)


@functools.lru_cache(maxsize=16)
def _members_program(frozen: tuple[str, ...]) -> Any:
  return jit.compile_cheaply(functools.partial(_ensemble_members, frozen))


def members(
  variables: Variables,
  tuned: Variables,
  alpha: float,
  frozen: tuple[str, ...] = (),
) -> Variables:
  """The S networks whose probabilities are averaged, along a leading axis.

  Args:
    variables: theta_mix.
    tuned: theta_s, stacked, as `algorithm.fine_tune_draws` returns them.
    alpha: the coefficient of CUTS.
    frozen: top-level parameter names that the task vectors leave out.

  Returns:
    Parameters at the nodes of `cubature2`, BatchNorm as in theta_mix.
  """
  return _members_program(frozen)(variables, tuned.params, alpha)


@functools.lru_cache(maxsize=16)
def ensemble_model(model: Model) -> Model:
  """A network of stacked variables: log of the mean of their probabilities.

  Only `apply` takes stacked variables.

  Args:
    model: of one member.
  """

  def apply(stacked: Variables, image: jax.Array) -> jax.Array:
    def one(variables: Variables) -> jax.Array:
      logits = model.apply(variables, image).astype(jnp.float32)
      return jax.nn.log_softmax(logits, axis=-1)

    rows = vectorize.map_members(one)(stacked)
    return jax.nn.logsumexp(rows, axis=0) - jnp.log(rows.shape[0])

  return model._replace(apply=apply, stem=None, trunk=None)


def cuts_simplex(
  network: Network,
  training: Training,
  *,
  draws: int = 3,
  frozen: tuple[str, ...] = (),
) -> Method:
  """The same with S_f as the proxy, for the benchmark of bad samples.

  S_f keeps its labels, so that the fine-tunings differ in sample order and
  augmentation only.

  Args:
    network: the model and its input step.
    training: optimizer, steps and batch size.
    draws: S, how many fine-tunings.
    frozen: top-level parameter names that the task vectors leave out.

  Returns:
    The method; it answers with S networks together, see `pooled`.
  """
  phase = descent.Phase(
    objectives.cross_entropy(network.model, 'forget'),
    (('forget', training.batch_size),),
  )
  recipe = descent.Recipe((phase,), training.optimizer, network.inputs)

  def prepare(key: Any, variables: Variables, given: Any) -> dict[str, Any]:
    found = [
      descent.descend(
        rng.fold_in(key, draw),
        recipe,
        variables,
        {'forget': given.forget},
        training.steps,
        title=f'fine-tuning on S_f, {draw + 1} of {draws}',
      )
      for draw in range(draws)
    ]
    return {
      'tuned': tree.stack([tuned.params for tuned, _ in found]),
      'cost': sum(cost for _, cost in found),
    }

  def at(
    key: Any, variables: Variables, given: Any, prepared: Any, hyper: Any
  ) -> tuple[Variables, Info]:
    del key, given
    c = hyper['cuts_coefficient']
    info = {'gradient_evaluations': prepared['cost'], 'cuts_coefficient': c}
    return _ensemble_members(frozen, variables, prepared['tuned'], c), info

  grid = forget_proxy.coefficient_grid()
  return Method(
    ('forget',), prepare, at, grid, True, ensemble_model(network.model)
  )
