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

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, PyTree

from cmu_jax.core import jit, tree, vectorize
from cmu_jax.core.types import (
  Info,
  InputStep,
  Model,
  PRNGKey,
  Proxy,
  Unlearner,
  Variables,
)
from cmu_jax.data import proxy as proxies
from cmu_jax.methods.cuts import curve as alpha_search
from cmu_jax.methods.cuts import rules
from cmu_jax.training import stopping, train

Kind = Literal['label_noise', 'poison']


class Selection(NamedTuple):
  """How alpha is chosen.

  Attributes:
    kind: which objective applies.
    alphas: the grid; None for the published one of this kind.
    share: gamma, the share of classes that must stay predicted (label noise).
    head_input: 'raw', or 'normalized' as in the released code.
    patience: consecutive drops of J after which to stop; None for never.
    threshold: largest proxy attack success rate that qualifies (poison).
    target: the class that the trigger leads to (poison).
  """

  kind: Kind = 'label_noise'
  alphas: tuple[float, ...] | None = None
  share: float = 1.0
  head_input: alpha_search.HeadInput = 'raw'
  patience: int | None = None
  threshold: float = 0.01
  target: int = 0


@functools.lru_cache(maxsize=32)
def _agreement(k: int, share: float) -> alpha_search.Measure:
  """One function object per setting, so that compilations are shared."""
  return functools.partial(rules.agreement, k=k, share=share)


@functools.lru_cache(maxsize=32)
def _attack(target: int) -> alpha_search.Measure:
  return lambda features, logits: rules.attack_rate(logits, target)


def fine_tuned(
  key: PRNGKey,
  model: Model,
  variables: Variables,
  proxy: Proxy,
  *,
  inputs: InputStep,
  how: vectorize.How | None = None,
  title: str = 'proxy fine-tuning',
  **options: Any,
) -> train.Fit:
  """theta fine-tuned on every draw of a proxy, as one compiled program.

  Args:
    key: split over the draws.
    model: the network.
    variables: theta_mix.
    proxy: s draws of equal size.
    inputs: raw pixels to network input.
    how: how the s fine-tunings are driven; None for the backend's best.
    title: what the progress bar calls it.
    **options: optimizer, steps, batch_size, checkpoint and until of
      `train.fit`.

  Returns:
    The fit, stacked over the draws.
  """
  draws = proxy.label.shape[0]
  repeated = jax.tree.map(
    lambda x: jnp.broadcast_to(x, (draws, *x.shape)), variables
  )
  batches = jax.vmap(lambda i: proxies.draw(proxy, i))(jnp.arange(draws))
  return train.fit(
    jax.random.split(key, draws),
    model,
    repeated,
    batches,
    inputs=inputs,
    how=vectorize.strategy() if how is None else how,
    title=f'{title} ({draws} draws)',
    **options,
  )


def direction(
  key: PRNGKey,
  model: Model,
  variables: Variables,
  proxy: Proxy,
  *,
  inputs: InputStep,
  optimizer: optax.GradientTransformation,
  steps: int,
  batch_size: int,
  frozen: tuple[str, ...] = (),
  how: vectorize.How | None = None,
  checkpoint: train.Checkpoint | None = None,
  until: stopping.Until | None = None,
) -> tuple[PyTree, train.Fit]:
  """The corruption task vector tau, from s re-corrupted proxies at once.

  Args:
    key: random key.
    model: the network.
    variables: theta_mix.
    proxy: corrupted proxy images.
    inputs: raw pixels to network input.
    optimizer: the proxy fine-tuning's optimiser.
    steps: its steps.
    batch_size: its batch size.
    frozen: top-level parameter names that tau leaves out.
    how: how the s fine-tunings are driven; None for the backend's best.
    checkpoint: where to save and from where to continue.
    until: when to end before the last step.

  Returns:
    tau, zero on BatchNorm and frozen parameters, and the fit itself.
  """
  fitted = fine_tuned(
    key,
    model,
    variables,
    proxy,
    inputs=inputs,
    optimizer=optimizer,
    steps=steps,
    batch_size=batch_size,
    how=how,
    checkpoint=checkpoint,
    until=until,
  )
  eligible = tree.eligible(variables, frozen)
  average = lambda start, ends: tree.task_vector(
    start, tree.mean(ends), eligible
  )
  tau = jit.once(average)(variables.params, fitted.variables.params)
  return tau, fitted


def select_alpha(
  model: Model,
  variables: Variables,
  tau: PyTree,
  proxy: Proxy,
  *,
  inputs: InputStep,
  selection: Selection,
  how: vectorize.How | None = None,
) -> tuple[rules.Choice, dict[str, Float[np.ndarray, 'a']]]:
  """alpha_hat and the whole curve, from proxy images alone.

  Args:
    model: the network.
    variables: theta_mix.
    tau: the task vector.
    proxy: label noise uses the pool's images and no label; poison uses the
      triggered images that tau was built from.
    inputs: raw pixels to network input; not augmented here.
    selection: grid and objective.
    how: how the grid is driven; None for the backend's best.

  Returns:
    The choice, and the curve: 'alpha' with J and its parts, or with
    'proxy_attack_success_rate'.

  Raises:
    UserError: fewer than 2 C proxy images (label noise).
  """
  run = functools.partial(
    alpha_search.curve, model, variables, tau, head_input=selection.head_input
  )
  if selection.kind == 'poison':
    grid = grid_of(selection)
    batch = proxies.draw(proxy, 0)
    image = inputs.eval(batch.image, batch.stamp)
    rates = np.asarray(
      run(image, jnp.asarray(grid), _attack(selection.target), how=how)
    )
    choice = rules.smallest_below(grid, rates, selection.threshold)
    return choice, {'alpha': grid, 'proxy_attack_success_rate': rates}
  grid = grid_of(selection)
  image = inputs.eval(proxy.image, None)
  classes = jax.eval_shape(model.apply, variables, image).shape[-1]
  k = rules.neighbour_count(image.shape[0], classes)
  parts = run(image, jnp.asarray(grid), _agreement(k, selection.share), how=how)
  curve = {name: np.asarray(x) for name, x in parts._asdict().items()}
  choice = rules.best(grid, curve['J'], selection.patience)
  return choice, {'alpha': grid, **curve}


def grid_of(selection: Selection) -> Float[np.ndarray, 'a']:
  """The alphas to look at: the given ones or the published grid."""
  if selection.alphas is not None:
    return np.asarray(selection.alphas, np.float64)
  noise = selection.kind == 'label_noise'
  return rules.noise_grid() if noise else rules.poison_grid()


def cuts(
  model: Model,
  inputs: InputStep,
  *,
  optimizer: optax.GradientTransformation,
  steps: int,
  batch_size: int,
  selection: Selection | None = None,
  frozen: tuple[str, ...] = (),
  how: vectorize.How | None = None,
  checkpoint: train.Checkpoint | None = None,
) -> Unlearner:
  """CUTS as an unlearner: (key, theta_mix, Proxy) -> (theta_u, info).

  Args:
    model: the network.
    inputs: raw pixels to network input.
    optimizer: the proxy fine-tuning's optimiser.
    steps: its steps.
    batch_size: its batch size.
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
  rule = Selection() if selection is None else selection

  def unlearn(
    key: PRNGKey, variables: Variables, problem: Any
  ) -> tuple[Variables, Info]:
    tau, fitted = direction(
      key,
      model,
      variables,
      problem,
      inputs=inputs,
      optimizer=optimizer,
      steps=steps,
      batch_size=batch_size,
      frozen=frozen,
      how=how,
      checkpoint=checkpoint,
    )
    choice, curve = select_alpha(
      model, variables, tau, problem, inputs=inputs, selection=rule, how=how
    )
    repaired = Variables(
      tree.edit(variables.params, tau, choice.alpha), variables.batch_stats
    )
    info = {**choice._asdict(), 'curve': curve, 'tau': tau, 'fit': fitted}
    return repaired, info

  return unlearn
