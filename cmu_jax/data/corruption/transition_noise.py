"""Label noise by a transition matrix, given or estimated.

Row c of a transition matrix says where labels of class c go. Here a row is a
distribution over the labels that move: its diagonal entry is zero, and the rate
of the noise determines how many labels move.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float, Shaped
from ml_collections import ConfigDict

from cmu_jax.core import array_checks, errors
from cmu_jax.core.types import Corruption, Info, PRNGKey
from cmu_jax.data import splits
from cmu_jax.data.corruption import kind
from cmu_jax.data.corruption.kind import DatasetFacts, Kind
from cmu_jax.data.splits import Labels

Matrix = Shaped[np.ndarray, '...'] | Sequence[Sequence[int | float]]


def _check_square(matrix: Matrix) -> np.ndarray:
  """Returns float64 [k, k], finite and not negative, or raises UserError."""
  try:
    square = np.array(matrix, np.float64)
  except ValueError as error:
    raise errors.UserError(
      f'the transition matrix is not one of numbers: {error}'
    ) from error
  errors.check(
    square.ndim == 2 and square.shape[0] == square.shape[1] >= 2,
    f'the transition matrix has shape {square.shape}; [k, k] is needed, with '
    'a row for each of at least 2 classes',
  )
  bad = ~(np.isfinite(square) & (square >= 0))
  if bad.any():
    row, column = np.argwhere(bad)[0].tolist()
    raise errors.UserError(
      f'entry ({row}, {column}) of the transition matrix is '
      f'{square[row, column]:g}; all must be finite and at least 0'
    )
  return square


def _check_stochastic(matrix: Matrix) -> np.ndarray:
  square = _check_square(matrix)
  sums = square.sum(axis=1)
  worst = int(np.argmax(abs(sums - 1)))
  # Published matrices have a few digits per entry.
  errors.check(
    abs(sums[worst] - 1) <= 1e-6,
    f'row {worst} of the transition matrix sums to {sums[worst]:.8g}, not 1; '
    'divide every row by its sum',
  )
  return square


def check_transition(matrix: Matrix) -> Float[np.ndarray, 'k k']:
  """Returns the matrix as float64, if its rows describe labels that move.

  Raises:
    UserError: it is not square, an entry is negative or not finite, a row does
      not sum to 1 (within 1e-6) or a diagonal entry is not 0 (within 1e-9).

  References:
    CUTS, arXiv 2511.18660, released code.
  """
  stochastic = _check_stochastic(matrix)
  diagonal = np.diag(stochastic)
  errors.check(
    diagonal.max() <= 1e-9,
    f'entry ({diagonal.argmax()}, {diagonal.argmax()}) of the transition '
    f'matrix is {diagonal.max():g}; the diagonal must be 0, take it out with '
    'transition_noise.remove_diagonal',
  )
  return stochastic


def remove_diagonal(matrix: Matrix) -> Float[np.ndarray, 'k k']:
  """Removes the diagonal of P(noisy label | true label), rescales rows to 1.

  Published matrices of human noise have the share of correct labels on the
  diagonal; here the rate of the noise contains that share.

  Raises:
    UserError: it is no stochastic matrix, or a class never moves.
  """
  moving = _check_stochastic(matrix)
  np.fill_diagonal(moving, 0)
  sums = moving.sum(axis=1)
  errors.check(
    sums.min() > 1e-9,
    f'row {sums.argmin()} of the transition matrix moves no label; every '
    'class needs one that it is mistaken for',
  )
  return moving / sums[:, None]


def estimate_transition(confusion: Matrix) -> Float[np.ndarray, 'k k']:
  """Estimates a transition matrix from a confusion matrix on clean data.

  Adds half a count to every error, scales rows to 1, and mixes them .9 to .1
  with a uniform choice among the other classes; the diagonal is zero.

  Args:
    confusion: counts by true class (row) and predicted class (column).

  Raises:
    UserError: it is not square, or an entry is negative or not finite.

  References:
    CUTS, arXiv 2511.18660, released code.
  """
  counts = _check_square(confusion)
  k = len(counts)
  np.fill_diagonal(counts, 0)
  # Both smoothing steps, in this order, are those of the released code. The sum
  # includes the half count of the diagonal, so rows are rescaled at the end.
  counts = counts + 0.5
  mixed = 0.9 * counts / counts.sum(axis=1, keepdims=True) + 0.1 / (k - 1)
  np.fill_diagonal(mixed, 0)
  return mixed / mixed.sum(axis=1, keepdims=True)


_READERS = {'transition': remove_diagonal, 'confusion': estimate_transition}


def transition(
  key: PRNGKey, label: Labels, rate: float, matrix: Matrix
) -> Corruption:
  """Moves floor(rate * n_c) labels of each class c, to classes drawn by row c.

  Args:
    key: determines the samples and their new classes.
    label: true labels [n].
    rate: share of each class, 0 to 1.
    matrix: distribution of the moved labels, see `check_transition`.

  Raises:
    UserError: the rate or a label is out of range, or the matrix is invalid.

  References:
    CUTS, arXiv 2511.18660, released code.
  """
  splits.check_rate(rate)
  rows = check_transition(matrix)
  k = len(rows)
  host = splits.check_labels(label, k)
  array_checks.check_key(key)
  sample_key, class_key = jax.random.split(key)
  mask = kind.class_share_mask(sample_key, host, rate, k)
  # Inverse transform sampling. All rows form a single ascending line, row c
  # from c to c + 1, so one search serves all classes.
  cumulative = np.cumsum(rows, axis=1)
  line = (cumulative / cumulative[:, -1:] + np.arange(k)[:, None]).ravel()
  uniform = np.asarray(jax.random.uniform(class_key, host.shape), np.float64)
  moved = np.searchsorted(line, host + uniform, side='right') - host * k
  return kind.make_corruption(np.where(mask, moved, host), mask)


def _transition_proxy(
  key: PRNGKey, label: Labels, num_classes: int, matrix: Matrix | None = None
) -> Corruption:
  """Moves the label of every image."""
  rows = kind.require(matrix, 'transition', 'a matrix')
  return transition(key, label, 1.0, rows)


def _transition_arguments(settings: ConfigDict, facts: DatasetFacts) -> Info:
  """Reads config.corruption.matrix_file, a transition or confusion matrix."""
  meaning, name = settings.matrix, settings.matrix_key
  if meaning not in _READERS:
    raise errors.unknown_name('config.corruption.matrix', meaning, _READERS)
  arrays = kind.read_arrays(settings.matrix_file, {name: True}, 'matrix_file')
  # The setting says which of both it is: many matrices could be either.
  matrix = _READERS[meaning](arrays[name])
  k = len(facts.class_names)
  errors.check(
    len(matrix) == k,
    f'config.corruption.matrix_file: the matrix is of {len(matrix)} classes, '
    f'the dataset has {k}',
  )
  return {'matrix': matrix}


TRANSITION = Kind(transition, _transition_proxy, _transition_arguments)
