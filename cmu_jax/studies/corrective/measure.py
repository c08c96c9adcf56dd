"""Measures of a repaired network.

A single program predicts the reported test images, plain and with the trigger,
the validation images, and S_m as in the training set, but not augmented. All
measures are counts of these predictions against true labels.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from cmu_jax import audits
from cmu_jax.core import rng
from cmu_jax.core.types import Batch, Info, Network, Variables
from cmu_jax.data import splits
from cmu_jax.studies.corrective import problem as problems
from cmu_jax.studies.corrective.world import Scene, World
from cmu_jax.training import metrics

COLLAPSE = 0.05


class Look(NamedTuple):
  """Predictions of one network, or of a stack of them.

  Attributes:
    plain: on the reported test images.
    triggered: on the same images with the trigger; None without a trigger.
    validation: on the validation images.
    manipulated: on S_m, in ascending order.
    recovered: for each image of S_m with a wrong label: 1 if this label scores
      above another wrong label, compared with networks that saw neither; 0 if
      below, .5 for a tie. None without an audit.
  """

  plain: Any
  triggered: Any
  validation: Any
  manipulated: Any
  recovered: Any = None


class Offer(NamedTuple):
  """Images of S_m, and two wrong labels of each: its own, and another.

  Attributes:
    batch: the images, under their own wrong labels.
    other: the other labels.
    expected: mean difference of their logits in networks that saw neither
      label; 0 without such networks.
  """

  batch: Batch
  other: Int[np.ndarray, 'n']
  expected: Float[np.ndarray, 'n']


def select_images(bound: World, scene: Scene) -> Look:
  """Selects the images to predict, by the names of `Look`."""
  position = np.flatnonzero(problems.manipulated(scene.problem))
  reported, triggered = scene.reported, None
  if bound.trigger is not None:
    stamp = jnp.ones(reported.label.shape, bool)
    triggered = reported._replace(has_trigger=stamp)
  return Look(
    reported,
    triggered,
    scene.problem.validation,
    splits.take(scene.problem.train, position),
    _offer(bound, scene, position) if bound.audit else None,
  )


def _offer(
  bound: World, scene: Scene, position: Int[np.ndarray, 'm']
) -> Offer | None:
  """Pairs the images with two wrong labels; None without a wrong label."""
  label, truth = np.asarray(scene.problem.train.label), scene.problem.truth
  wrong = position[label[position] != truth[position]]
  if not wrong.size:
    return None
  other = audits.draw_other_labels(
    rng.fold_in(scene.key, 'audit'),
    label[wrong],
    truth[wrong],
    bound.dataset.num_classes,
  )
  expected = scene.expected
  if expected is None:
    expected = np.zeros(wrong.size, np.float32)
  return Offer(splits.take(scene.problem.train, wrong), other, expected)


def make_predictor(
  network: Network, batch_size: int
) -> Callable[[Variables, Look], Look]:
  """Builds the traceable function (variables, images) -> predictions."""

  def predict(variables: Variables, batch: Batch | None):
    if batch is None:
      return None
    size = min(batch_size, batch.label.shape[0])
    return metrics.predictor(network, size)(variables, batch)

  def guess(variables: Variables, offer: Offer | None):
    if offer is None:
      return None
    size = min(batch_size, offer.batch.label.shape[0])
    apply = functools.partial(network.model.apply, variables)
    logits = metrics.map_blocks(apply, network.inputs, offer.batch, size)
    trained, other = (
      jnp.take_along_axis(logits, label[:, None], axis=1)[:, 0]
      for label in (offer.batch.label, offer.other)
    )
    return (jnp.sign(trained - other - offer.expected) + 1) / 2

  return lambda variables, images: Look(
    predict(variables, images.plain),
    predict(variables, images.triggered),
    predict(variables, images.validation),
    predict(variables, images.manipulated),
    guess(variables, images.recovered),
  )


def _mean(hits: np.ndarray) -> float | None:
  """Computes the share of hits; None without any image."""
  return float(np.mean(hits)) if hits.size else None


def _test_measures(
  bound: World, label: Int[np.ndarray, 'n'], predicted: Look
) -> Info:
  """Computes Acc_corr, Acc_retain and the rates of an attack."""
  if bound.pair is not None:
    inside = np.isin(label, bound.pair)
    return {
      'acc_corr': _mean((predicted.plain == label)[inside]),
      'acc_retain': _mean((predicted.plain == label)[~inside]),
      'attack_success_rate': None,
      'accuracy_not_target': None,
    }
  others = label != bound.target
  return {
    'acc_corr': _mean(predicted.triggered == label),
    'acc_retain': _mean(predicted.plain == label),
    'attack_success_rate': _mean((predicted.triggered == bound.target)[others]),
    'accuracy_not_target': _mean((predicted.triggered == label)[others]),
  }


def _recovery_measure(predicted: Look) -> Info:
  if predicted.recovered is None:
    return {}
  return {'label_recovery': float(np.mean(predicted.recovered))}


def compute_measures(
  bound: World, scene: Scene, predicted: Look, before: Look, fraction: float
) -> Info:
  """Computes the measures of a row.

  Args:
    bound: the manipulation.
    scene: the problem.
    predicted: predictions of the repaired network, NumPy arrays.
    before: predictions of the original network.
    fraction: the identified fraction, which decides S_f.

  Returns:
    acc_corr, acc_retain, attack_success_rate, accuracy_not_target,
    clean_label_accuracy_sm, validation_accuracy, forget_changed (the share of
    S_f predicted otherwise than before), forget_unlearned (otherwise than
    labelled), score (the benchmark's rule: mean of validation accuracy and
    forget_changed) and collapsed (validation accuracy fell by over 5 points);
    with an audit label_recovery, the share of wrong labels of S_m that score
    above another wrong label, compared with networks that saw neither.

  References:
    Corrective Machine Unlearning, arXiv 2402.14015, sections 4 and 5.
  """
  problem = scene.problem
  position = np.flatnonzero(problems.manipulated(problem))
  identified = problems.identified(problem, fraction)[position]
  label = np.asarray(problem.validation.label)
  trained = np.asarray(problem.train.label)[position]
  accuracy = float(np.mean(predicted.validation == label))
  changed = float(
    np.mean((predicted.manipulated != before.manipulated)[identified])
  )
  return {
    **_test_measures(bound, np.asarray(scene.reported.label), predicted),
    'clean_label_accuracy_sm': _mean(
      predicted.manipulated == problem.truth[position]
    ),
    'validation_accuracy': accuracy,
    'forget_changed': changed,
    'forget_unlearned': float(
      np.mean((predicted.manipulated != trained)[identified])
    ),
    'score': (accuracy + changed) / 2,
    'collapsed': bool(
      accuracy < np.mean(before.validation == label) - COLLAPSE
    ),
    **_recovery_measure(predicted),
  }
