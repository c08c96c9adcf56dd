"""Spectral signatures: bad samples lie far along the first principal axis.

References:
  Tran, Li and Madry, Spectral Signatures in Backdoor Attacks, NeurIPS 2018,
  arXiv 1811.00636, algorithm 1.
"""

import math

import numpy as np
from jaxtyping import Bool, Float

from cmu_jax.core import errors
from cmu_jax.methods.detection import rules
from cmu_jax.methods.detection.evidence import Detector, Evidence

_SLACK = 1.5


def score(evidence: Evidence) -> Float[np.ndarray, 'n']:
  """Squared projection of centred features on their top singular vector.

  Args:
    evidence: the samples of one class.
  """
  wide = evidence.features.astype(np.float64)
  centred = wide - wide.mean(axis=0, keepdims=True)
  # The eigenvectors of d x d are the right singular vectors, and cost less.
  axis = np.linalg.eigh(centred.T @ centred)[1][:, -1]
  return np.square(centred @ axis)


def detector(share: float | None = None) -> Detector:
  """Spectral signatures in the trained classes that S_f has.

  Args:
    share: the expected share of bad samples in such a class: 1.5 times as
      many are flagged, as published. None chooses the number by S_f, see
      `rules.flagged`.

  Raises:
    UserError: the share is not above 0 and below 1.
  """
  errors.check(
    share is None or 0 < share < 1,
    f'spectral: share {share} must lie above 0 and below 1; None chooses it',
  )

  def published(evidence: Evidence) -> Bool[np.ndarray, 'n']:
    found = np.zeros_like(evidence.known)
    for label in np.unique(evidence.label[evidence.known]):
      here = np.flatnonzero(evidence.label == label)
      part = Evidence(*(x[here] for x in evidence))
      count = min(here.size, math.ceil(_SLACK * (share or 0) * here.size))
      found[here[np.argsort(-score(part), kind='stable')[:count]]] = True
    return found & ~evidence.known

  if share is not None:
    return published
  return lambda evidence: rules.by_class(score, evidence)
