"""Attacks by support vector machines: MIA-NN, and the confidence attack (MIS).

MIA-NN compares a network with retrained ones on images of a forgotten class f.
Retrained networks send these images to classes that look like f; a network that
merely stopped predicting f leaves another pattern in its other logits. Let A(M)
be the accuracy of a support vector machine that tells unseen images of f from
those of its nearest class nn(f) by the retained logits of M. Then

  gap(M) = |A(M) - mean_r A(R_r)|     over retrained networks R_r
  TV(M)  = 1/2 sum_k |mean_x p(k|x; M) - mean_r,x p(k|x; R_r)|   on images of f

TV has no parameters and no fit. The noise floor is the distance of a retrained
network from the others. MIA-NN tests distributions, not single images, and
needs retrained networks, which a deployment does not have.

In the confidence attack, a support vector machine learns from the probability
of the label to tell retained training points from test points; MIS is the share
of the forget set that it calls unseen. It is fitted on the very test points
that represent unseen ones, and calls most confident points members: only its
gap to retraining is meaningful.

References:
  On the Necessity of Output Distribution Reweighting for Effective Class
  Unlearning, arXiv 2506.20893 (MIA-NN). Model Sparsity Can Simplify Machine
  Unlearning, arXiv 2304.04934, appendix C.3 (MIA-Efficacy), which AMUN, arXiv
  2503.00917, calls MIS.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Num
from sklearn import model_selection, pipeline, preprocessing, svm

from cmu_jax.core import errors
from cmu_jax.core.types import PRNGKey

# Two retrained networks have a difference, but no spread.
MIN_RETRAINED = 3
FOLDS = 5
# Penalty of the confidence attack, as published.
_CONFIDENCE_PENALTY = 3.0


class RetrainedGap(NamedTuple):
  """The distance of a network from retrained ones, beside their spread.

  Attributes:
    value: quantity of the network.
    retrained: the same of each retrained network, [r]; for a distance, its
      distance to the mean of the others.
    gap: distance to the mean of the retrained networks.
    floor: mean distance of a retrained network to the mean of the others.
    largest: the largest such distance. A further retrained network exceeds it
      with probability 1 / (r + 1).
  """

  value: float
  retrained: Float[np.ndarray, 'r']
  gap: float
  floor: float
  largest: float

  @property
  def within_retrained(self) -> bool:
    """True if a retrained network is at least as far from the others."""
    return self.gap <= self.largest


def leave_one_out_means(
  values: Num[np.ndarray, 'r ...'],
) -> Float[np.ndarray, 'r ...']:
  """The mean of the other rows, for each row.

  Raises:
    UserError: fewer than three rows.
  """
  count = len(values)
  errors.check(
    count >= MIN_RETRAINED,
    f'{count} retrained networks: cannot conclude; the noise floor needs '
    f'{MIN_RETRAINED} or more',
  )
  return (np.sum(values, axis=0)[None] - values) / (count - 1)


def nearest_class(predicted: Int[np.ndarray, 'r n'], forget: int) -> int:
  """nn(f): the class that retrained networks predict most often for f.

  Args:
    predicted: classes that r retrained networks predict for images of f.
    forget: f, which does not count.

  Raises:
    UserError: all predictions are f.
  """
  # A retrained network has no logit for f, or never predicts it.
  answers = predicted[predicted != forget]
  errors.check(
    answers.size,
    f'every retrained network predicts class {forget} for all its images: they '
    'were trained on it',
  )
  return int(np.bincount(answers).argmax())


def separability(
  key: PRNGKey,
  first: Num[np.ndarray, 'n d'],
  second: Num[np.ndarray, 'm d'],
  folds: int = FOLDS,
) -> float:
  """Cross-validated accuracy of a support vector machine, 0 to 1.

  Radial kernel, penalty 1, width 1 / (d times the variance). With equally many
  samples, the Bayes classifier reaches (1 + TV) / 2.

  Args:
    key: of the order of samples in folds.
    first: features of one kind.
    second: features of the other kind.
    folds: number of folds, stratified by kind.

  Raises:
    UserError: too few samples for the folds, or a value that is not finite.
  """
  fewest = min(len(first), len(second))
  errors.check(
    fewest >= folds >= 2,
    f'MIA-NN has {fewest} images of a class for {folds} folds: cannot '
    'conclude; use more unseen images',
  )
  features = np.concatenate([first, second]).astype(np.float64)
  errors.check(np.isfinite(features).all(), 'MIA-NN: a logit is not finite')
  label = np.repeat([1, 0], [len(first), len(second)])
  # Folds are cut in order: shuffled, they are random but fixed by the key.
  order = np.asarray(jax.random.permutation(key, len(label)))
  # Kernel, penalty and folds are ours: the published values are not public.
  # The scaler belongs to the fold: fitted on all samples, it would leak.
  machine = pipeline.make_pipeline(
    preprocessing.StandardScaler(), svm.SVC(C=1.0, kernel='rbf', gamma='scale')
  )
  split = model_selection.StratifiedKFold(folds)
  hits = model_selection.cross_val_predict(
    machine, features[order], label[order], cv=split
  )
  return float(np.mean(hits == label[order]))


def discriminator_accuracy(
  key: PRNGKey,
  logits: Num[np.ndarray, 'n k'],
  forget: Bool[np.ndarray, 'n'],
  nearest: Bool[np.ndarray, 'n'],
  forgotten: int,
  folds: int = FOLDS,
) -> float:
  """A(M): accuracy at telling images of f from nn(f) by retained logits.

  Args:
    key: of the folds; use the same key for all networks.
    logits: of a network on unseen images.
    forget: marks the images of f.
    nearest: marks the images of nn(f).
    forgotten: f, whose logit is left out.
    folds: of the cross-validation.

  Raises:
    UserError: as `separability`.
  """
  retained = np.delete(logits, forgotten, axis=1)
  return separability(key, retained[forget], retained[nearest], folds)


def accuracy_gap(value: float, retrained: Num[np.ndarray, 'r']) -> RetrainedGap:
  """The MIA-NN gap of a network.

  Args:
    value: A(M).
    retrained: A(R_r) of each retrained network.

  Raises:
    UserError: fewer than three retrained networks.
  """
  distances = np.abs(retrained - leave_one_out_means(retrained))
  return RetrainedGap(
    value,
    np.asarray(retrained, np.float64),
    float(abs(value - retrained.mean())),
    float(distances.mean()),
    float(distances.max()),
  )


def total_variation(
  first: Num[np.ndarray, '*b k'], second: Num[np.ndarray, '*b k']
) -> Float[np.ndarray, '*b']:
  """Half the sum of absolute differences of distributions over classes."""
  distance = np.abs(np.asarray(first, np.float64) - second).sum(axis=-1)
  return np.asarray(distance / 2)


def total_variation_gap(
  answer: Num[np.ndarray, 'k'], retrained: Num[np.ndarray, 'r k']
) -> RetrainedGap:
  """TV between the mean answers of a network and of retrained ones.

  Args:
    answer: mean probabilities over unseen images of f.
    retrained: the same of each retrained network.

  Raises:
    UserError: fewer than three retrained networks.
  """
  distances = total_variation(retrained, leave_one_out_means(retrained))
  value = float(total_variation(answer, retrained.mean(axis=0)))
  return RetrainedGap(
    value, distances, value, float(distances.mean()), float(distances.max())
  )


def _finite_column(name: str, values: Num[np.ndarray, '_']) -> np.ndarray:
  errors.check(values.size, f'the confidence attack has no {name} points')
  errors.check(
    np.isfinite(values).all(),
    f'a confidence of the {name} points is not finite',
  )
  return np.asarray(values, np.float64)[:, None]


def confidence_attack(
  key: PRNGKey,
  retain: Num[np.ndarray, 'r'],
  test: Num[np.ndarray, 't'],
  forget: Num[np.ndarray, 'f'],
  max_test: int | None = None,
) -> float:
  """MIS: the share of the forget set that the attack calls unseen, 0 to 1.

  Args:
    key: of the sampled points, as many retained as test points.
    retain: probability of the label of retained training points.
    test: of test points.
    forget: of forgotten points.
    max_test: limit of test points, because the time grows with their square;
      None for all.

  Raises:
    UserError: a set is empty or has a value that is not finite.
  """
  members, others = (
    _finite_column('retained', retain),
    _finite_column('test', test),
  )
  forgotten = _finite_column('forgotten', forget)
  shuffle = lambda side: np.asarray(jax.random.permutation(key, len(side)))
  # Balanced classes: otherwise the attack may call every point a member.
  others = others[shuffle(others)[:max_test]]
  members = members[shuffle(members)[: len(others)]]
  label = np.repeat([1, 0], [len(members), len(others)])
  # gamma="auto" is 1 / features, so 1 for the single feature.
  attack = svm.SVC(C=_CONFIDENCE_PENALTY, kernel='rbf', gamma='auto')
  attack.fit(np.concatenate([members, others]), label)
  return float(np.mean(attack.predict(forgotten) == 0))
