r"""CUTS with an alpha that is chosen and tested out of fold, or none at all.

  tau_-f     = mean over draws of Finetune(theta_mix, images outside fold f)
               - theta_mix
  J_cf(a)    = mean over f of J(theta_mix - a tau_-f; images of fold f)
  alpha_hat  = first argmax of J_cf;  theta_u = theta_mix - alpha_hat tau

with tau from the whole proxy, as published. The rule leaves the model as it
is unless the evidence carries the step (`alpha_evidence.judge_noise`,
`judge_poison`).

References:
  CUTS, arXiv 2511.18660.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from cmu_jax.core import jit, rng, tree, vectorize
from cmu_jax.core.types import (
  Network,
  PRNGKey,
  Proxy,
  Training,
  Variables,
)
from cmu_jax.methods.cuts import (
  algorithm,
  alpha_evidence,
  alpha_rules,
  alpha_search,
  cross_fitting,
)
from cmu_jax.training import train


class FoldVectors(NamedTuple):
  """Task vectors of the folds.

  Attributes:
    tau: stacked along the folds.
    fit: the fine-tunings, f s of them.
  """

  tau: PyTree
  fit: train.Fit


def fit_fold_vectors(
  key: PRNGKey,
  network: Network,
  variables: Variables,
  folds: cross_fitting.Folds,
  training: Training,
  *,
  frozen: tuple[str, ...] = (),
  **options: Any,
) -> FoldVectors:
  """tau_-f of every fold f, from one compiled program over folds and draws.

  Args:
    key: random key.
    network: the model and its input step.
    variables: theta_mix.
    folds: see `cross_fitting.split`.
    training: optimizer, steps and batch size.
    frozen: top-level parameter names that tau leaves out.
    **options: other options of `algorithm.fine_tune_draws`.
  """
  fit = algorithm.fine_tune_draws(
    key,
    network,
    variables,
    folds.proxy,
    training,
    title='fold fine-tuning',
    **options,
  )
  count = folds.held_out.shape[0]
  eligible = tree.edit_predicate(variables, frozen)

  def average(start, ends):
    member = lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:])
    difference = lambda end: tree.task_vector(start, tree.mean(end), eligible)
    return jax.vmap(difference)(jax.tree.map(member, ends))

  tau = jit.compile_cheaply(average)(variables.params, fit.variables.params)
  return FoldVectors(tau, fit)


@functools.lru_cache(maxsize=32)
def _terms_measure(k: int) -> alpha_search.Measure:
  """One function object per setting, so that compilations are shared."""
  return functools.partial(cross_fitting.image_terms, k=k)


def _predictions(features: jax.Array, logits: jax.Array) -> jax.Array:
  return jnp.argmax(logits, axis=1)


def noise_evidence(
  key: PRNGKey,
  network: Network,
  variables: Variables,
  folds: cross_fitting.Folds,
  tau: PyTree,
  label: np.ndarray,
  *,
  selection: alpha_search.Selection,
  replicates: int = 400,
  how: vectorize.Strategy | None = None,
) -> alpha_evidence.FoldEvidence:
  """J and the rate of corrupted labels predicted, out of fold, resampled.

  Args:
    key: draws the resamples.
    network: the model and its input step.
    variables: theta_mix.
    folds: see `cross_fitting.split`.
    tau: task vectors of the folds.
    label: corrupted labels of the images that judge, see
      `cross_fitting.held_out_labels`.
    selection: grid and objective.
    replicates: bootstrap resamples.
    how: how the grid is driven; None for the backend's best.

  Raises:
    UserError: fewer than 2 C images a fold.
  """
  grid = jnp.asarray(alpha_search.selection_grid(selection))
  scores, rates = [], []
  for fold, held in enumerate(folds.held_out):
    image = network.inputs.eval(folds.proxy.image[held], None)
    samples = image.shape[0]
    classes = jax.eval_shape(network.model.apply, variables, image).shape[-1]
    k = alpha_rules.neighbour_count(samples, classes)
    found = alpha_search.curve(
      network.model,
      variables,
      tree.index(tau, fold),
      image,
      grid,
      _terms_measure(k),
      head_input=selection.head_input,
      how=how,
      title=f'alpha curve, fold {fold + 1} of {len(folds.held_out)}',
    )
    weight = cross_fitting.bootstrap_counts(
      rng.fold_in(key, fold), replicates, samples
    )
    score = cross_fitting.resampled_objective(
      found, weight, k=k, class_share=selection.class_share
    )
    hits = cross_fitting.hit_rates(
      np.asarray(found.predicted), label[fold], np.asarray(weight)
    )
    scores.append(np.asarray(score, np.float64))
    rates.append(hits)
  return alpha_evidence.FoldEvidence(np.stack(scores, 1), np.stack(rates, 1))


def poison_evidence(
  key: PRNGKey,
  network: Network,
  variables: Variables,
  folds: cross_fitting.Folds,
  tau: PyTree,
  label: np.ndarray,
  *,
  selection: alpha_search.Selection,
  replicates: int = 400,
  how: vectorize.Strategy | None = None,
) -> alpha_evidence.FoldEvidence:
  """Attack success and the share of the target class, out of fold, resampled.

  As `noise_evidence`; the attack success is that of triggered images that are
  in the proxy, the share that of all pool images without the trigger.
  """
  grid = jnp.asarray(np.append(0.0, alpha_search.selection_grid(selection)))
  attacks, shares = [], []
  for fold, held in enumerate(folds.held_out):
    image = folds.proxy.image[held]
    run = functools.partial(
      alpha_search.curve, network.model, variables, tree.index(tau, fold)
    )
    options: Any = dict(head_input=selection.head_input, how=how)
    stamp = jnp.ones(len(held), bool)
    hit, clean = (
      np.asarray(
        run(network.inputs.eval(image, s), grid, _predictions, **options)
      )
      for s in (stamp, None)
    )
    weight = np.asarray(
      cross_fitting.bootstrap_counts(
        rng.fold_in(key, fold), replicates, len(held)
      )
    )
    attacks.append(cross_fitting.hit_rates(hit, label[fold], weight))
    shares.append(weight @ (clean == selection.target).T / len(held))
  return alpha_evidence.FoldEvidence(np.stack(attacks, 1), np.stack(shares, 1))


def choose_alpha(
  key: PRNGKey,
  network: Network,
  variables: Variables,
  folds: cross_fitting.Folds,
  label: np.ndarray,
  training: Training,
  *,
  selection: alpha_search.Selection,
  symmetric: bool,
  confidence: float = 0.8,
  how: vectorize.Strategy | None = None,
  replicates: int = 400,
  **options: Any,
) -> tuple[alpha_evidence.SafeChoice, FoldVectors]:
  """The safe alpha for the task vector of the whole proxy.

  Args:
    key: random key.
    network: the model and its input step.
    variables: theta_mix.
    folds: see `cross_fitting.split`.
    label: corrupted labels of the images that judge, see
      `cross_fitting.held_out_labels`.
    training: optimizer, steps and batch size.
    selection: grid and objective.
    confidence: of the lower end that has to be above 0 (label noise).
    symmetric: whether corrupted labels are uniform over the other classes.
    how: how grids and fine-tunings are driven.
    replicates: bootstrap resamples.
    **options: those of `task_vectors`.

  Returns:
    The choice with its evidence, and the fold fine-tunings.
  """
  fitted = fit_fold_vectors(
    rng.fold_in(key, 'tune'),
    network,
    variables,
    folds,
    training,
    how=how,
    **options,
  )
  poison = selection.kind == 'poison'
  look = poison_evidence if poison else noise_evidence
  evidence = look(
    rng.fold_in(key, 'bootstrap'),
    network,
    variables,
    folds,
    fitted.tau,
    label,
    selection=selection,
    how=how,
    replicates=replicates,
  )
  classes = jax.eval_shape(
    network.model.apply,
    variables,
    network.inputs.eval(folds.proxy.image[:1], None),
  ).shape[-1]
  grid = alpha_search.selection_grid(selection)
  if poison:
    return alpha_evidence.judge_poison(
      grid, evidence, selection.threshold
    ), fitted
  factor = classes - 1 if symmetric else None
  return alpha_evidence.judge_noise(grid, evidence, factor, confidence), fitted


def choose_from_proxy(
  key: PRNGKey,
  network: Network,
  variables: Variables,
  proxy: Proxy,
  *,
  folds: int,
  selection: alpha_search.Selection,
  tuning: Callable[[int], Training],
  **options: Any,
) -> tuple[alpha_evidence.SafeChoice, FoldVectors | None]:
  """`choose` after splitting the proxy, or no choice where it is too small.

  Args:
    key: random key.
    network: the model and its input step.
    variables: theta_mix.
    proxy: the whole proxy.
    folds: how many, at least 2.
    selection: grid and objective.
    tuning: number of images -> the training on them.
    **options: others of `choose`.
  """
  size, least = proxy.image.shape[0], 2 * folds
  if selection.kind == 'label_noise':
    image = network.inputs.eval(proxy.image[:1], None)
    least *= jax.eval_shape(network.model.apply, variables, image).shape[-1]
  if size < least:
    reason = f'{size} proxy images, {least} needed'
    return alpha_evidence.abstain(reason), None
  split = cross_fitting.split(rng.fold_in(key, 'folds'), proxy, folds)
  return choose_alpha(
    key,
    network,
    variables,
    split,
    cross_fitting.held_out_labels(proxy, split.held_out),
    tuning(split.proxy.label.shape[1]),
    selection=selection,
    **options,
  )
