"""Activation clustering: a class with bad samples falls into two clusters.

References:
  Chen et al., Detecting Backdoor Attacks on Deep Neural Networks by
  Activation Clustering, arXiv 1811.03728, algorithm 1 (there with independent
  components in place of principal ones).
"""

import functools

import numpy as np
from jaxtyping import Bool, Float
from sklearn import cluster

from cmu_jax.methods.detection import rules
from cmu_jax.methods.detection.evidence import Detector, Evidence

_COMPONENTS = 10


def _halves(evidence: Evidence, components: int) -> Bool[np.ndarray, 'n']:
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


def score(
  evidence: Evidence, components: int = _COMPONENTS
) -> Float[np.ndarray, 'n']:
  """1 in the cluster that holds the larger share of S_f, 0 in the other.

  Args:
    evidence: the samples of one class.
    components: principal components to cluster in.
  """
  half = _halves(evidence, components)
  mine, all_rows = half[evidence.known].mean(), half.mean()
  return (half == (mine > all_rows)).astype(np.float64)


def detector(components: int = _COMPONENTS) -> Detector:
  """Clusters the trained classes that S_f has.

  A cluster is flagged if S_f lies there more often than the rest of the class
  does, see `rules.flagged`: size alone does not tell, as half of a class may
  be bad. Where S_f has few rows a class, all classes may be told together, see
  `rules.together`.

  Args:
    components: principal components to cluster in.
  """
  suspicion = functools.partial(score, components=components)

  def detect(evidence: Evidence) -> Bool[np.ndarray, 'n']:
    alone = rules.by_class(suspicion, evidence)
    return alone | rules.together(suspicion, evidence)

  return detect
