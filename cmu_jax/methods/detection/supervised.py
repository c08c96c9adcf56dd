"""A classifier of S_f against the rest of its trained class.

The rest is unlabelled: it holds good samples and bad ones that nobody found.
A sample is scored by a fit that has not seen it, so that a hidden bad one is
not held for good because it was fitted as such.

References:
  Elkan and Noto, Learning Classifiers from Only Positive and Unlabeled Data,
  KDD 2008: with S_f drawn uniformly the order of the scores is the right one.
"""

import numpy as np
from jaxtyping import Float, Int
from sklearn import linear_model, pipeline, preprocessing

from cmu_jax.methods.detection import rules
from cmu_jax.methods.detection.evidence import Detector, Evidence

_FOLDS = 5


def _folds(evidence: Evidence, folds: int) -> Int[np.ndarray, 'n']:
  """A fold for each sample, by its size and not by its place in memory."""
  size = np.linalg.norm(evidence.features.astype(np.float64), axis=1)
  fold = np.zeros(size.shape, np.int64)
  for group in (evidence.known, ~evidence.known):
    rank = np.argsort(np.argsort(size[group], kind='stable'), kind='stable')
    fold[group] = rank % folds
  return fold


def score(evidence: Evidence, folds: int = _FOLDS) -> Float[np.ndarray, 'n']:
  """Log odds of S_f against the rest, each from the fit of the other folds.

  Args:
    evidence: the samples of one class, at least `folds` of them of S_f.
    folds: how many fits.
  """
  wide = evidence.features.astype(np.float64)
  fold, found = _folds(evidence, folds), np.zeros(evidence.known.shape)
  for each in range(folds):
    here = fold == each
    model = pipeline.make_pipeline(
      preprocessing.StandardScaler(),
      linear_model.LogisticRegression(
        class_weight='balanced', C=0.1, max_iter=2000
      ),
    )
    model.fit(wide[~here], evidence.known[~here])
    found[here] = model.decision_function(wide[here])
  return found


def detector(folds: int = _FOLDS) -> Detector:
  """Logistic regression in every trained class with enough of S_f.

  Args:
    folds: of the cross-fitting; a class needs at least as many rows of S_f.
  """

  return lambda evidence: rules.by_class(
    lambda part: score(part, folds), evidence, folds
  )
