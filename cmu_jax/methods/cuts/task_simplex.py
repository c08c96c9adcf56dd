r"""CUTS whose S task vectors span a simplex, instead of being averaged.

  tau_s   = theta_s - theta_mix          one for each draw of the proxy
  answer  = E_w softmax f(theta_mix - alpha sum_s w_s tau_s),  w uniform

CUTS answers with the centroid, the one network at w_s = 1 / S. The mean over
the simplex is taken by `cubature2`: it averages the probabilities of S
networks, each drawn from its corner towards the centroid by 1 / sqrt(S + 1).
This closed form is ours. It takes S forward passes, and no single network has
these predictions.

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
  Method,
  Model,
  Network,
  Result,
  Training,
  Variables,
)
from cmu_jax.methods import finetuning, simplex
from cmu_jax.methods.cuts import forget_proxy


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
  # One member after another: side by side, their products w_s tau_s would take
  # S times the memory of all taus.
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
    tuned: theta_s, stacked, as `algorithm.fine_tune_draws` returns them.
    alpha: the coefficient of CUTS.
    frozen: top-level parameter names that the task vectors leave out.

  Returns:
    Parameters at the nodes of `cubature2`, BatchNorm as in theta_mix.
  """
  return _members_program(frozen)(variables, tuned.params, alpha)


# One object a network, so that compilations are shared.
@functools.lru_cache(maxsize=16)
def ensemble_model(model: Model) -> Model:
  """A network of stacked variables: log of the mean of their probabilities.

  Only `apply` takes stacked variables.
  """

  def apply(stacked: Variables, image: jax.Array) -> jax.Array:
    def member_log_probabilities(variables: Variables) -> jax.Array:
      logits = model.apply(variables, image).astype(jnp.float32)
      return jax.nn.log_softmax(logits, axis=-1)

    rows = vectorize.map_members(member_log_probabilities)(stacked)
    # In logarithms, a class that no member believes in stays finite.
    return jax.nn.logsumexp(rows, axis=0) - jnp.log(rows.shape[0])

  return model._replace(apply=apply, stem=None, trunk=None)


@finetuning.check_settings
def cuts_simplex(
  network: Network,
  training: Training,
  *,
  draws: int = 3,
  frozen: tuple[str, ...] = (),
) -> Method:
  """CUTS with S_f as the proxy, and several fine-tunings as the corners.

  Args:
    training: of each fine-tuning on S_f.
    draws: S, the number of fine-tunings.
    frozen: top-level parameter names that the task vectors leave out.

  Returns:
    The method; it answers with S networks together, see `ensemble_model`.
  """
  fine_tune = forget_proxy.fine_tuner(network, training)

  def prepare(key: Any, variables: Variables, data: Any) -> dict[str, Any]:
    # S_f keeps its labels, so that the fine-tunings differ in sample order and
    # augmentation only.
    results = [
      fine_tune(
        rng.fold_in(key, draw),
        variables,
        data.forget,
        f'fine-tuning on S_f, {draw + 1} of {draws}',
      )
      for draw in range(draws)
    ]
    return {
      'tuned': tree.stack([tuned.params for tuned, _ in results]),
      'cost': sum(cost for _, cost in results),
    }

  def solve(key, variables: Variables, data, prepared, hyper) -> Result:
    del key, data
    c = hyper['cuts_coefficient']
    info = {'gradient_evaluations': prepared['cost'], 'cuts_coefficient': c}
    return _ensemble_members(frozen, variables, prepared['tuned'], c), info

  return Method(
    ('forget',),
    prepare,
    solve,
    forget_proxy.coefficient_grid(),
    elementwise=True,
    model=ensemble_model(network.model),
  )
