"""Spectral signatures: bad samples lie far along the first principal axis.

References:
  Tran, Li and Madry, Spectral Signatures in Backdoor Attacks, NeurIPS 2018,
  arXiv 1811.00636, algorithm 1.

Activation clustering: a class with bad samples falls into two clusters.

References:
  Chen et al., Detecting Backdoor Attacks on Deep Neural Networks by
  Activation Clustering, arXiv 1811.03728, algorithm 1 (there with independent
  components in place of principal ones).

Nearest neighbours in feature space: bad samples lie among bad ones.

References:
  Papernot and McDaniel, Deep k-Nearest Neighbors, arXiv 1803.04765
  (disagreement of labels); the share of S_f is the same vote with two classes.

A classifier of S_f against the rest of its trained class.

The rest is unlabelled: it holds good samples and bad ones that nobody found.
A sample is scored by a fit that has not seen it, so that a hidden bad one is
not held for good because it was fitted as such.

References:
  Elkan and Noto, Learning Classifiers from Only Positive and Unlabeled Data,
  KDD 2008: with S_f drawn uniformly the order of the scores is the right one.
"""

import functools
import math
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn import cluster, linear_model, neighbors, pipeline, preprocessing

from cmu_jax.core import errors
from cmu_jax.methods.detection import flagging
from cmu_jax.methods.detection.detector_data import Detector, DetectorData

_SLACK = 1.5


def spectral_scores(evidence: DetectorData) -> Float[np.ndarray, 'n']:
  """Squared projection of centred features on their top singular vector.

  Args:
    evidence: the samples of one class.
  """
  wide = evidence.features.astype(np.float64)
  centred = wide - wide.mean(axis=0, keepdims=True)
  # The eigenvectors of d x d are the right singular vectors, and cost less.
  axis = np.linalg.eigh(centred.T @ centred)[1][:, -1]
  return np.square(centred @ axis)


def spectral_detector(share: float | None = None) -> Detector:
  """Spectral signatures in the trained classes that S_f has.

  Args:
    share: the expected share of bad samples in such a class: 1.5 times as
      many are flagged, as published. None chooses the number by S_f, see
      `flagging.flag`.

  Raises:
    UserError: the share is not above 0 and below 1.
  """
  errors.check(
    share is None or 0 < share < 1,
    f'spectral: share {share} must lie above 0 and below 1; None chooses it',
  )

  def published(evidence: DetectorData) -> Bool[np.ndarray, 'n']:
    found = np.zeros_like(evidence.identified)
    for label in np.unique(evidence.label[evidence.identified]):
      here = np.flatnonzero(evidence.label == label)
      part = DetectorData(*(x[here] for x in evidence))
      count = min(here.size, math.ceil(_SLACK * (share or 0) * here.size))
      found[here[np.argsort(-spectral_scores(part), kind='stable')[:count]]] = (
        True
      )
    return found & ~evidence.identified

  if share is not None:
    return published
  return lambda evidence: flagging.flag_by_class(spectral_scores, evidence)


_COMPONENTS = 10


def _split_in_two(
  evidence: DetectorData, components: int
) -> Bool[np.ndarray, 'n']:
  """2-means on principal components, from the two sides of the first one."""
  wide = evidence.features.astype(np.float64)
  centred = wide - wide.mean(axis=0, keepdims=True)
  axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :components]
  seen = centred @ axes
  side = seen[:, 0] > 0
  if side.all() or not side.any():
    return side
  centres = np.stack([seen[~side].mean(axis=0), seen[side].mean(axis=0)])
  # From given centres the result depends on no order and no random number.
  fitted = cluster.KMeans(2, init=centres, n_init=1).fit(seen)
  return np.asarray(fitted.labels_ == 1)


def cluster_scores(
  evidence: DetectorData, components: int = _COMPONENTS
) -> Float[np.ndarray, 'n']:
  """1 in the cluster that holds the larger share of S_f, 0 in the other.

  Args:
    evidence: the samples of one class.
    components: principal components to cluster in.
  """
  half = _split_in_two(evidence, components)
  mine, all_rows = half[evidence.identified].mean(), half.mean()
  return (half == (mine > all_rows)).astype(np.float64)


def clustering_detector(components: int = _COMPONENTS) -> Detector:
  """Clusters the trained classes that S_f has.

  A cluster is flagged if S_f lies there more often than the rest of the class
  does, see `flagging.flag`: size alone does not tell, as half of a class may
  be bad. Where S_f has few rows a class, all classes may be told together, see
  `flagging.flag_jointly`.

  Args:
    components: principal components to cluster in.
  """
  suspicion = functools.partial(cluster_scores, components=components)

  def detect(evidence: DetectorData) -> Bool[np.ndarray, 'n']:
    alone = flagging.flag_by_class(suspicion, evidence)
    return alone | flagging.flag_jointly(suspicion, evidence)

  return detect


Vote = Literal['identified', 'disagreement']
_NEIGHBOURS = 20


def find_neighbours(
  features: Float[np.ndarray, 'n d'], k: int
) -> Int[np.ndarray, 'n k']:
  """The k nearest other samples by cosine; at most n - 1 of them."""
  if features.shape[0] < 2:
    return np.zeros((features.shape[0], 0), np.int64)
  size = np.linalg.norm(features, axis=1, keepdims=True)
  unit = features / np.maximum(size, np.finfo(features.dtype).tiny)
  count = min(k, features.shape[0] - 1)
  found = neighbors.NearestNeighbors(n_neighbors=count, algorithm='brute')
  return np.asarray(found.fit(unit).kneighbors(return_distance=False))


def neighbour_scores(
  evidence: DetectorData, k: int = _NEIGHBOURS, vote: Vote = 'identified'
) -> Float[np.ndarray, 'n']:
  """How many of the k nearest neighbours speak against a sample.

  Args:
    evidence: the samples that are neighbours of each other.
    k: neighbours a sample.
    vote: 'identified', neighbours of S_f count; 'disagreement', neighbours
      whose trained label differs.

  Returns:
    Their number over k.
  """
  near = find_neighbours(evidence.features, k)
  if vote == 'identified':
    return evidence.identified[near].sum(axis=1) / k
  return (evidence.label[near] != evidence.label[:, None]).sum(axis=1) / k


def neighbour_detector(
  k: int = _NEIGHBOURS, vote: Vote = 'identified'
) -> Detector:
  """Nearest neighbours; a sample is not its own.

  S_f votes within its trained classes: among those of other classes a sample
  with a wrong label lies beside good ones. Labels vote among all of S_tr.

  Args:
    k: neighbours a sample.
    vote: see `score`.
  """

  def find(evidence: DetectorData) -> Bool[np.ndarray, 'n']:
    if vote == 'identified':
      return flagging.flag_by_class(
        lambda part: neighbour_scores(part, k), evidence
      )
    return flagging.flag(
      neighbour_scores(evidence, k, vote), evidence.identified
    )

  return find


_FOLDS = 5


def _assign_folds(evidence: DetectorData, folds: int) -> Int[np.ndarray, 'n']:
  """A fold for each sample, by its size and not by its place in memory."""
  size = np.linalg.norm(evidence.features.astype(np.float64), axis=1)
  fold = np.zeros(size.shape, np.int64)
  for group in (evidence.identified, ~evidence.identified):
    rank = np.argsort(np.argsort(size[group], kind='stable'), kind='stable')
    fold[group] = rank % folds
  return fold


def classifier_scores(
  evidence: DetectorData, folds: int = _FOLDS
) -> Float[np.ndarray, 'n']:
  """Log odds of S_f against the rest, each from the fit of the other folds.

  Args:
    evidence: the samples of one class, at least `folds` of them of S_f.
    folds: how many fits.
  """
  wide = evidence.features.astype(np.float64)
  fold, found = (
    _assign_folds(evidence, folds),
    np.zeros(evidence.identified.shape),
  )
  for each in range(folds):
    here = fold == each
    model = pipeline.make_pipeline(
      preprocessing.StandardScaler(),
      linear_model.LogisticRegression(
        class_weight='balanced', C=0.1, max_iter=2000
      ),
    )
    model.fit(wide[~here], evidence.identified[~here])
    found[here] = model.decision_function(wide[here])
  return found


def supervised_detector(folds: int = _FOLDS) -> Detector:
  """Logistic regression in every trained class with enough of S_f.

  Args:
    folds: of the cross-fitting; a class needs at least as many rows of S_f.
  """

  return lambda evidence: flagging.flag_by_class(
    lambda part: classifier_scores(part, folds), evidence, folds
  )
