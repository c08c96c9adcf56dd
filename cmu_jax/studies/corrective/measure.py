"""What a repaired network is measured by.

Predictions come from one program: the reported test images, plain and with
the trigger, the validation images, and S_m as it lies in the training set, not
augmented. Everything else is counted from them, on true labels.
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
    triggered: on the same with the trigger; None without one.
    validation: on the validation images.
    manipulated: on S_m, in ascending order.
    recovered: of S_m under wrong labels, whether its label scores above another
      wrong one, beside networks that saw neither: 1, 0, or .5 of a tie. None
      where that is not asked.
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
    expected: how far the logit of the first is above that of the second in
      networks that saw neither; 0 without such networks.
  """

  batch: Batch
  other: Int[np.ndarray, 'n']
  expected: Float[np.ndarray, 'n']


def sets(one: World, scene: Scene) -> Look:
  """The images to look at, by the names of `Look`."""
  where = np.flatnonzero(problems.manipulated(scene.problem))
  reported, triggered = scene.reported, None
  if one.trigger is not None:
    stamp = jnp.ones(reported.label.shape, bool)
    triggered = reported._replace(has_trigger=stamp)
  return Look(
    reported,
    triggered,
    scene.problem.validation,
    splits.take(scene.problem.train, where),
    _offer(one, scene, where) if one.audit else None,
  )


def _offer(
  one: World, scene: Scene, where: Int[np.ndarray, 'm']
) -> Offer | None:
  """What an audit asks; None where no label of S_m is wrong."""
  label, truth = np.asarray(scene.problem.train.label), scene.problem.truth
  wrong = where[label[where] != truth[where]]
  if not wrong.size:
    return None
  other = audits.draw_other_labels(
    rng.fold_in(scene.key, 'audit'),
    label[wrong],
    truth[wrong],
    one.dataset.num_classes,
  )
  expected = scene.expected
  if expected is None:
    expected = np.zeros(wrong.size, np.float32)
  return Offer(splits.take(scene.problem.train, wrong), other, expected)


def looker(
  network: Network, batch_size: int
) -> Callable[[Variables, Look], Look]:
  """(variables, sets) -> predictions; traceable, nothing is counted."""

  def predict(variables: Variables, batch: Batch | None):
    if batch is None:
      return None
    size = min(batch_size, batch.label.shape[0])
    return metrics.predictor(network, size)(variables, batch)

  def guess(variables: Variables, offer: Offer | None):
    if offer is None:
      return None
    size = min(batch_size, offer.batch.label.shape[0])
    see = functools.partial(network.model.apply, variables)
    logits = metrics.map_blocks(see, network.inputs, offer.batch, size)
    own, other = (
      jnp.take_along_axis(logits, label[:, None], axis=1)[:, 0]
      for label in (offer.batch.label, offer.other)
    )
    return (jnp.sign(own - other - offer.expected) + 1) / 2

  return lambda variables, images: Look(
    predict(variables, images.plain),
    predict(variables, images.triggered),
    predict(variables, images.validation),
    predict(variables, images.manipulated),
    guess(variables, images.recovered),
  )


def _mean(hits: np.ndarray) -> float | None:
  """The share of hits; None of nothing."""
  return float(np.mean(hits)) if hits.size else None


def _on_test(one: World, label: Int[np.ndarray, 'n'], seen: Look) -> Info:
  """Acc_corr, Acc_retain and what goes with them."""
  if one.pair is not None:
    inside = np.isin(label, one.pair)
    return {
      'acc_corr': _mean((seen.plain == label)[inside]),
      'acc_retain': _mean((seen.plain == label)[~inside]),
      'attack_success_rate': None,
      'accuracy_not_target': None,
    }
  others = label != one.target
  return {
    'acc_corr': _mean(seen.triggered == label),
    'acc_retain': _mean(seen.plain == label),
    'attack_success_rate': _mean((seen.triggered == one.target)[others]),
    'accuracy_not_target': _mean((seen.triggered == label)[others]),
  }


def _recovered(seen: Look) -> Info:
  if seen.recovered is None:
    return {}
  return {'label_recovery': float(np.mean(seen.recovered))}


def values(
  one: World, scene: Scene, seen: Look, before: Look, fraction: float
) -> Info:
  """The numbers of a row.

  Args:
    one: the manipulation.
    scene: the seed.
    seen: predictions of the repaired network, NumPy arrays.
    before: predictions of the original network.
    fraction: the identified fraction; decides what S_f is.

  Returns:
    acc_corr, acc_retain, attack_success_rate, accuracy_not_target,
    clean_label_accuracy_sm, validation_accuracy, forget_changed (the share of
    S_f predicted otherwise than before), forget_unlearned (otherwise than
    labelled), score (the benchmark's rule: mean of validation accuracy and
    forget_changed) and collapsed (validation accuracy fell by over 5 points);
    with an audit label_recovery, the share of wrong labels of S_m that score
    above another wrong one, beside networks that saw neither.

  References:
    Corrective Machine Unlearning, arXiv 2402.14015, sections 4 and 5.
  """
  problem = scene.problem
  where = np.flatnonzero(problems.manipulated(problem))
  known = problems.identified(problem, fraction)[where]
  right = np.asarray(problem.validation.label)
  trained = np.asarray(problem.train.label)[where]
  accuracy = float(np.mean(seen.validation == right))
  changed = float(np.mean((seen.manipulated != before.manipulated)[known]))
  return {
    **_on_test(one, np.asarray(scene.reported.label), seen),
    'clean_label_accuracy_sm': _mean(seen.manipulated == problem.truth[where]),
    'validation_accuracy': accuracy,
    'forget_changed': changed,
    'forget_unlearned': float(np.mean((seen.manipulated != trained)[known])),
    'score': (accuracy + changed) / 2,
    'collapsed': bool(
      accuracy < np.mean(before.validation == right) - COLLAPSE
    ),
    **_recovered(seen),
  }
