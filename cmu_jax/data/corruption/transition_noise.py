"""Label noise by a transition matrix, given or estimated."""

import jax
import numpy as np
from ml_collections import ConfigDict

from cmu_jax.core import errors
from cmu_jax.core.types import Corruption, Info, PRNGKey
from cmu_jax.data import splits
from cmu_jax.data.corruption import archive, kind, transition_matrix
from cmu_jax.data.corruption.kind import Kind, Known
from cmu_jax.data.corruption.transition_matrix import Matrix
from cmu_jax.data.splits import Labels

_READ = {
  'transition': transition_matrix.of_those_that_move,
  'confusion': transition_matrix.estimate_transition,
}


def transition(
  key: PRNGKey, label: Labels, rate: float, matrix: Matrix
) -> Corruption:
  """Moves floor(rate * n_c) labels of each class c, to classes drawn by row c.

  Args:
    key: decides which samples and which classes.
    label: true labels [n].
    rate: share of each class, 0 to 1.
    matrix: where labels go that move, see `transition_matrix.validated`.

  Raises:
    UserError: the rate or a label is out of range, or the matrix is not one.

  References:
    CUTS, arXiv 2511.18660, released code.
  """
  splits.check_rate(rate)
  rows = transition_matrix.validated(matrix)
  k = len(rows)
  host = splits.check_labels(label, k)
  which, where = jax.random.split(key)
  mask = kind.share_of_classes(which, host, rate, k)
  up_to = np.cumsum(rows, axis=1)
  # All rows in one ascending line, row c from c to c + 1.
  line = (up_to / up_to[:, -1:] + np.arange(k)[:, None]).ravel()
  drawn = np.asarray(jax.random.uniform(where, host.shape), np.float64)
  moved = np.searchsorted(line, host + drawn, side='right') - host * k
  return kind.result(np.where(mask, moved, host), mask)


def _proxy(
  key: PRNGKey, label: Labels, num_classes: int, matrix: Matrix | None = None
) -> Corruption:
  """Every image, its label drawn anew by the row of its class."""
  rows = kind.needed(matrix, 'transition', 'a matrix')
  return transition(key, label, 1.0, rows)


def _arguments(settings: ConfigDict, known: Known) -> Info:
  """The matrix of config.corruption.matrix_file, made fit for `transition`.

  The diagonal of a transition matrix, the share of labels that stay, is taken
  out; a confusion matrix goes through `estimate_transition`.
  """
  meaning, name = settings.matrix, settings.matrix_key
  if meaning not in _READ:
    raise errors.unknown('config.corruption.matrix', meaning, _READ)
  found = archive.read(settings.matrix_file, {name: True}, 'matrix_file')
  matrix = _READ[meaning](found[name])
  k = len(known.class_names)
  errors.check(
    len(matrix) == k,
    f'config.corruption.matrix_file: the matrix is of {len(matrix)} classes, '
    f'the dataset has {k}',
  )
  return {'matrix': matrix}


KIND = Kind(transition, _proxy, _arguments)
