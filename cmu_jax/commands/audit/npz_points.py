"""The points of an audit: arrays read from a file and checked."""

from typing import NamedTuple

import numpy as np

from cmu_jax.core import array_checks, errors, files
from cmu_jax.data.sources import npz
from cmu_jax.networks.weights import stored as weights_files

_SCORES = ('member_scores', 'other_scores')
_TARGET = ('logits', 'labels', 'member')
_REFERENCES = ('reference_logits', 'inside')
_NAMES = (*_SCORES, *_TARGET, *_REFERENCES, 'population')


class AuditPoints(NamedTuple):
  """The points of an audit; absent arrays are None.

  Attributes:
    scores: of members and of others, by an attack of the user.
    logits: of the audited network, [n, k].
    labels: [n].
    member: marks the members, [n].
    reference_logits: [K, n, k].
    inside: marks the training points of each reference, [K, n].
    population: RMIA's z, [n].
    reference_signals: signals of the references, [K, n] each, in place of their
      logits.
    audited: marks the audited points, [n]; None for all.
  """

  scores: tuple[np.ndarray, np.ndarray] | None = None
  logits: np.ndarray | None = None
  labels: np.ndarray | None = None
  member: np.ndarray | None = None
  reference_logits: np.ndarray | None = None
  inside: np.ndarray | None = None
  population: np.ndarray | None = None
  reference_signals: dict[str, np.ndarray] | None = None
  audited: np.ndarray | None = None


class AttackScores(NamedTuple):
  """The scores of an attack.

  Attributes:
    name: of the attack, in tables.
    members: scores of members; higher is more like a member.
    others: scores of non-members.
    references: number of reference networks behind the scores, or None.
    note: remark on these scores, or ''.
  """

  name: str
  members: np.ndarray
  others: np.ndarray
  references: int | None
  note: str = ''


def read_points(path: str) -> AuditPoints:
  """Reads an .npz of plain arrays.

  Raises:
    UserError: a file that cannot be read, a missing or unknown array, or one
      whose shape, type or values do not fit.
  """
  stored = npz.read_arrays(
    files.expand(path), 'see python -m cmu_jax audit --help'
  )
  arrays = {name: _widen(array) for name, array in stored.items()}
  # A misspelled array would silently weaken the attacks.
  for name in arrays:
    if name not in _NAMES:
      raise errors.unknown_name(f'array in {path}', name, _NAMES)
  if any(name in arrays for name in _SCORES):
    _check_present(path, arrays, _SCORES)
    surplus = [name for name in arrays if name not in _SCORES]
    errors.check(
      not surplus,
      f'{path} has scores and {", ".join(surplus)}: an audit takes the one or '
      'the other; leave out one of them',
    )
    members, others = (_check_scores(path, n, arrays[n]) for n in _SCORES)
    return AuditPoints((members, others))
  _check_present(path, arrays, _TARGET)
  # Logits without membership, or the reverse, are half an attack.
  if any(name in arrays for name in _REFERENCES):
    _check_present(path, arrays, _REFERENCES)
  return _check_points(path, arrays)


def _widen(array: np.ndarray) -> np.ndarray:
  """Turns bfloat16 into float32, which NumPy can test for NaN."""
  numbers = weights_files.restore_bfloat16(array)
  return numbers.astype(np.float32) if numbers is not array else array


def _check_present(path: str, arrays: dict, names: tuple[str, ...]) -> None:
  missing = [name for name in names if name not in arrays]
  errors.check(
    not missing,
    f'{path} has no {" and no ".join(missing)}; it needs '
    f'{", ".join(names)}, see --help',
  )


def _check_scores(path: str, name: str, values: np.ndarray) -> np.ndarray:
  errors.check(
    values.ndim == 1 and values.size > 0 and values.dtype.kind in 'fiu',
    f'{name} in {path} has shape {values.shape} and type {values.dtype}; one '
    'number a point is needed',
  )
  errors.check(
    np.isfinite(values).all(),
    f'{name} in {path} has {int((~np.isfinite(values)).sum())} values that '
    'are not finite; drop them or correct their source',
  )
  # In float32, large integer scores would become ties.
  return values.astype(np.float64)


def _check_logits(
  path: str, name: str, values: np.ndarray, shape: tuple
) -> None:
  errors.check(
    values.ndim == len(shape)
    # None stands for any size.
    and all(
      b is None or a == b for a, b in zip(values.shape, shape, strict=True)
    )
    and values.dtype.kind == 'f'
    and values.size > 0,
    f'{name} in {path} has shape {values.shape} and type {values.dtype}; '
    'floats [n, k] are needed, with the models in front for references',
  )
  errors.check(
    np.isfinite(values).all(),
    f'{name} in {path} has values that are not finite',
  )
  sums = values.sum(axis=-1, dtype=np.float64)
  errors.check(
    values.min() < 0 or not np.allclose(sums, 1, atol=1e-2),
    f'{name} in {path} are probabilities, since each row sums to 1; give '
    'np.log(np.maximum(p, 1e-30)), or better what the network put into softmax',
  )


def _check_mask(path: str, name: str, values: np.ndarray, shape: tuple) -> None:
  errors.check(
    values.shape == shape and values.dtype == bool,
    f'{name} in {path} has shape {values.shape} and type {values.dtype}; '
    f'booleans {shape} are needed',
  )


def _check_points(path: str, arrays: dict[str, np.ndarray]) -> AuditPoints:
  # Labels and masks are checked against the shape of the logits.
  logits = arrays['logits']
  _check_logits(path, 'logits', logits, (None, None))
  count, classes = logits.shape
  labels = arrays['labels']
  array_checks.check_labels(f'labels in {path}', labels, classes)
  errors.check(
    labels.shape == (count,),
    f'labels in {path} are {labels.size}, but logits have {count} points',
  )
  _check_mask(path, 'member', arrays['member'], (count,))
  # With one kind alone there is no ROC curve.
  members = int(arrays['member'].sum())
  errors.check(
    0 < members < count,
    f'member in {path} marks {members} of {count} points; an audit needs both '
    'kinds',
  )
  if 'inside' in arrays:
    # K is known from the membership: the file has no other count of models.
    models = arrays['inside'].shape[:1]
    errors.check(
      arrays['inside'].ndim == 2,
      f'inside in {path} has shape {arrays["inside"].shape}; booleans [K, '
      f'{count}] are needed, a row for each reference',
    )
    _check_mask(path, 'inside', arrays['inside'], (*models, count))
    shape = (*models, count, classes)
    _check_logits(path, 'reference_logits', arrays['reference_logits'], shape)
  # Absent, the population is all non-members.
  if 'population' in arrays:
    _check_mask(path, 'population', arrays['population'], (count,))
    errors.check(
      arrays['population'].any(), f'population in {path} marks no point'
    )
  return AuditPoints(
    logits=logits,
    labels=labels,
    member=arrays['member'],
    reference_logits=arrays.get('reference_logits'),
    inside=arrays.get('inside'),
    population=arrays.get('population'),
  )
