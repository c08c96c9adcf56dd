r"""CUTS: subtract a calibrated corruption task vector, without training data.

  theta_s = Finetune(theta_mix, proxy with labels corrupted anew, s)
  tau     = mean over s of (theta_s - theta_mix)    on eligible parameters
  theta_u = theta_mix - alpha_hat tau

alpha_hat is chosen from the proxy alone: label noise by neighbour
self-agreement, poison by the proxy attack success rate (`select`).

References:
  Subtract the Corruption: Training-Data-Free Corrective Machine Unlearning
  using Task Arithmetic (arXiv 2511.18660, 2025).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from cmu_jax.core import jit, store, tree, vectorize
from cmu_jax.core.types import (
  Info,
  Network,
  PRNGKey,
  Proxy,
  Training,
  Unlearner,
  Variables,
)
from cmu_jax.data import proxy_sets
from cmu_jax.methods.cuts import alpha_search
from cmu_jax.training import early_stopping, train


def fine_tune_draws(
  key: PRNGKey,
  network: Network,
  variables: Variables,
  proxy: Proxy,
  training: Training,
  *,
  how: vectorize.Strategy | None = None,
  title: str = 'proxy fine-tuning',
  **options: Any,
) -> train.Fit:
  """theta fine-tuned on every draw of a proxy, as one compiled program.

  Args:
    key: split over the draws.
    network: the model and its input step.
    variables: theta_mix.
    proxy: s draws of equal size.
    training: optimizer, steps and batch size.
    how: how the s fine-tunings are driven; None for the backend's best.
    title: what the progress bar calls it.
    **options: checkpoint and until of `train.fit`.

  Returns:
    The fit, stacked over the draws.
  """
  draws = proxy.label.shape[0]
  repeated = jax.tree.map(
    lambda x: jnp.broadcast_to(x, (draws, *x.shape)), variables
  )
  batches = jax.vmap(lambda i: proxy_sets.draw_copy(proxy, i))(
    jnp.arange(draws)
  )
  return train.fit(
    jax.random.split(key, draws),
    network,
    repeated,
    batches,
    training,
    strategy=vectorize.default_strategy() if how is None else how,
    title=f'{title} ({draws} draws)',
    **options,
  )


def direction(
  key: PRNGKey,
  network: Network,
  variables: Variables,
  proxy: Proxy,
  training: Training,
  *,
  frozen: tuple[str, ...] = (),
  how: vectorize.Strategy | None = None,
  checkpoint: store.Checkpoint | None = None,
  until: early_stopping.StopRule | None = None,
) -> tuple[PyTree, train.Fit]:
  """The corruption task vector tau, from s re-corrupted proxies at once.

  Args:
    key: random key.
    network: the model and its input step.
    variables: theta_mix.
    proxy: corrupted proxy images.
    training: optimizer, steps and batch size.
    frozen: top-level parameter names that tau leaves out.
    how: how the s fine-tunings are driven; None for the backend's best.
    checkpoint: where to save and from where to continue.
    until: when to end before the last step.

  Returns:
    tau, zero on BatchNorm and frozen parameters, and the fit itself.
  """
  fitted = fine_tune_draws(
    key,
    network,
    variables,
    proxy,
    training,
    how=how,
    checkpoint=checkpoint,
    until=until,
  )
  eligible = tree.edit_predicate(variables, frozen)
  average = lambda start, ends: tree.task_vector(
    start, tree.mean(ends), eligible
  )
  tau = jit.compile_cheaply(average)(variables.params, fitted.variables.params)
  return tau, fitted


def cuts(
  network: Network,
  training: Training,
  *,
  selection: alpha_search.Selection | None = None,
  frozen: tuple[str, ...] = (),
  how: vectorize.Strategy | None = None,
  checkpoint: store.Checkpoint | None = None,
) -> Unlearner:
  """CUTS as an unlearner: (key, theta_mix, Proxy) -> (theta_u, info).

  Args:
    network: the model and its input step.
    training: optimizer, steps and batch size.
    selection: how alpha is chosen; label noise as published by default.
    frozen: top-level parameter names that tau leaves out.
    how: how grids and re-drawn proxies are driven.
    checkpoint: where the fine-tuning saves itself.

  Returns:
    An unlearner. Its problem is a `Proxy`: there is nothing else to look at.
    Its info holds 'alpha', 'selected', 'curve', 'tau', 'position' and 'fit'.

  References:
    arXiv 2511.18660.
  """
  rule = alpha_search.Selection() if selection is None else selection

  def unlearn(
    key: PRNGKey, variables: Variables, problem: Any
  ) -> tuple[Variables, Info]:
    tau, fitted = direction(
      key,
      network,
      variables,
      problem,
      training=training,
      frozen=frozen,
      how=how,
      checkpoint=checkpoint,
    )
    choice, curve = alpha_search.select_alpha(
      network, variables, tau, problem, selection=rule, how=how
    )
    repaired = Variables(
      tree.edit(variables.params, tau, choice.alpha), variables.batch_stats
    )
    info = {**choice._asdict(), 'curve': curve, 'tau': tau, 'fit': fitted}
    return repaired, info

  return unlearn
