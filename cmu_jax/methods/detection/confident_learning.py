r"""Confident learning: wrong labels from the answers of a network.

Of n samples with given labels y and probabilities p, class j counts as likely
for a sample if p_j is at least the mean of p_j over the samples labelled j,

  t_j = mean of p_j(x) over y(x) = j,
  C_ij = #{x: y(x) = i, j the most probable of the likely classes}.

The rows of C, scaled to the counts of the given labels, are the joint
distribution Q of given and true labels. Its diagonal is the share of right
labels. With T_ij = Q_ij / sum_l Q_lj, the rate at which truth j is labelled i,

  P(truth = j | x, y) = p_j(x) T_yj / sum_l p_l(x) T_yl

is the certainty that a label is wrong (j other than y), and a correction. That
step is ours: it takes p for the probabilities of the truth.

Reference:
  Northcutt, Jiang and Chuang, Confident Learning: Estimating Uncertainty in
  Dataset Labels, arXiv 1911.00068, equations 1 to 4 and section 3.2.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from cmu_jax.core import array_checks, errors

# Probabilities of a sample are rounded when they are stored.
_SUM_TOLERANCE = 1e-3


class ConfidentJoint(NamedTuple):
  """Given against true labels, as far as the network is sure of them.

  Attributes:
    threshold: t_j, of each class; infinite for a class without samples.
    counts: C, given labels in rows, likely labels in columns.
    joint: Q, sums to 1.
  """

  threshold: Float[np.ndarray, 'k']
  counts: Int[np.ndarray, 'k k']
  joint: Float[np.ndarray, 'k k']

  @property
  def error_rate(self) -> float:
    """The estimated share of wrong labels."""
    return float(1 - np.trace(self.joint))


def check_answers(probability: np.ndarray, label: np.ndarray) -> None:
  """Refuses arrays that are no probabilities of labelled samples.

  Args:
    probability: should be [n, k], from 0 to 1, with rows that sum to 1.
    label: should be integers [n] from 0 to k - 1.

  Raises:
    UserError: names the mistake and its remedy.
  """
  errors.check(
    probability.ndim == 2 and probability.shape[1] > 1 and len(probability) > 0,
    f'probabilities have shape {probability.shape}; [n, k] with n samples and '
    'k > 1 classes is needed',
  )
  errors.check(
    probability.dtype.kind == 'f' and np.isfinite(probability).all(),
    'probabilities are not finite floats: drop these samples',
  )
  errors.check(
    probability.min() >= 0,
    f'probabilities go down to {probability.min():.3g}: logits need a softmax '
    'first',
  )
  # The worst row, because one bad row of a million is easily missed.
  total = probability.sum(axis=1)
  row = int(np.abs(total - 1).argmax())
  errors.check(
    abs(total[row] - 1) <= _SUM_TOLERANCE,
    f'probabilities of sample {row} sum to {total[row]:.4g} instead of 1: '
    'divide each row by its sum',
  )
  array_checks.check_labels('labels', label, probability.shape[1])
  errors.check(
    len(label) == len(probability),
    f'{len(probability)} samples have probabilities, but {len(label)} have '
    'labels',
  )


def pick(
  probability: Float[np.ndarray, 'n k'], label: Int[np.ndarray, 'n']
) -> Float[np.ndarray, 'n']:
  """Returns the probability of each given label: its self-confidence."""
  return np.take_along_axis(probability, label[:, None], axis=1)[:, 0]


def _strongest_rivals(
  probability: Float[np.ndarray, 'n k'], label: Int[np.ndarray, 'n']
) -> Int[np.ndarray, 'n']:
  # A copy, because the caller's array would lose its given labels.
  rivals = probability.copy()
  np.put_along_axis(rivals, label[:, None], -1.0, axis=1)
  return rivals.argmax(axis=1)


def measure_margins(
  probability: Float[np.ndarray, 'n k'], label: Int[np.ndarray, 'n']
) -> Float[np.ndarray, 'n']:
  """Subtracts the largest other probability from that of the given label."""
  rival = _strongest_rivals(probability, label)
  return pick(probability, label) - pick(probability, rival)


def estimate_joint(
  probability: Float[np.ndarray, 'n k'], label: Int[np.ndarray, 'n']
) -> ConfidentJoint:
  """Estimates the joint distribution of given and true labels.

  Args:
    probability: of classes, by a network that did not fit these labels.
    label: as given.

  Raises:
    UserError: see `check_answers`.
  """
  check_answers(probability, label)
  size, classes = probability.shape
  size_of = np.bincount(label, minlength=classes)
  total = np.bincount(label, pick(probability, label), classes)
  # A class without samples has no threshold, so no sample is likely of it.
  threshold = np.where(size_of > 0, total / np.maximum(size_of, 1), np.inf)
  likely = np.where(probability >= threshold, probability, -1.0)
  guess = likely.argmax(axis=1)
  sure = likely.max(axis=1) >= 0
  # `add.at`, because a pair of classes occurs many times.
  counts = np.zeros((classes, classes), np.int64)
  np.add.at(counts, (label[sure], guess[sure]), 1)
  # A class of which the network is never sure keeps its labels.
  unsure = counts.sum(axis=1) == 0
  filled = counts + np.diag(np.where(unsure, size_of, 0))
  rows = np.maximum(filled.sum(axis=1, keepdims=True), 1)
  return ConfidentJoint(
    threshold, counts, filled / rows * size_of[:, None] / size
  )


def prune_by_class(
  probability: Float[np.ndarray, 'n k'],
  label: Int[np.ndarray, 'n'],
  joint: Float[np.ndarray, 'k k'],
) -> Bool[np.ndarray, 'n']:
  """Marks the least self-confident labels of each class, as many as Q says."""
  confidence, marked = pick(probability, label), np.zeros(len(label), bool)
  wrong = (joint.sum(axis=1) - np.diag(joint)) * len(label)
  for name, count in enumerate(np.rint(wrong).astype(int)):
    rows = np.flatnonzero(label == name)
    marked[rows[np.argsort(confidence[rows], kind='stable')[:count]]] = True
  return marked


def prune_by_noise_rate(
  probability: Float[np.ndarray, 'n k'],
  label: Int[np.ndarray, 'n'],
  joint: Float[np.ndarray, 'k k'],
) -> Bool[np.ndarray, 'n']:
  """Marks, for each wrong pair of classes, as many samples as Q says.

  They are those of the largest margin p_j - p_i of the other class.
  """
  marked = np.zeros(len(label), bool)
  count = np.rint(joint * len(label)).astype(int)
  # The diagonal are the right labels.
  np.fill_diagonal(count, 0)
  for label_of, truth in np.argwhere(count > 0):
    # The same sample may be taken for several pairs: the union is marked.
    rows = np.flatnonzero(label == label_of)
    margin = probability[rows, truth] - probability[rows, label_of]
    order = np.argsort(-margin, kind='stable')[: count[label_of, truth]]
    marked[rows[order]] = True
  return marked


def infer_truth(
  probability: Float[np.ndarray, 'n k'],
  label: Int[np.ndarray, 'n'],
  joint: Float[np.ndarray, 'k k'],
) -> Float[np.ndarray, 'n k']:
  """Computes P(truth | x, given label); see the top of this module."""
  # A class that nobody has: 0 / 0 would spread NaN over all samples.
  rate = joint / np.maximum(joint.sum(axis=0, keepdims=True), 1e-12)
  truth = probability * rate[label]
  total = truth.sum(axis=1, keepdims=True)
  # A pair of classes that Q excludes leaves nothing: then p alone decides.
  return np.where(total > 0, truth / np.maximum(total, 1e-300), probability)


def measure_sure_errors(
  probability: Float[np.ndarray, 'n k'],
  label: Int[np.ndarray, 'n'],
  share: float = 0.2,
) -> float:
  """Measures the share of other labels where the network is surest.

  A weak network takes hard samples for wrong labels, and Q counts them. It errs
  least where it is surest, so this is a lower estimate of the error rate, lower
  than the truth where people mislabel hard samples alone.

  Args:
    probability: of classes.
    label: as given.
    share: of the samples that are predicted as a class.
  """
  guess, wrong = probability.argmax(axis=1), 0.0
  for name in np.unique(guess):
    rows = np.flatnonzero(guess == name)
    count = max(1, round(share * len(rows)))
    top = rows[np.argsort(-probability[rows, name], kind='stable')[:count]]
    # Weighted by predictions: the classes of the truth are unknown.
    wrong += len(rows) * float(np.mean(label[top] != name))
  return wrong / len(label)


def correct_labels(
  truth: Float[np.ndarray, 'n k'], label: Int[np.ndarray, 'n']
) -> Int[np.ndarray, 'n']:
  """Returns the most likely class of each sample besides its given label."""
  return _strongest_rivals(truth, label)


def expect_precision(
  certainty: Float[np.ndarray, 'm'],
) -> Float[np.ndarray, 'm']:
  """Expects the share of errors among the samples up to each of them.

  Args:
    certainty: that each label is wrong, the largest first.
  """
  return np.cumsum(certainty) / np.arange(1, len(certainty) + 1)
