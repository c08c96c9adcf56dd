"""Detectors by spectral signature, clusters, neighbours and a classifier.

References:
  Tran, Li and Madry, Spectral Signatures in Backdoor Attacks, NeurIPS 2018,
  arXiv 1811.00636, algorithm 1.
  Chen et al., Detecting Backdoor Attacks on Deep Neural Networks by Activation
  Clustering, arXiv 1811.03728, algorithm 1 (there with independent components
  in place of principal components).
  Papernot and McDaniel, Deep k-Nearest Neighbors, arXiv 1803.04765
  (disagreement of labels); the share of S_f is the same vote with two classes.
  Elkan and Noto, Learning Classifiers from Only Positive and Unlabeled Data,
  KDD 2008: with S_f drawn uniformly the order of the scores is correct.
"""

import functools
import math
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn import (
  cluster,
  linear_model,
  neighbors,
  pipeline,
  preprocessing,
)

from cmu_jax.core import errors
from cmu_jax.methods.detection import flagging
from cmu_jax.methods.detection.detector_data import Detector, DetectorData

Vote = Literal['identified', 'disagreement']

_SLACK = 1.5
_COMPONENTS = 10
_NEIGHBOURS = 20
_FOLDS = 5


def _principal_axes(
  features: Float[np.ndarray, 'n d'],
) -> tuple[Float[np.ndarray, 'n d'], Float[np.ndarray, 'd d']]:
  """Centres features; returns them and their principal axes, largest first."""
  wide = features.astype(np.float64)
  centred = wide - wide.mean(axis=0, keepdims=True)
  # The eigenvectors of the d x d matrix are the right singular vectors, at a
  # lower cost.
  return centred, np.linalg.eigh(centred.T @ centred)[1][:, ::-1]


def spectral_scores(data: DetectorData) -> Float[np.ndarray, 'n']:
  """Squares the projection of centred features on their top singular vector.

  Args:
    data: the samples of one class.
  """
  centred, axes = _principal_axes(data.features)
  return np.square(centred @ axes[:, 0])


def spectral_detector(share: float | None = None) -> Detector:
  """Spectral signatures in the trained classes that occur in S_f.

  Args:
    share: the expected share of bad samples in such a class; as published, 1.5
      times as many are flagged. None chooses the number by S_f, see
      `flagging.flag`.

  Raises:
    UserError: the share is not above 0 and below 1.
  """
  errors.check(
    share is None or 0 < share < 1,
    f'spectral: share {share} must lie above 0 and below 1; None chooses it',
  )
  if share is None:
    return lambda data: flagging.flag_by_class(spectral_scores, data)

  def detect(data: DetectorData) -> Bool[np.ndarray, 'n']:
    flags = np.zeros_like(data.identified)
    for label in np.unique(data.label[data.identified]):
      rows, members = flagging.select_class(data, label)
      count = min(rows.size, math.ceil(_SLACK * share * rows.size))
      farthest = np.argsort(-spectral_scores(members), kind='stable')
      flags[rows[farthest[:count]]] = True
    return flags & ~data.identified

  return detect


def _split_in_two(data: DetectorData, components: int) -> Bool[np.ndarray, 'n']:
  """Clusters principal components by 2-means."""
  centred, axes = _principal_axes(data.features)
  points = centred @ axes[:, :components]
  side = points[:, 0] > 0
  if side.all() or not side.any():
    return side
  centres = np.stack([points[~side].mean(axis=0), points[side].mean(axis=0)])
  # With fixed initial centres the result depends on no order of the samples
  # and on no random number.
  fitted = cluster.KMeans(2, init=centres, n_init=1).fit(points)
  return np.asarray(fitted.labels_ == 1)


def cluster_scores(
  data: DetectorData, components: int = _COMPONENTS
) -> Float[np.ndarray, 'n']:
  """Scores 1 in the cluster with the larger share of S_f, 0 in the other.

  Args:
    data: the samples of one class.
    components: principal components to cluster in.
  """
  in_second = _split_in_two(data, components)
  share, expected = in_second[data.identified].mean(), in_second.mean()
  return (in_second == (share > expected)).astype(np.float64)


def clustering_detector(components: int = _COMPONENTS) -> Detector:
  """Activation clustering in the trained classes that occur in S_f.

  Args:
    components: principal components to cluster in.
  """
  score = functools.partial(cluster_scores, components=components)

  def detect(data: DetectorData) -> Bool[np.ndarray, 'n']:
    # The paper flags the smaller cluster; here half of a class may be bad, so
    # the share of S_f decides. If S_f has few rows a class, no class passes the
    # test by itself, but all of them may pass together.
    by_class = flagging.flag_by_class(score, data)
    return by_class | flagging.flag_jointly(score, data)

  return detect


def find_neighbours(
  features: Float[np.ndarray, 'n d'], k: int
) -> Int[np.ndarray, 'n k']:
  """Finds the k nearest other samples by cosine; at most n - 1 of them."""
  if features.shape[0] < 2:
    return np.zeros((features.shape[0], 0), np.int64)
  size = np.linalg.norm(features, axis=1, keepdims=True)
  unit = features / np.maximum(size, np.finfo(features.dtype).tiny)
  count = min(k, features.shape[0] - 1)
  index = neighbors.NearestNeighbors(n_neighbors=count, algorithm='brute')
  # Without an argument `kneighbors` leaves out the sample itself.
  return np.asarray(index.fit(unit).kneighbors(return_distance=False))


def neighbour_scores(
  data: DetectorData, k: int = _NEIGHBOURS, vote: Vote = 'identified'
) -> Float[np.ndarray, 'n']:
  """Computes the share of the k nearest neighbours that accuse a sample.

  Args:
    data: the samples among which neighbours are searched.
    k: neighbours of a sample.
    vote: 'identified', neighbours of S_f accuse; 'disagreement', neighbours
      with another trained label accuse.
  """
  index = find_neighbours(data.features, k)
  # Divided by k also in a smaller class: few votes must not look like many.
  if vote == 'identified':
    return data.identified[index].sum(axis=1) / k
  return (data.label[index] != data.label[:, None]).sum(axis=1) / k


def neighbour_detector(
  k: int = _NEIGHBOURS, vote: Vote = 'identified'
) -> Detector:
  """Nearest neighbours: bad samples lie among bad samples.

  Args:
    k: neighbours of a sample.
    vote: see `neighbour_scores`.
  """

  def detect(data: DetectorData) -> Bool[np.ndarray, 'n']:
    # S_f votes within its trained classes: among other classes a sample with a
    # wrong label lies beside good samples. Labels need all classes to differ.
    if vote == 'identified':
      score = functools.partial(neighbour_scores, k=k)
      return flagging.flag_by_class(score, data)
    return flagging.flag(neighbour_scores(data, k, vote), data.identified)

  return detect


def _assign_folds(data: DetectorData, folds: int) -> Int[np.ndarray, 'n']:
  # By norm, not by position: the order of the samples must not matter.
  size = np.linalg.norm(data.features.astype(np.float64), axis=1)
  fold = np.zeros(size.shape, np.int64)
  for group in (data.identified, ~data.identified):
    rank = np.argsort(np.argsort(size[group], kind='stable'), kind='stable')
    fold[group] = rank % folds
  return fold


def classifier_scores(
  data: DetectorData, folds: int = _FOLDS
) -> Float[np.ndarray, 'n']:
  """Computes cross-fitted log odds of S_f against the rest of its class.

  Args:
    data: the samples of one class, at least `folds` of them of S_f.
    folds: number of fits.
  """
  wide = data.features.astype(np.float64)
  fold, score = _assign_folds(data, folds), np.zeros(data.identified.shape)
  for held_out in (fold == i for i in range(folds)):
    classifier = pipeline.make_pipeline(
      preprocessing.StandardScaler(),
      linear_model.LogisticRegression(
        class_weight='balanced', C=0.1, max_iter=2000
      ),
    )
    # The other samples are unlabelled, and some of them are bad. A fit that saw
    # such a sample would have learnt to call it good.
    classifier.fit(wide[~held_out], data.identified[~held_out])
    score[held_out] = classifier.decision_function(wide[held_out])
  return score


def supervised_detector(folds: int = _FOLDS) -> Detector:
  """Logistic regression in every trained class with enough rows of S_f.

  Args:
    folds: of the cross-fitting; a class needs at least as many rows of S_f.
  """
  score = functools.partial(classifier_scores, folds=folds)
  return lambda data: flagging.flag_by_class(score, data, folds)
