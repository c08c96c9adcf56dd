r"""CUTS: subtracts a calibrated corruption task vector, without training data.

  theta_s = Finetune(theta_mix, proxy with labels corrupted anew, s)
  tau     = mean over s of (theta_s - theta_mix)    on eligible parameters
  theta_u = theta_mix - alpha_hat tau

alpha_hat is chosen from the proxy alone: label noise by neighbour
self-agreement, poison by the proxy attack success rate (`alpha_search`).

References:
  Subtract the Corruption: Training-Data-Free Corrective Machine Unlearning
  using Task Arithmetic (arXiv 2511.18660, 2025).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from cmu_jax.core import array_checks, errors, jit, store, tree, vectorize
from cmu_jax.core.types import (
  Method,
  Network,
  PRNGKey,
  Proxy,
  Result,
  Training,
  Variables,
)
from cmu_jax.data import proxy_sets
from cmu_jax.methods import finetuning
from cmu_jax.methods.cuts import alpha_search
from cmu_jax.training import train


def fine_tune_draws(
  key: PRNGKey,
  network: Network,
  variables: Variables,
  proxy: Proxy,
  training: Training,
  *,
  strategy: vectorize.Strategy | None = None,
  title: str = 'proxy fine-tuning',
  **options: Any,
) -> train.Fit:
  """Fine-tunes theta on every draw of a proxy, as one compiled program.

  Args:
    key: split over the draws.
    network: the model and its input step.
    variables: theta_mix.
    proxy: s draws of equal size.
    training: of each fine-tuning.
    strategy: drives the s fine-tunings; None for the backend's best.
    title: of the progress bar.
    **options: checkpoint and until of `train.Session`.

  Returns:
    The fit, stacked over the draws.

  Raises:
    UserError: positions outside the pool; labels or images that do not fit.
  """
  array_checks.check_key(key)
  array_checks.check_type('proxy', proxy, Proxy)
  train.check_training(training)
  draws, pool = proxy.label.shape[0], proxy.image.shape[0]
  # A gather clamps: it would take the last image in place of an absent one.
  position = np.asarray(proxy.positions)
  errors.check(
    position.size and position.min() >= 0 and position.max() < pool,
    f'positions of the proxy must lie from 0 to {pool - 1}, its images',
  )
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
    train.Session(f'{title} ({draws} draws)', **options),
    # Even a single draw is a stack of one: its random keys stay those of a
    # stack.
    strategy=strategy or vectorize.default_strategy(),
  )


def direction(
  key: PRNGKey,
  network: Network,
  variables: Variables,
  proxy: Proxy,
  training: Training,
  *,
  frozen: tuple[str, ...] = (),
  **options: Any,
) -> tuple[PyTree, train.Fit]:
  """The corruption task vector tau, from s re-corrupted proxies at once.

  Args:
    key: random key.
    network: the model and its input step.
    variables: theta_mix.
    proxy: corrupted proxy images.
    training: of each proxy fine-tuning.
    frozen: top-level parameter names that tau leaves out.
    **options: strategy, checkpoint and until of `fine_tune_draws`.

  Returns:
    tau, zero on BatchNorm and frozen parameters, and the fit itself.
  """
  fit = fine_tune_draws(key, network, variables, proxy, training, **options)
  # An edited scale or bias of BatchNorm would contradict its running
  # statistics: networks collapse to one class.
  eligible = tree.edit_predicate(variables, frozen)
  average = lambda start, ends: tree.task_vector(
    start, tree.mean(ends), eligible
  )
  tau = jit.compile_cheaply(average)(variables.params, fit.variables.params)
  return tau, fit


@finetuning.check_settings
def cuts(
  network: Network,
  training: Training,
  *,
  selection: alpha_search.Selection | None = None,
  frozen: tuple[str, ...] = (),
  checkpoint: store.Checkpoint | None = None,
) -> Method:
  """CUTS with the published choice of alpha.

  Args:
    network: the model and its input step; paints the trigger.
    training: of each proxy fine-tuning.
    selection: the rule for alpha; label noise as published by default.
    frozen: top-level parameter names that tau leaves out.
    checkpoint: saves the fine-tuning.

  Returns:
    A method that sees a proxy. Its info has 'alpha', 'selected', 'position',
    'curve', 'tau' and 'fit' besides.

  References:
    arXiv 2511.18660.
  """

  rule = selection or alpha_search.Selection()
  array_checks.check_type('selection', rule, alpha_search.Selection)

  def prepare(key, variables: Variables, data) -> tuple[PyTree, train.Fit]:
    return direction(
      *(key, network, variables, data.proxy, training),
      frozen=frozen,
      checkpoint=checkpoint,
    )

  def solve(key, variables: Variables, data, prepared, hyper) -> Result:
    del key, hyper
    tau, fit = prepared
    choice, curve = alpha_search.select_alpha(
      network, variables, tau, data.proxy, selection=rule
    )
    params = tree.edit(variables.params, tau, choice.alpha)
    # A set that is smaller than a batch is used once a step.
    images = min(training.batch_size, data.proxy.label.shape[1])
    info = {
      'gradient_evaluations': int(np.prod(fit.history.shape[:-1])) * images,
      **choice._asdict(),
      **{'curve': curve, 'tau': tau, 'fit': fit},
    }
    return Variables(params, variables.batch_stats), info

  return Method(('proxy',), prepare, solve)
