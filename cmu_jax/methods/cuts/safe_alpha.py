r"""CUTS with an alpha that is chosen and tested out of fold, or none at all.

  tau_-f     = mean over draws of Finetune(theta_mix, images outside fold f)
               - theta_mix
  J_cf(a)    = mean over f of J(theta_mix - a tau_-f; images of fold f)
  alpha_hat  = first argmax of J_cf;  theta_u = theta_mix - alpha_hat tau

with tau from the whole proxy, as published. The model stays as it is if the
gain is not significant (`alpha_evidence.judge_noise`, `judge_poison`).

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
from cmu_jax.core.types import Network, PRNGKey, Proxy, Training, Variables
from cmu_jax.methods.cuts import (
  algorithm,
  alpha_evidence,
  alpha_rules,
  alpha_search,
  cross_fitting,
)
from cmu_jax.training import train


class SafeRule(NamedTuple):
  """Settings of the test.

  Attributes:
    symmetric: whether corrupted labels are uniform over the other classes.
    folds: of the proxy, at least 2.
    confidence: of the lower end that must be above 0 (label noise).
    replicates: bootstrap resamples.
  """

  symmetric: bool
  folds: int = 2
  confidence: float = 0.8
  replicates: int = 400


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
  """Fits tau_-f of every fold f, in one program over folds and draws.

  Args:
    key: random key.
    network: the model and its input step.
    variables: theta_mix.
    folds: see `cross_fitting.split`.
    training: of each fine-tuning.
    frozen: top-level parameter names that tau leaves out.
    **options: other options of `algorithm.fine_tune_draws`.
  """
  fit = algorithm.fine_tune_draws(
    *(key, network, variables, folds.proxy, training),
    title='fold fine-tuning',
    **options,
  )
  count = folds.held_out.shape[0]
  eligible = tree.edit_predicate(variables, frozen)

  def average(start, ends):
    by_fold = lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:])
    difference = lambda end: tree.task_vector(start, tree.mean(end), eligible)
    return jax.vmap(difference)(jax.tree.map(by_fold, ends))

  tau = jit.compile_cheaply(average)(variables.params, fit.variables.params)
  return FoldVectors(tau, fit)


# One function object a setting: a curve is compiled for a measure.
@functools.lru_cache(maxsize=32)
def _terms_measure(k: int) -> alpha_search.Measure:
  return functools.partial(cross_fitting.image_terms, k=k)


def noise_evidence(
  key: PRNGKey,
  network: Network,
  variables: Variables,
  folds: cross_fitting.Folds,
  tau: PyTree,
  selection: alpha_search.Selection,
  replicates: int = 400,
  strategy: vectorize.Strategy | None = None,
) -> alpha_evidence.FoldEvidence:
  """J and the rate of corrupted labels predicted, out of fold, resampled.

  Args:
    key: draws the resamples.
    network: the model and its input step.
    variables: theta_mix.
    folds: see `cross_fitting.split`.
    tau: task vectors of the folds.
    selection: grid and objective.
    replicates: bootstrap resamples.
    strategy: drives the grid; None for the backend's best.

  Raises:
    UserError: fewer than 2 C images a fold.
  """
  grid = jnp.asarray(alpha_search.selection_grid(selection))
  scores, rates = [], []
  for fold, positions in enumerate(folds.held_out):
    image = network.inputs.eval(folds.proxy.image[positions], None)
    samples = image.shape[0]
    classes = jax.eval_shape(network.model.apply, variables, image).shape[-1]
    # Fewer images have fewer neighbours: k is that of the fold, not the pool.
    k = alpha_rules.neighbour_count(samples, classes)
    title = f'alpha curve, fold {fold + 1} of {len(folds.held_out)}'
    terms = alpha_search.curve(
      *(network.model, variables, tree.index(tau, fold), image, grid),
      _terms_measure(k),
      head_input=selection.head_input,
      drive=alpha_search.Drive(strategy, title=title),
    )
    weight = cross_fitting.bootstrap_counts(
      rng.fold_in(key, fold), replicates, samples
    )
    score = cross_fitting.resampled_objective(
      terms, weight, k=k, class_share=selection.class_share
    )
    rate = cross_fitting.hit_rates(
      np.asarray(terms.predicted), folds.label[fold], np.asarray(weight)
    )
    scores.append(np.asarray(score, np.float64))
    rates.append(rate)
  return alpha_evidence.FoldEvidence(np.stack(scores, 1), np.stack(rates, 1))


def poison_evidence(
  key: PRNGKey,
  network: Network,
  variables: Variables,
  folds: cross_fitting.Folds,
  tau: PyTree,
  selection: alpha_search.Selection,
  replicates: int = 400,
  strategy: vectorize.Strategy | None = None,
) -> alpha_evidence.FoldEvidence:
  """Attack success and the share of the target class, out of fold, resampled.

  The arguments are those of `noise_evidence`. The attack success is that of
  triggered images in the proxy, the share that of all pool images without the
  trigger.
  """
  # The published grid begins above 0, and the share at 0 is the reference.
  grid = jnp.asarray(np.append(0.0, alpha_search.selection_grid(selection)))
  attacks, shares = [], []
  for fold, positions in enumerate(folds.held_out):
    image, size = folds.proxy.image[positions], len(positions)
    run = functools.partial(
      alpha_search.curve,
      network.model,
      variables,
      tree.index(tau, fold),
      alphas=grid,
      measure=alpha_search.predicted_class,
      head_input=selection.head_input,
      drive=alpha_search.Drive(strategy),
    )
    triggered, plain = (
      np.asarray(run(network.inputs.eval(image, trigger)))
      for trigger in (jnp.ones(size, bool), None)
    )
    weight = np.asarray(
      cross_fitting.bootstrap_counts(rng.fold_in(key, fold), replicates, size)
    )
    attacks.append(
      cross_fitting.hit_rates(triggered, folds.label[fold], weight)
    )
    shares.append(weight @ (plain == selection.target).T / size)
  return alpha_evidence.FoldEvidence(np.stack(attacks, 1), np.stack(shares, 1))


def choose_alpha(
  key: PRNGKey,
  network: Network,
  variables: Variables,
  folds: cross_fitting.Folds,
  training: Training,
  *,
  selection: alpha_search.Selection,
  rule: SafeRule,
  strategy: vectorize.Strategy | None = None,
  **options: Any,
) -> tuple[alpha_evidence.SafeChoice, FoldVectors]:
  """Chooses the safe alpha for the task vector of the whole proxy.

  Args:
    key: random key.
    network: the model and its input step.
    variables: theta_mix.
    folds: see `cross_fitting.split`.
    training: of each fine-tuning.
    selection: grid and objective.
    rule: settings of the test.
    strategy: drives grids and fine-tunings.
    **options: others of `fit_fold_vectors`.

  Returns:
    The choice with its evidence, and the fold fine-tunings.
  """
  vectors = fit_fold_vectors(
    *(rng.fold_in(key, 'tune'), network, variables, folds, training),
    strategy=strategy,
    **options,
  )
  poison = selection.kind == 'poison'
  measure = poison_evidence if poison else noise_evidence
  evidence = measure(
    *(rng.fold_in(key, 'bootstrap'), network, variables, folds, vectors.tau),
    *(selection, rule.replicates, strategy),
  )
  grid = alpha_search.selection_grid(selection)
  if poison:
    threshold = selection.threshold
    choice = alpha_evidence.judge_poison(grid, evidence, threshold)
    return choice, vectors
  factor = None
  if rule.symmetric:
    factor = _class_count(network, variables, folds.proxy) - 1
  choice = alpha_evidence.judge_noise(grid, evidence, factor, rule.confidence)
  return choice, vectors


def _class_count(network: Network, variables: Variables, proxy: Proxy) -> int:
  image = network.inputs.eval(proxy.image[:1], None)
  return jax.eval_shape(network.model.apply, variables, image).shape[-1]


def choose_from_proxy(
  key: PRNGKey,
  network: Network,
  variables: Variables,
  proxy: Proxy,
  *,
  selection: alpha_search.Selection,
  rule: SafeRule,
  tuning: Callable[[int], Training],
  **options: Any,
) -> tuple[alpha_evidence.SafeChoice, FoldVectors | None]:
  """Splits the proxy and chooses alpha, or abstains if it is too small.

  Args:
    key: random key.
    network: the model and its input step.
    variables: theta_mix.
    proxy: the whole proxy.
    selection: grid and objective.
    rule: settings of the test.
    tuning: number of images -> the training on them.
    **options: others of `choose_alpha`.
  """
  size, least = proxy.image.shape[0], 2 * rule.folds
  if selection.kind == 'label_noise':
    least *= _class_count(network, variables, proxy)
  if size < least:
    # A pool that cannot be split is no evidence, and no error either.
    reason = f'{size} proxy images, {least} needed'
    return alpha_evidence.abstain(reason), None
  folds = cross_fitting.split(rng.fold_in(key, 'folds'), proxy, rule.folds)
  return choose_alpha(
    *(key, network, variables, folds),
    tuning(folds.proxy.label.shape[1]),
    selection=selection,
    rule=rule,
    **options,
  )
