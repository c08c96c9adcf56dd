"""Measures of a repaired network, and the rules that choose by them.

A single program predicts the reported test images, plain and with the trigger,
the validation images, and S_m as in the training set, but not augmented. All
measures are counts of these predictions against true labels.

The rule of the benchmark uses validation data and S_f only. It has a weakness:
a constant predictor changes all of S_f. On ten classes it scores .55, which may
be above the score of a repair. Such a point is reported nevertheless, flagged
as collapsed, together with the choice of an oracle.
"""

import functools
from collections.abc import Callable, Sequence
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

# A fall of validation accuracy beyond this is flagged as a collapse.
COLLAPSE = 0.05
# An oracle's choice may lose so much of Acc_retain.
SLACK = 0.01
RULES = ('paper', 'oracle')


class Probe(NamedTuple):
  """Images to predict, or the predictions of one network or a stack of them.

  Attributes:
    plain: the reported test images.
    triggered: the same images with the trigger; None without a trigger.
    validation: the validation images.
    manipulated: S_m, in ascending order.
    recovered: an `Offer`, or for each of its images: 1 if its wrong label
      scores above another wrong label, compared with networks that saw
      neither; 0 if below, .5 for a tie. None without an audit.
  """

  plain: Any
  triggered: Any
  validation: Any
  manipulated: Any
  recovered: Any = None


class Offer(NamedTuple):
  """Images of S_m, and two wrong labels of each: the trained one, and another.

  Attributes:
    batch: the images, under the wrong labels that they were trained with.
    other: the other labels.
    expected: mean difference of their logits in networks that saw neither
      label; 0 without such networks.
  """

  batch: Batch
  other: Int[np.ndarray, 'n']
  expected: Float[np.ndarray, 'n']


def select_images(shared: World, scene: Scene) -> Probe:
  """Selects the images to predict."""
  position = np.flatnonzero(problems.find_manipulated(scene.problem))
  reported, triggered = scene.reported, None
  if shared.trigger is not None:
    # The input step paints the trigger on the flagged images.
    stamp = jnp.ones(reported.label.shape, bool)
    triggered = reported._replace(has_trigger=stamp)
  return Probe(
    reported,
    triggered,
    scene.problem.validation,
    splits.take(scene.problem.train, position),
    _offer_labels(shared, scene, position) if shared.audit else None,
  )


def _offer_labels(
  shared: World, scene: Scene, position: Int[np.ndarray, 'm']
) -> Offer | None:
  """Pairs the images with two wrong labels; None without a wrong label."""
  label, truth = np.asarray(scene.problem.train.label), scene.problem.truth
  # Poison of the target class is labelled rightly.
  wrong = position[label[position] != truth[position]]
  if not wrong.size:
    return None
  alternative = audits.draw_other_labels(
    rng.fold_in(scene.key, 'audit'),
    label[wrong],
    truth[wrong],
    shared.dataset.num_classes,
  )
  expected = scene.expected
  if expected is None:
    expected = np.zeros(wrong.size, np.float32)
  return Offer(splits.take(scene.problem.train, wrong), alternative, expected)


def make_predictor(
  network: Network, batch_size: int
) -> Callable[[Variables, Probe], Probe]:
  """Builds the traceable function (variables, images) -> predictions."""

  def predict(variables: Variables, batch: Batch | None):
    if batch is None:
      return None
    size = min(batch_size, batch.label.shape[0])
    return metrics.predictor(network, size)(variables, batch)

  def compare(variables: Variables, offer: Offer | None):
    if offer is None:
      return None
    size = min(batch_size, offer.batch.label.shape[0])
    apply = functools.partial(network.model.apply, variables)
    logits = metrics.map_blocks(apply, network.inputs, offer.batch, size)
    trained, alternative = (
      jnp.take_along_axis(logits, label[:, None], axis=1)[:, 0]
      for label in (offer.batch.label, offer.other)
    )
    # 1, .5 or 0, so that the mean over images is a share.
    return (jnp.sign(trained - alternative - offer.expected) + 1) / 2

  return lambda variables, images: Probe(
    predict(variables, images.plain),
    predict(variables, images.triggered),
    predict(variables, images.validation),
    predict(variables, images.manipulated),
    compare(variables, images.recovered),
  )


def _mean(hits: np.ndarray) -> float | None:
  """Computes the share of hits; None without any image."""
  return float(np.mean(hits)) if hits.size else None


def _test_measures(
  shared: World, label: Int[np.ndarray, 'n'], predicted: Probe
) -> Info:
  """Computes Acc_corr, Acc_retain and the rates of an attack."""
  plain = predicted.plain == label
  if shared.pair is not None:
    inside = np.isin(label, shared.pair)
    return {
      'acc_corr': _mean(plain[inside]),
      'acc_retain': _mean(plain[~inside]),
      'attack_success_rate': None,
      'accuracy_not_target': None,
    }
  # Images of the target class are given it without any attack.
  others = label != shared.target
  triggered = predicted.triggered == label
  return {
    'acc_corr': _mean(triggered),
    'acc_retain': _mean(plain),
    'attack_success_rate': _mean(
      (predicted.triggered == shared.target)[others]
    ),
    'accuracy_not_target': _mean(triggered[others]),
  }


def compute_measures(
  shared: World, scene: Scene, predicted: Probe, start: Probe, fraction: float
) -> Info:
  """Computes the measures of a row.

  Args:
    shared: the manipulation.
    scene: the problem.
    predicted: predictions of the repaired network, NumPy arrays.
    start: predictions of the original network.
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
  position = np.flatnonzero(problems.find_manipulated(problem))
  identified = problems.find_identified(problem, fraction)[position]
  label = np.asarray(problem.validation.label)
  trained = np.asarray(problem.train.label)[position]
  # Both are parts of the score: right on clean images, changed on S_f.
  accuracy = float(np.mean(predicted.validation == label))
  changed = float(
    np.mean((predicted.manipulated != start.manipulated)[identified])
  )
  return {
    **_test_measures(shared, np.asarray(scene.reported.label), predicted),
    'clean_label_accuracy_sm': _mean(
      predicted.manipulated == problem.truth[position]
    ),
    'validation_accuracy': accuracy,
    'forget_changed': changed,
    'forget_unlearned': float(
      np.mean((predicted.manipulated != trained)[identified])
    ),
    'score': (accuracy + changed) / 2,
    'collapsed': bool(accuracy < np.mean(start.validation == label) - COLLAPSE),
    **(
      {}
      if predicted.recovered is None
      else {'label_recovery': float(np.mean(predicted.recovered))}
    ),
  }


def choose_paper(points: Sequence[Info]) -> int | None:
  """Chooses the point with the best score; None if all diverged.

  References:
    Corrective Machine Unlearning, arXiv 2402.14015, section 5.
  """
  converged = [i for i, point in enumerate(points) if not point['diverged']]
  return max(converged, key=lambda i: points[i]['score'], default=None)


def choose_oracle(points: Sequence[Info], retain: float | None) -> int | None:
  """Chooses the best Acc_corr among points that retain Acc_retain.

  It reads test labels.

  Args:
    points: of a grid.
    retain: Acc_retain of the original network, of which a point may lose .01;
      None if all classes are affected.

  Returns:
    The position; if no point retains enough, that of the highest Acc_retain;
    None if all diverged.
  """
  converged = [i for i, point in enumerate(points) if not point['diverged']]
  retaining = [
    i
    for i in converged
    if retain is None or points[i]['acc_retain'] >= retain - SLACK
  ]
  metric = 'acc_corr' if retaining else 'acc_retain'
  candidates = retaining or converged
  return max(candidates, key=lambda i: points[i][metric], default=None)
