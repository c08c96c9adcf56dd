r"""CUTS with the identified samples as its proxy.

  tau     = Finetune(theta_o, S_f with trained labels) - theta_o
  theta_u = theta_o - c tau                          on eligible parameters

The coefficient c is either left to whoever selects among the points of a grid,
or chosen as published, from S_f alone: for poison the smallest c that brings
the accuracy on S_f, under its trained labels, below a threshold; for wrong
labels the c at which neighbours agree best with each other (`alpha_rules`).

References:
  Subtract the Corruption: Training-Data-Free Corrective Machine Unlearning
  using Task Arithmetic (arXiv 2511.18660, 2025).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from cmu_jax.core import tree
from cmu_jax.core.types import (
  Method,
  Network,
  Result,
  Samples,
  Training,
  Variables,
)
from cmu_jax.data import splits
from cmu_jax.methods import finetuning, objectives
from cmu_jax.methods.cuts import alpha_rules, alpha_search
from cmu_jax.training import descent, metrics, train


def coefficient_grid() -> tuple[dict[str, float], ...]:
  """c of 0.05, 0.10, ..., 5.00, with 1 in front as the default."""
  values = [float(c) for c in alpha_rules.poison_grid()]
  ordered = sorted(values, key=lambda c: (c != 1, c))
  return tuple({'cuts_coefficient': c} for c in ordered)


def fine_tuner(network: Network, training: Training) -> Callable:
  """A function (key, variables, forget, title) -> (variables, cost)."""
  phase = objectives.training_phase(
    network.model, 'forget', training.batch_size
  )
  # One recipe for all calls: a new one would be compiled again.
  recipe = descent.Recipe((phase,), training.optimizer, network.inputs)

  def fine_tune(key, variables: Variables, forget: Samples, title: str):
    streams = {'forget': forget}
    start = descent.Start(variables, streams, training.steps)
    return descent.descend(key, recipe, start, session=train.Session(title))

  return fine_tune


def choose_coefficient(
  network: Network,
  variables: Variables,
  tau: PyTree,
  forget: Samples,
  selection: alpha_search.Selection,
) -> alpha_rules.AlphaChoice:
  """Chooses c by the published rules, from S_f alone.

  Args:
    network: the model and its input step; images are not augmented.
    forget: S_f; a single image chooses nothing, and c is 0.
    selection: grid and objective; its target is not used.
  """
  alphas = alpha_search.selection_grid(selection)
  run = functools.partial(
    alpha_search.curve,
    network.model,
    variables,
    tau,
    alphas=jnp.asarray(alphas),
    head_input=selection.head_input,
    # S_f is one large batch: members one after another fill a device already,
    # and side by side they would need their activations at once.
    drive=alpha_search.Drive('map'),
  )
  if selection.kind == 'poison':
    batch = forget.batch
    image = network.inputs.eval(batch.image, batch.has_trigger)
    predicted = np.asarray(run(image, measure=alpha_search.predicted_class))
    hits = predicted == np.asarray(batch.label)[None, :]
    rate = hits[:, np.asarray(forget.valid)].mean(axis=1)
    return alpha_rules.choose_smallest_below(alphas, rate, selection.threshold)
  # Padding repeats images, and a copy would be the nearest neighbour.
  batch = splits.take(forget.batch, np.flatnonzero(np.asarray(forget.valid)))
  image = network.inputs.eval(batch.image, batch.has_trigger)
  if image.shape[0] < 2:
    return alpha_rules.ABSTENTION
  classes = metrics.count_classes(network, variables, batch.image)
  # CUTS counts classes for neighbours and coverage. Here these are the trained
  # labels in S_f: two of them for a confusion of two.
  present = np.unique(np.asarray(batch.label)).size
  k = max(1, image.shape[0] // (2 * present))
  class_share = selection.class_share * present / classes
  measure = alpha_search.agreement_measure(k, class_share)
  scores = np.asarray(run(image, measure=measure).J)
  return alpha_rules.choose_best(alphas, scores, selection.patience)


@finetuning.check_settings
def cuts_forget(
  network: Network,
  training: Training,
  *,
  selection: alpha_search.Selection | None = None,
  frozen: tuple[str, ...] = (),
) -> Method:
  """CUTS with S_f as its proxy.

  Args:
    training: of the fine-tuning on S_f.
    selection: the rule that chooses c from S_f, with one point as the grid;
      None leaves it open, with c of 0.05 to 5 as the grid.
    frozen: top-level parameter names that tau leaves out.

  Returns:
    The method; its info has 'cuts_coefficient' and, with a selection,
    'selected', which is False if no c qualified (c is 0 then).

  References:
    arXiv 2511.18660.
  """
  fine_tune = fine_tuner(network, training)

  def prepare(key, variables: Variables, data: Any) -> dict[str, Any]:
    title = 'fine-tuning on S_f'
    tuned, cost = fine_tune(key, variables, data.forget, title)
    eligible = tree.edit_predicate(variables, frozen)
    tau = tree.task_vector(variables.params, tuned.params, eligible)
    return {'tau': tau, 'cost': cost}

  def subtract(variables: Variables, prepared, c) -> Result:
    params = tree.edit(variables.params, prepared['tau'], c)
    info = {'gradient_evaluations': prepared['cost'], 'cuts_coefficient': c}
    return Variables(params, variables.batch_stats), info

  def solve_point(key, variables: Variables, data: Any, prepared, hyper):
    del key, data
    return subtract(variables, prepared, hyper['cuts_coefficient'])

  if selection is None:
    grid = coefficient_grid()
    return Method(('forget',), prepare, solve_point, grid, elementwise=True)

  def solve_chosen(key, variables: Variables, data: Any, prepared, hyper):
    del key, hyper
    choice = choose_coefficient(
      network, variables, prepared['tau'], data.forget, selection
    )
    result, info = subtract(variables, prepared, choice.alpha)
    return result, {**info, 'selected': choice.selected}

  return Method(('forget',), prepare, solve_chosen)
