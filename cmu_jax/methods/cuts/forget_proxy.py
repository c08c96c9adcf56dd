r"""CUTS where S_f is at hand: the identified samples are the proxy.

  tau     = Finetune(theta_o, S_f with trained labels) - theta_o
  theta_u = theta_o - c tau                          on eligible parameters

The coefficient c is either left to whoever selects among the points of a grid,
or chosen as published, from S_f alone: for poison the smallest c that brings
the accuracy on S_f, under its trained labels, below a threshold; for wrong
labels the c at which neighbours agree best with each other (`select`).

References:
  Subtract the Corruption: Training-Data-Free Corrective Machine Unlearning
  using Task Arithmetic (arXiv 2511.18660, 2025).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from cmu_jax.core import tree
from cmu_jax.core.types import (
  Info,
  Method,
  Network,
  Samples,
  Training,
  Variables,
)
from cmu_jax.data import splits
from cmu_jax.methods import objectives
from cmu_jax.methods.cuts import alpha_rules, alpha_search
from cmu_jax.training import descent


def coefficient_grid() -> tuple[dict[str, float], ...]:
  """c of 0.05, 0.10, ..., 5.00, with 1 in front as the default."""
  values = [float(c) for c in alpha_rules.poison_grid()]
  ordered = sorted(values, key=lambda c: (c != 1, c))
  return tuple({'cuts_coefficient': c} for c in ordered)


@functools.lru_cache(maxsize=32)
def _agreement_measure(k: int, share: float) -> alpha_search.Measure:
  """One function object per setting, so that compilations are shared."""
  return functools.partial(alpha_rules.agreement, k=k, class_share=share)


def _predictions(
  features: Float[Array, 'n d'], logits: Float[Array, 'n c']
) -> Int[Array, 'n']:
  del features
  return jnp.argmax(logits, axis=1)


def choose_coefficient(
  network: Network,
  variables: Variables,
  tau: PyTree,
  forget: Samples,
  selection: alpha_search.Selection,
) -> alpha_rules.AlphaChoice:
  """c by the published rules, from S_f alone.

  Where CUTS counts classes (neighbours, coverage) these are the classes that
  S_f has among its trained labels: two of them for a confusion of two. Of S_f
  with a single image nothing can be chosen: c is 0.

  Args:
    network: the model and its input step.
    variables: theta_o.
    tau: the task vector.
    forget: S_f.
    selection: grid and objective; its target is not used.
  """
  alphas = alpha_search.selection_grid(selection)
  # S_f is one large batch: members one after another fill a device already,
  # and side by side they would need their activations at once.
  run = functools.partial(
    alpha_search.curve,
    network.model,
    variables,
    tau,
    alphas=jnp.asarray(alphas),
    head_input=selection.head_input,
    how='map',
  )
  if selection.kind == 'poison':
    batch = forget.batch
    image = network.inputs.eval(batch.image, batch.has_trigger)
    found = np.asarray(run(image, measure=_predictions))
    same = found == np.asarray(batch.label)[None, :]
    hits = same[:, np.asarray(forget.valid)].mean(axis=1)
    return alpha_rules.choose_smallest_below(alphas, hits, selection.threshold)
  return _choose_by_agreement(run, network, variables, forget, selection)


def _choose_by_agreement(
  run: Any,
  network: Network,
  variables: Variables,
  forget: Samples,
  selection: alpha_search.Selection,
) -> alpha_rules.AlphaChoice:
  """c at the largest J on the images of S_f; copies would be neighbours."""
  batch = splits.take(forget.batch, np.flatnonzero(np.asarray(forget.valid)))
  image = network.inputs.eval(batch.image, batch.has_trigger)
  if image.shape[0] < 2:
    return alpha_rules.AlphaChoice(0.0, None, False)
  classes = jax.eval_shape(network.model.apply, variables, image).shape[-1]
  present = np.unique(np.asarray(batch.label)).size
  k = max(1, image.shape[0] // (2 * present))
  share = selection.class_share * present / classes
  parts = run(image, measure=_agreement_measure(k, share))
  alphas = alpha_search.selection_grid(selection)
  return alpha_rules.choose_best(
    alphas, np.asarray(parts.J), selection.patience
  )


def cuts_forget(
  network: Network,
  training: Training,
  *,
  selection: alpha_search.Selection | None = None,
  frozen: tuple[str, ...] = (),
) -> Method:
  """CUTS with S_f as its proxy.

  Args:
    network: the model and its input step.
    training: optimizer, steps and batch size.
    selection: how c is chosen from S_f, with one point as the grid; None
      leaves it open, with c of 0.05 to 5 as the grid.
    frozen: top-level parameter names that tau leaves out.

  Returns:
    The method; its info has 'cuts_coefficient' and, where c was chosen here,
    'selected', which is False if no c qualified (c is 0 then).

  References:
    arXiv 2511.18660.
  """
  phase = descent.Phase(
    objectives.cross_entropy(network.model, 'forget'),
    (('forget', training.batch_size),),
  )
  recipe = descent.Recipe((phase,), training.optimizer, network.inputs)

  def prepare(key, variables: Variables, given: Any) -> dict[str, Any]:
    tuned, cost = descent.descend(
      key,
      recipe,
      variables,
      {'forget': given.forget},
      training.steps,
      title='fine-tuning on S_f',
    )
    eligible = tree.edit_predicate(variables, frozen)
    tau = tree.task_vector(variables.params, tuned.params, eligible)
    return {'tau': tau, 'cost': cost}

  def edited(variables: Variables, prepared, c) -> tuple[Variables, Info]:
    params = tree.edit(variables.params, prepared['tau'], c)
    info = {'gradient_evaluations': prepared['cost'], 'cuts_coefficient': c}
    return Variables(params, variables.batch_stats), info

  def at(key, variables: Variables, given: Any, prepared, hyper):
    del key, given
    return edited(variables, prepared, hyper['cuts_coefficient'])

  if selection is None:
    return Method(
      ('forget',), prepare, at, coefficient_grid(), elementwise=True
    )

  def chosen(key, variables: Variables, given: Any, prepared, hyper):
    del key, hyper
    tau = prepared['tau']
    choice = choose_coefficient(
      network, variables, tau, given.forget, selection
    )
    found, info = edited(variables, prepared, choice.alpha)
    return found, {**info, 'selected': choice.selected}

  return Method(('forget',), prepare, chosen)
