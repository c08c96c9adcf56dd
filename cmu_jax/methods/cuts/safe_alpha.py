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
from jaxtyping import Array, Float, Int, PyTree

from cmu_jax.core import jit, rng, tree
from cmu_jax.core.types import Network, PRNGKey, Proxy, Training, Variables
from cmu_jax.methods.cuts import (
  algorithm,
  alpha_evidence,
  alpha_rules,
  alpha_search,
  cross_fitting,
)
from cmu_jax.training import metrics, train


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

  # The draws of fold 0 come first, see `cross_fitting.Folds`.
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


def _noise_scores(
  run: Callable[..., Any],
  k: int,
  class_share: float,
  image: Float[Array, 'n h w c'],
  label: Int[np.ndarray, 's n'],
  weight: Int[Array, 'b n'],
) -> tuple[Float[np.ndarray, 'b a'], Float[np.ndarray, 'b a']]:
  """J, and the rate at which corrupted labels are predicted."""
  terms = run(image, measure=_terms_measure(k))
  score = cross_fitting.resampled_objective(
    terms, weight, k=k, class_share=class_share
  )
  rate = cross_fitting.hit_rates(
    np.asarray(terms.predicted), label, np.asarray(weight)
  )
  return np.asarray(score, np.float64), rate


def _poison_scores(
  run: Callable[..., Any],
  target: int,
  images: list[Float[Array, 'n h w c']],
  label: Int[np.ndarray, 's n'],
  weight: Int[np.ndarray, 'b n'],
) -> tuple[Float[np.ndarray, 'b a'], Float[np.ndarray, 'b a']]:
  """Attack success on triggered images, and the target's share of plain ones.

  The attack success is that of triggered images in the proxy.
  """
  triggered, plain = (
    np.asarray(run(image, measure=alpha_search.predicted_class))
    for image in images
  )
  share = weight @ (plain == target).T / plain.shape[1]
  return cross_fitting.hit_rates(triggered, label, weight), share


def measure_evidence(
  key: PRNGKey,
  network: Network,
  variables: Variables,
  folds: cross_fitting.Folds,
  tau: PyTree,
  selection: alpha_search.Selection,
  replicates: int = 400,
) -> alpha_evidence.FoldEvidence:
  """Scores the edits of every fold on its held-out images, and resamples.

  Args:
    key: draws the resamples.
    folds: see `cross_fitting.split`.
    tau: task vectors of the folds.
    selection: grid and objective; of poison, alpha = 0 precedes the grid.
    replicates: bootstrap resamples.

  Raises:
    UserError: fewer than 2 C images a fold (label noise).
  """
  poison = selection.kind == 'poison'
  grid = alpha_search.selection_grid(selection)
  # The published grid begins above 0, and the share at 0 is the reference.
  grid = np.append(0.0, grid) if poison else grid
  pairs = []
  for fold, positions in enumerate(folds.held_out):
    image, size = folds.proxy.image[positions], len(positions)
    title = f'alpha curve, fold {fold + 1} of {len(folds.held_out)}'
    run = functools.partial(
      alpha_search.curve,
      *(network.model, variables, tree.index(tau, fold)),
      alphas=jnp.asarray(grid),
      head_input=selection.head_input,
      drive=alpha_search.Drive(title=title),
    )
    weight = cross_fitting.bootstrap_counts(
      rng.fold_in(key, fold), replicates, size
    )
    label, plain = folds.label[fold], network.inputs.eval(image, None)
    if poison:
      marked = network.inputs.eval(image, jnp.ones(size, bool))
      counts = np.asarray(weight)
      pairs.append(
        _poison_scores(run, selection.target, [marked, plain], label, counts)
      )
      continue
    # Fewer images have fewer neighbours: k is that of the fold, not the pool.
    classes = metrics.count_classes(network, variables, image)
    k = alpha_rules.neighbour_count(size, classes)
    share = selection.class_share
    pairs.append(_noise_scores(run, k, share, plain, label, weight))
  scores, rates = (np.stack(x, 1) for x in zip(*pairs, strict=True))
  return alpha_evidence.FoldEvidence(scores, rates)


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
    selection: grid and objective.
    rule: settings of the test.
    tuning: number of images -> the training on them.
    **options: others of `fit_fold_vectors`.

  Returns:
    The choice with its evidence, and the fine-tunings of the folds.
  """
  poison = selection.kind == 'poison'
  size, least = proxy.image.shape[0], 2 * rule.folds
  classes = metrics.count_classes(network, variables, proxy.image)
  if not poison:
    least *= classes
  if size < least:
    # A pool that cannot be split is no evidence, and no error either.
    reason = f'{size} proxy images, {least} needed'
    return alpha_evidence.abstain(reason), None
  folds = cross_fitting.split(rng.fold_in(key, 'folds'), proxy, rule.folds)
  # All folds have sets of one size, so one training serves them all.
  vectors = fit_fold_vectors(
    *(rng.fold_in(key, 'tune'), network, variables, folds),
    tuning(folds.proxy.label.shape[1]),
    **options,
  )
  evidence = measure_evidence(
    *(rng.fold_in(key, 'bootstrap'), network, variables, folds, vectors.tau),
    *(selection, rule.replicates),
  )
  grid = alpha_search.selection_grid(selection)
  if poison:
    threshold = selection.threshold
    return alpha_evidence.judge_poison(grid, evidence, threshold), vectors
  factor = classes - 1 if rule.symmetric else None
  choice = alpha_evidence.judge_noise(grid, evidence, factor, rule.confidence)
  return choice, vectors
