"""Suspects among labelled samples: wrong labels and outliers, from arrays.

Nobody has identified a bad sample here. Answers that a network memorised agree
with wrong labels; a linear head that is cross-fitted on its features answers
each sample without having seen its label.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from sklearn import linear_model, pipeline, preprocessing

from cmu_jax.core import errors, progress
from cmu_jax.methods.detection import confident_learning, detectors

# A network that agrees with more of the given labels may have memorised them.
MEMORISED = 0.9
_FOLDS = 5
# Strengths of the regularisation, chosen on a fold that no fit has seen.
_STRENGTHS = (1e-3, 1e-2, 1e-1)
# Samples that this choice takes: it needs no precision.
_TRIED = 2000
# Outliers: rank of the neighbour, and its distance in robust deviations above
# the median of all. Of a Gaussian, 4 leave out 3 in 100,000.
_NEIGHBOUR, _DEVIATIONS = 10, 4.0
_MAD_TO_DEVIATION = 1.4826


class Suspects(NamedTuple):
  """Suspect samples of one kind, the most certain first.

  Attributes:
    row: positions of the samples.
    suggested: the class that each should have; -1 without a suggestion.
    certainty: that the suspicion is right, from 0 to 1.
    precision: expected share of right suspicions up to each; NaN if unknown.
    partner: position of the sample that each copies; -1 without one.
  """

  row: Int[np.ndarray, 'm']
  suggested: Int[np.ndarray, 'm']
  certainty: Float[np.ndarray, 'm']
  precision: Float[np.ndarray, 'm']
  partner: Int[np.ndarray, 'm']


def make_suspects(
  row: np.ndarray,
  certainty: np.ndarray,
  suggested: np.ndarray | None = None,
  partner: np.ndarray | None = None,
  precision: np.ndarray | None = None,
) -> Suspects:
  """Builds suspects; what is absent is -1, or NaN for the precision."""
  nothing = np.full(len(row), -1)
  return Suspects(
    row,
    nothing if suggested is None else suggested,
    certainty,
    np.full(len(row), np.nan) if precision is None else precision,
    nothing if partner is None else partner,
  )


def is_memorised(
  probability: Float[np.ndarray, 'n k'], label: Int[np.ndarray, 'n']
) -> bool:
  """True if the answers repeat almost all given labels."""
  return float(np.mean(probability.argmax(axis=1) == label)) > MEMORISED


def _assign_folds(
  features: Float[np.ndarray, 'n d'], label: Int[np.ndarray, 'n']
) -> Int[np.ndarray, 'n']:
  """Spreads each class over the folds, in an order that features decide."""
  # By norm, not by position: the order of the samples must not matter.
  size = np.linalg.norm(features, axis=1)
  order = np.lexsort((size, label))
  fold = np.empty(len(label), np.int64)
  fold[order] = np.arange(len(label)) % _FOLDS
  return fold


def cross_fit(
  features: Float[np.ndarray, 'n d'],
  label: Int[np.ndarray, 'n'],
  classes: int,
) -> Float[np.ndarray, 'n k']:
  """Computes the answers of linear heads that did not see the sample's label.

  Args:
    features: of the samples.
    label: as given.
    classes: k.

  Raises:
    UserError: fewer than two classes, or fewer samples than folds.
  """
  errors.check(
    len(np.unique(label)) > 1 and len(label) >= 2 * _FOLDS,
    f'{len(label)} samples of {len(np.unique(label))} classes are too few to '
    f'be judged by each other; give at least {2 * _FOLDS} of two classes',
  )
  wide = features.astype(np.float64)
  fold = _assign_folds(wide, label)
  answer = np.zeros((len(label), classes))

  strength = _choose_strength(wide, label, fold, classes)
  with progress.bar('cross-fitted heads', _FOLDS, 'heads') as advance:
    for number in range(_FOLDS):
      out = fold == number
      answer[out] = _fit(wide[~out], label[~out], wide[out], classes, strength)
      advance()
  return answer


def _fit(
  features: np.ndarray,
  label: np.ndarray,
  others: np.ndarray,
  classes: int,
  strength: float,
) -> Float[np.ndarray, 'm k']:
  """Answers of a linear head, fitted on features, to other features."""
  head = pipeline.make_pipeline(
    preprocessing.StandardScaler(),
    linear_model.LogisticRegression(C=strength, max_iter=200, tol=1e-3),
  )
  head.fit(features, label)
  # A fold may lack a class that few samples have.
  columns = np.zeros((len(others), classes))
  columns[:, head[-1].classes_] = head.predict_proba(others)
  return columns


def _choose_strength(
  features: np.ndarray, label: np.ndarray, fold: np.ndarray, classes: int
) -> float:
  """Chooses the strength whose head answers the first fold best."""
  # Every so many-th in the order of the classes: all of them are there.
  order = np.lexsort((np.linalg.norm(features, axis=1), label))
  inside = order[fold[order] != 0]
  inside = inside[:: -(-len(inside) // _TRIED)]
  out = fold == 0
  fitness = {}
  for strength in _STRENGTHS:
    answer = _fit(
      features[inside], label[inside], features[out], classes, strength
    )
    likelihood = confident_learning.pick(answer, label[out])
    fitness[strength] = np.log(np.maximum(likelihood, 1e-6)).mean()
  return max(fitness, key=lambda strength: fitness[strength])


def find_wrong_labels(
  probability: Float[np.ndarray, 'n k'], label: Int[np.ndarray, 'n']
) -> Suspects:
  """Ranks all samples by the certainty that their label is wrong.

  Args:
    probability: answers that do not repeat the given labels, see `cross_fit`.
    label: as given.

  Returns:
    All n samples. The sum of the certainties is the expected number of errors.

  Raises:
    UserError: arrays that do not fit each other.
  """
  joint = confident_learning.estimate_joint(probability, label).joint
  truth = confident_learning.infer_truth(probability, label, joint)
  certainty = 1 - confident_learning.pick(truth, label)
  # Ties in the order of the margins: many certainties are exactly 1.
  margin = confident_learning.measure_margins(probability, label)
  row = np.lexsort((margin, -certainty))
  return make_suspects(
    row,
    certainty[row],
    confident_learning.correct_labels(truth, label)[row],
    precision=confident_learning.expect_precision(certainty[row]),
  )


def find_outliers(features: Float[np.ndarray, 'n d']) -> Suspects:
  """Finds samples far from all others in features; few, on purpose.

  Args:
    features: of the samples. A sample far from its class but near to others is
      a matter of labels, so classes play no part.

  Returns:
    Samples whose tenth neighbour is four robust deviations farther than usual,
    in the logarithm of the distance. The expected precision is unknown.
  """
  if len(features) <= _NEIGHBOUR + 1:
    return make_suspects(np.zeros(0, int), np.zeros(0))
  near = detectors.find_neighbours(features, _NEIGHBOUR)[:, -1]
  size = np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
  unit = features / size
  away = np.linalg.norm(unit - unit[near], axis=1)
  logarithm = np.log(np.maximum(away, 1e-6))
  centre = np.median(logarithm)
  spread = _MAD_TO_DEVIATION * np.median(np.abs(logarithm - centre))
  deviation = (logarithm - centre) / max(float(spread), 1e-6)
  row = np.flatnonzero(deviation > _DEVIATIONS)
  row = row[np.argsort(-deviation[row], kind='stable')]
  # Chebyshev: a share of at most 1 / d^2 of any distribution is as far away.
  return make_suspects(row, 1 - 1 / deviation[row] ** 2)


def find(
  probabilities: np.ndarray,
  labels: np.ndarray,
  features: np.ndarray | None = None,
) -> dict[str, Suspects]:
  """Finds suspect samples from the answers of a network.

  Args:
    probabilities: of the classes, [n, k], rows sum to 1.
    labels: as given, integers [n].
    features: of the last layer, [n, d], or None. Where the answers repeat the
      labels, a head cross-fitted on them answers instead.

  Returns:
    Kind -> suspects: 'wrong label' has all samples, ranked; 'outlier' those far
    from all others, with features alone.

  Raises:
    UserError: arrays that do not fit each other.
  """
  answer, label = np.asarray(probabilities), np.asarray(labels)
  confident_learning.check_answers(answer, label)
  answer, label = answer.astype(np.float64), label.astype(np.int64)
  narrow = None if features is None else np.asarray(features)
  if narrow is not None:
    errors.check(
      narrow.ndim == 2 and len(narrow) == len(label),
      f'features have shape {narrow.shape}; [{len(label)}, d] is needed',
    )
  answer, _ = choose_answers(answer, label, narrow)
  return find_in_answers(answer, label, narrow)


def choose_answers(
  probability: Float[np.ndarray, 'n k'],
  label: Int[np.ndarray, 'n'],
  features: Float[np.ndarray, 'n d'] | None,
) -> tuple[Float[np.ndarray, 'n k'], bool]:
  """Chooses the answers that judge the labels.

  Returns:
    The given answers, or those of cross-fitted heads where the given answers
    repeat the labels and features are at hand; and whether they repeat them.
  """
  memorised = is_memorised(probability, label)
  if memorised and features is not None:
    probability = cross_fit(features, label, probability.shape[1])
  return probability, memorised


def find_in_answers(
  answer: Float[np.ndarray, 'n k'],
  label: Int[np.ndarray, 'n'],
  features: Float[np.ndarray, 'n d'] | None,
) -> dict[str, Suspects]:
  """Finds suspects from answers that do not repeat the labels; see `find`."""
  kinds = {'wrong label': find_wrong_labels(answer, label)}
  if features is not None:
    kinds['outlier'] = find_outliers(features)
  return kinds
