"""Transition matrices of label noise: row c is where labels of class c go.

Here a row says where a label goes that moves: its diagonal entry is zero, and
how many labels move is the rate of the noise.

Label noise by a transition matrix, given or estimated.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float, Shaped
from ml_collections import ConfigDict

from cmu_jax.core import errors
from cmu_jax.core.types import Corruption, Info, PRNGKey
from cmu_jax.data import splits
from cmu_jax.data.corruption import kind
from cmu_jax.data.corruption.kind import DatasetFacts, Kind
from cmu_jax.data.splits import Labels

Matrix = Shaped[np.ndarray, '...'] | Sequence[Sequence[int | float]]


def _check_square(matrix: Matrix) -> np.ndarray:
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


def _check_stochastic(matrix: Matrix) -> np.ndarray:
  found = _check_square(matrix)
  sums = found.sum(axis=1)
  worst = int(np.argmax(abs(sums - 1)))
  errors.check(
    abs(sums[worst] - 1) <= 1e-6,
    f'row {worst} of the transition matrix sums to {sums[worst]:.8g}, not 1; '
    'divide every row by its sum',
  )
  return found


def check_transition(matrix: Matrix) -> Float[np.ndarray, 'k k']:
  """The matrix as float64, if it is one of labels that move.

  Raises:
    UserError: it is not square, an entry is negative or not finite, a row does
      not sum to 1 (within 1e-6) or a diagonal entry is not 0 (within 1e-9).

  References:
    CUTS, arXiv 2511.18660, released code.
  """
  found = _check_stochastic(matrix)
  diagonal = np.diag(found)
  errors.check(
    diagonal.max() <= 1e-9,
    f'entry ({diagonal.argmax()}, {diagonal.argmax()}) of the transition '
    f'matrix is {diagonal.max():g}; the diagonal must be 0, take it out with '
    'transition_matrix.of_those_that_move',
  )
  return found


def remove_diagonal(matrix: Matrix) -> Float[np.ndarray, 'k k']:
  """P(noisy label | true label) without its diagonal, rows rescaled to 1.

  Published matrices of human noise keep the share of right labels on the
  diagonal; here the rate of the noise says that.

  Raises:
    UserError: it is no stochastic matrix, or a class never moves.
  """
  found = _check_stochastic(matrix)
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
  counts = _check_square(confusion)
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
  found = check_transition(matrix)
  scaled = np.where(found > 0, found * (len(found) - 1), 1.0)
  return bool(((found * np.log(scaled)).sum(axis=1) < threshold).all())


_READERS = {
  'transition': remove_diagonal,
  'confusion': estimate_transition,
}


def transition(
  key: PRNGKey, label: Labels, rate: float, matrix: Matrix
) -> Corruption:
  """Moves floor(rate * n_c) labels of each class c, to classes drawn by row c.

  Args:
    key: decides which samples and which classes.
    label: true labels [n].
    rate: share of each class, 0 to 1.
    matrix: where labels go that move, see `transition_noise.check_transition`.

  Raises:
    UserError: the rate or a label is out of range, or the matrix is not one.

  References:
    CUTS, arXiv 2511.18660, released code.
  """
  splits.check_rate(rate)
  rows = check_transition(matrix)
  k = len(rows)
  host = splits.check_labels(label, k)
  which, where = jax.random.split(key)
  mask = kind.class_share_mask(which, host, rate, k)
  up_to = np.cumsum(rows, axis=1)
  # All rows in one ascending line, row c from c to c + 1.
  line = (up_to / up_to[:, -1:] + np.arange(k)[:, None]).ravel()
  drawn = np.asarray(jax.random.uniform(where, host.shape), np.float64)
  moved = np.searchsorted(line, host + drawn, side='right') - host * k
  return kind.make_corruption(np.where(mask, moved, host), mask)


def _transition_proxy(
  key: PRNGKey, label: Labels, num_classes: int, matrix: Matrix | None = None
) -> Corruption:
  """Every image, its label drawn anew by the row of its class."""
  rows = kind.require(matrix, 'transition', 'a matrix')
  return transition(key, label, 1.0, rows)


def _transition_arguments(settings: ConfigDict, known: DatasetFacts) -> Info:
  """The matrix of config.corruption.matrix_file, made fit for `transition`.

  The diagonal of a transition matrix, the share of labels that stay, is taken
  out; a confusion matrix goes through `estimate_transition`.
  """
  meaning, name = settings.matrix, settings.matrix_key
  if meaning not in _READERS:
    raise errors.unknown_name('config.corruption.matrix', meaning, _READERS)
  found = kind.read_arrays(settings.matrix_file, {name: True}, 'matrix_file')
  matrix = _READERS[meaning](found[name])
  k = len(known.class_names)
  errors.check(
    len(matrix) == k,
    f'config.corruption.matrix_file: the matrix is of {len(matrix)} classes, '
    f'the dataset has {k}',
  )
  return {'matrix': matrix}


TRANSITION = Kind(transition, _transition_proxy, _transition_arguments)
