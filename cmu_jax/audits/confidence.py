"""The confidence attack, whose answer on the forget set is called MIS.

A support vector machine learns from the probability of the label alone which
points are of the retained training set and which of the test set; MIS is the
share of the forget set that it holds for unseen. It is fitted on the very test
points that stand for unseen ones, and calls most confident points members:
only its gap to retraining means anything.

References:
  Model Sparsity Can Simplify Machine Unlearning, arXiv 2304.04934, appendix
  C.3 (MIA-Efficacy); AMUN, arXiv 2503.00917, calls it MIS.
"""

import jax
import numpy as np
from jaxtyping import Num
from sklearn import svm

from cmu_jax.core import errors
from cmu_jax.core.types import PRNGKey

# As published.
_PENALTY = 3.0


def _column(name: str, values: Num[np.ndarray, '_']) -> np.ndarray:
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
  most: int | None = None,
) -> float:
  """MIS: the share of the forget set that is held for unseen, 0 to 1.

  Args:
    key: of the points that are used, as many retained as test ones.
    retain: probability of the label of retained training points.
    test: of test points.
    forget: of forgotten points.
    most: how many test points are used, whose square the time grows with;
      None for all.

  Raises:
    UserError: a set is empty or has a value that is not finite.
  """
  members, others = _column('retained', retain), _column('test', test)
  asked = _column('forgotten', forget)
  draw = lambda side: np.asarray(jax.random.permutation(key, len(side)))
  others = others[draw(others)[:most]]
  members = members[draw(members)[: len(others)]]
  label = np.repeat([1, 0], [len(members), len(others)])
  attack = svm.SVC(C=_PENALTY, kernel='rbf', gamma='auto')
  attack.fit(np.concatenate([members, others]), label)
  return float(np.mean(attack.predict(asked) == 0))
