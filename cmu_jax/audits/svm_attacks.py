"""MIA-NN: does a network treat a forgotten class as a retrained one does?

Retrained networks give images of the forgotten class f to the classes that
look like it; a network that was only made to stop saying f leaves another
pattern in the rest of its logits. Of unseen images of f and of its nearest
class nn(f), with A(M) the accuracy of a support vector machine that learns to
tell the two by the retained logits of M,

  gap(M) = |A(M) - mean_r A(R_r)|     over retrained networks R_r
  TV(M)  = 1/2 sum_k |mean_x p(k|x; M) - mean_r,x p(k|x; R_r)|   on images of f

The second has no parameters and no fit. Retrained networks differ among
themselves: the noise floor is how far each of them is from the others.

This is a test of distributions, not of single images, and it needs retrained
networks, which a deployment does not have. Kernel, penalty and folds are ours:
the published ones are not public.

References:
  On the Necessity of Output Distribution Reweighting for Effective Class
  Unlearning, arXiv 2506.20893.

The confidence attack, whose answer on the forget set is called MIS.

A support vector machine learns from the probability of the label alone which
points are of the retained training set and which of the test set; MIS is the
share of the forget set that it holds for unseen. It is fitted on the very test
points that stand for unseen ones, and calls most confident points members:
only its gap to retraining means anything.

References:
  Model Sparsity Can Simplify Machine Unlearning, arXiv 2304.04934, appendix
  C.3 (MIA-Efficacy); AMUN, arXiv 2503.00917, calls it MIS.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Num
from sklearn import model_selection, pipeline, preprocessing, svm

from cmu_jax.core import errors
from cmu_jax.core.types import PRNGKey

# Fewer leave no spread to compare with.
MIN_RETRAINED = 3
FOLDS = 5


class RetrainedGap(NamedTuple):
  """How far a network is from retrained ones, and they from each other.

  Attributes:
    value: of the network.
    retrained: the same of each retrained network, [r]; of a distance, that to
      the mean of the others.
    gap: distance to the mean of the retrained networks.
    floor: mean distance of a retrained network to the mean of the others.
    largest: the largest such distance. Were the network one more retrained
      one, its gap would be above it about once in r + 1 times.
  """

  value: float
  retrained: Float[np.ndarray, 'r']
  gap: float
  floor: float
  largest: float

  @property
  def within_retrained(self) -> bool:
    """Whether it is no farther off than a retrained network is."""
    return self.gap <= self.largest


def leave_one_out_means(
  values: Num[np.ndarray, 'r ...'],
) -> Float[np.ndarray, 'r ...']:
  """For each row, the mean of the other ones.

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
  """nn(f): what retrained networks call images of f most often.

  Args:
    predicted: classes by r retrained networks of images of f.
    forget: f, which is not counted; retrained networks never answer it.

  Raises:
    UserError: there is no such answer.
  """
  answers = predicted[predicted != forget]
  errors.check(
    answers.size,
    f'every retrained network calls all images of class {forget} by that '
    'class: they were trained on it',
  )
  return int(np.bincount(answers).argmax())


def separability(
  key: PRNGKey,
  first: Num[np.ndarray, 'n d'],
  second: Num[np.ndarray, 'm d'],
  folds: int = FOLDS,
) -> float:
  """Cross-validated accuracy of a support vector machine, 0 to 1.

  Radial kernel, penalty 1, width 1 / (d times the variance), features
  standardised within each fold. The Bayes classifier of equally many samples
  would reach (1 + TV) / 2.

  Args:
    key: of the order in which samples fall into folds.
    first: features of one kind.
    second: of the other.
    folds: how many, each with its share of either kind.

  Raises:
    UserError: too few samples for the folds, or a value that is not finite.
  """
  fewest = min(len(first), len(second))
  errors.check(
    fewest >= folds >= 2,
    f'MIA-NN has {fewest} images of a class for {folds} folds: cannot '
    'conclude; give it more unseen images',
  )
  features = np.concatenate([first, second]).astype(np.float64)
  errors.check(np.isfinite(features).all(), 'MIA-NN: a logit is not finite')
  label = np.repeat([1, 0], [len(first), len(second)])
  order = np.asarray(jax.random.permutation(key, len(label)))
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
  """A(M): how well retained logits tell images of f from those of nn(f).

  Args:
    key: of the folds; the same one for all networks.
    logits: of one network on unseen images.
    forget: which images are of f.
    nearest: which are of nn(f).
    forgotten: f, whose logit is left out.
    folds: of the cross-validation.

  Raises:
    UserError: as `separability`.
  """
  kept = np.delete(logits, forgotten, axis=1)
  return separability(key, kept[forget], kept[nearest], folds)


def accuracy_gap(value: float, retrained: Num[np.ndarray, 'r']) -> RetrainedGap:
  """The MIA-NN gap of a network.

  Args:
    value: A(M).
    retrained: A(R_r) of each retrained network.

  Raises:
    UserError: fewer than three retrained networks.
  """
  apart = np.abs(retrained - leave_one_out_means(retrained))
  return RetrainedGap(
    value,
    np.asarray(retrained, np.float64),
    float(abs(value - retrained.mean())),
    float(apart.mean()),
    float(apart.max()),
  )


def total_variation(
  first: Num[np.ndarray, '*b k'], second: Num[np.ndarray, '*b k']
) -> Float[np.ndarray, '*b']:
  """Half the sum of absolute differences of distributions over classes."""
  apart = np.abs(np.asarray(first, np.float64) - second).sum(axis=-1)
  return np.asarray(apart / 2)


def total_variation_gap(
  answer: Num[np.ndarray, 'k'], retrained: Num[np.ndarray, 'r k']
) -> RetrainedGap:
  """TV of a network's mean answer on images of f to that of retrained ones.

  Args:
    answer: mean probabilities over unseen images of f.
    retrained: those of each retrained network.

  Raises:
    UserError: fewer than three retrained networks.
  """
  apart = total_variation(retrained, leave_one_out_means(retrained))
  value = float(total_variation(answer, retrained.mean(axis=0)))
  return RetrainedGap(
    value, apart, value, float(apart.mean()), float(apart.max())
  )


# As published.
_PENALTY = 3.0


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
  """MIS: the share of the forget set that is held for unseen, 0 to 1.

  Args:
    key: of the points that are used, as many retained as test ones.
    retain: probability of the label of retained training points.
    test: of test points.
    forget: of forgotten points.
    max_test: how many test points are used, whose square the time grows with;
      None for all.

  Raises:
    UserError: a set is empty or has a value that is not finite.
  """
  members, others = (
    _finite_column('retained', retain),
    _finite_column('test', test),
  )
  asked = _finite_column('forgotten', forget)
  draw = lambda side: np.asarray(jax.random.permutation(key, len(side)))
  others = others[draw(others)[:max_test]]
  members = members[draw(members)[: len(others)]]
  label = np.repeat([1, 0], [len(members), len(others)])
  attack = svm.SVC(C=_PENALTY, kernel='rbf', gamma='auto')
  attack.fit(np.concatenate([members, others]), label)
  return float(np.mean(attack.predict(asked) == 0))
