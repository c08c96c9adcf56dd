"""Nearest neighbours in feature space: bad samples lie among bad ones.

References:
  Papernot and McDaniel, Deep k-Nearest Neighbors, arXiv 1803.04765
  (disagreement of labels); the share of S_f is the same vote with two classes.
"""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn import neighbors

from cmu_jax.methods.detection import rules
from cmu_jax.methods.detection.evidence import Detector, Evidence

Vote = Literal['identified', 'disagreement']
_NEIGHBOURS = 20


def nearest(
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


def score(
  evidence: Evidence, k: int = _NEIGHBOURS, vote: Vote = 'identified'
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
  near = nearest(evidence.features, k)
  if vote == 'identified':
    return evidence.known[near].sum(axis=1) / k
  return (evidence.label[near] != evidence.label[:, None]).sum(axis=1) / k


def detector(k: int = _NEIGHBOURS, vote: Vote = 'identified') -> Detector:
  """Nearest neighbours; a sample is not its own.

  S_f votes within its trained classes: among those of other classes a sample
  with a wrong label lies beside good ones. Labels vote among all of S_tr.

  Args:
    k: neighbours a sample.
    vote: see `score`.
  """

  def find(evidence: Evidence) -> Bool[np.ndarray, 'n']:
    if vote == 'identified':
      return rules.by_class(lambda part: score(part, k), evidence)
    return rules.flagged(score(evidence, k, vote), evidence.known)

  return find
