"""Transition matrices of label noise: row c is where labels of class c go.

Here a row says where a label goes that moves: its diagonal entry is zero, and
how many labels move is the rate of the noise.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped

from cmu_jax.core import errors

Matrix = Shaped[np.ndarray, '...'] | Sequence[Sequence[int | float]]


def _square(matrix: Matrix) -> np.ndarray:
  """float64 [k, k], finite and not negative, or UserError."""
  try:
    found = np.array(matrix, np.float64)
  except ValueError as error:
    raise errors.UserError(
      f'the transition matrix is not one of numbers: {error}'
    ) from error
  errors.check(
    found.ndim == 2 and found.shape[0] == found.shape[1] >= 2,
    f'the transition matrix has shape {found.shape}; [k, k] is needed, with '
    'a row for each of at least 2 classes',
  )
  wrong = ~(np.isfinite(found) & (found >= 0))
  if wrong.any():
    row, column = np.argwhere(wrong)[0].tolist()
    raise errors.UserError(
      f'entry ({row}, {column}) of the transition matrix is '
      f'{found[row, column]:g}; all must be finite and at least 0'
    )
  return found


def _stochastic(matrix: Matrix) -> np.ndarray:
  found = _square(matrix)
  sums = found.sum(axis=1)
  worst = int(np.argmax(abs(sums - 1)))
  errors.check(
    abs(sums[worst] - 1) <= 1e-6,
    f'row {worst} of the transition matrix sums to {sums[worst]:.8g}, not 1; '
    'divide every row by its sum',
  )
  return found


def validated(matrix: Matrix) -> Float[np.ndarray, 'k k']:
  """The matrix as float64, if it is one of labels that move.

  Raises:
    UserError: it is not square, an entry is negative or not finite, a row does
      not sum to 1 (within 1e-6) or a diagonal entry is not 0 (within 1e-9).

  References:
    CUTS, arXiv 2511.18660, released code.
  """
  found = _stochastic(matrix)
  diagonal = np.diag(found)
  errors.check(
    diagonal.max() <= 1e-9,
    f'entry ({diagonal.argmax()}, {diagonal.argmax()}) of the transition '
    f'matrix is {diagonal.max():g}; the diagonal must be 0, take it out with '
    'transition_matrix.of_those_that_move',
  )
  return found


def of_those_that_move(matrix: Matrix) -> Float[np.ndarray, 'k k']:
  """P(noisy label | true label) without its diagonal, rows rescaled to 1.

  Published matrices of human noise keep the share of right labels on the
  diagonal; here the rate of the noise says that.

  Raises:
    UserError: it is no stochastic matrix, or a class never moves.
  """
  found = _stochastic(matrix)
  np.fill_diagonal(found, 0)
  total = found.sum(axis=1)
  errors.check(
    total.min() > 1e-9,
    f'row {total.argmin()} of the transition matrix moves no label; every '
    'class needs one that it is mistaken for',
  )
  return found / total[:, None]


def estimate_transition(confusion: Matrix) -> Float[np.ndarray, 'k k']:
  """A transition matrix from a confusion matrix on clean data.

  The errors, with half a count added to every cell and rows scaled to 1, mixed
  .9 to .1 with a uniform choice among the other classes; the diagonal is zero.

  Args:
    confusion: counts by true class (row) and predicted class (column).

  Raises:
    UserError: it is not square, or an entry is negative or not finite.

  References:
    CUTS, arXiv 2511.18660, released code.
  """
  counts = _square(confusion)
  k = len(counts)
  np.fill_diagonal(counts, 0)
  counts = counts + 0.5
  mixed = 0.9 * counts / counts.sum(axis=1, keepdims=True) + 0.1 / (k - 1)
  np.fill_diagonal(mixed, 0)
  return mixed / mixed.sum(axis=1, keepdims=True)


def is_symmetric(matrix: Matrix, threshold: float = 0.03) -> bool:
  """Whether every row is close to a uniform choice among the other classes.

  That is KL(row || uniform off the diagonal) below the threshold, in nats.

  Raises:
    UserError: as `validated`.

  References:
    CUTS, arXiv 2511.18660, released code.
  """
  found = validated(matrix)
  scaled = np.where(found > 0, found * (len(found) - 1), 1.0)
  return bool(((found * np.log(scaled)).sum(axis=1) < threshold).all())
