"""The order of a user's classes: assumed, said, and compared with answers.

Class folders have names, a network has numbered outputs, and no file says which
belong together. Trainings on folders take the names sorted as text
(torchvision's ImageFolder, `folder:` here), so this is the assumption. Labelled
pictures refute it if the network is far better in another order.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from scipy import optimize, stats

from cmu_jax.core import errors

# Another order must be right so much more often, beyond chance.
_GAIN, _CHANCE = 0.2, 1e-3
# An arbitrary permutation has many parameters: it must gain more.
_FREE_GAIN = 0.3
# Answers that are right by an order, so that no misreading explains them.
_MOST = 0.5
# Names in a sentence: more of them would hide it.
_LISTED = 12


class ClassOrder(NamedTuple):
  """Names of classes in the order of the outputs.

  Attributes:
    names: one a class.
    assumed: the user named no order.
    source: of the order, in words.
  """

  names: tuple[str, ...]
  assumed: bool
  source: str


class BetterOrder(NamedTuple):
  """An order under which a network is far better.

  Attributes:
    title: in words, 'with numbers in numeric order'.
    names: of all classes.
    assumed: accuracy under the assumed order.
    accuracy: under this order.
  """

  title: str
  names: tuple[str, ...]
  assumed: float
  accuracy: float


def resolve(
  names: Any, classes: int, folders: tuple[str, ...], numbered: bool = False
) -> ClassOrder:
  """Determines the names of all classes in the order of the outputs.

  Args:
    names: as the user gave them, or None.
    classes: number of outputs.
    folders: class folders of the pictures; ('',) without class folders.
    numbered: the labels are positions, as in an archive, and `folders` their
      names, or empty.

  Raises:
    UserError: names that are not one a class, or too few folders to guess.
  """
  if names is not None:
    words = tuple(map(str, names))
    errors.check(
      len(words) == classes and len(set(words)) == classes,
      f'{len(set(words))} different class names are given, the network has '
      f'{classes} outputs; name each once, in their order',
    )
    return ClassOrder(words, False, 'as given')
  numbers = tuple(map(str, range(classes)))
  if numbered:
    fits = len(folders) == classes
    source = 'the labels of the archive'
    return ClassOrder(folders if fits else numbers, False, source)
  # Folders may be named by class numbers, and need not show every class.
  if set(folders) <= {*numbers, ''}:
    source = 'assumed: numbers from 0, sorted as text'
    return ClassOrder(tuple(sorted(numbers)), True, source)
  splits = {'train', 'test', 'val', 'valid', 'validation'}
  errors.check(
    not set(folders) <= splits,
    f'the class folders are called {", ".join(folders)}: give the folder of '
    'one split, in which the class folders lie',
  )
  if len(folders) == classes:
    source = "assumed: the folders' names, sorted as text"
    return ClassOrder(folders, True, source)
  raise errors.UserError(
    f'the network has {classes} outputs, the folder {len(folders)} class '
    f'folders ({", ".join(folders[:4])}{"..." if len(folders) > 4 else ""}): '
    'give --classes=A,B,... in the order of the outputs'
  )


def describe(order: ClassOrder) -> str:
  """Says the order and its source."""
  names = order.names
  text = ', '.join(names[:_LISTED])
  if len(names) > _LISTED:
    text += f', ..., {names[-1]} ({len(names)} classes)'
  remedy = '; --classes=A,B,... sets another' if order.assumed else ''
  return f'Class order: {text} ({order.source}{remedy}).'


def _natural_key(name: str) -> list[tuple[int, int, str]]:
  """Sorts '9' before '10', and 'class9' before 'class10'."""
  return [
    (0, int(part), '') if part.isdecimal() else (1, 0, part)
    for part in re.split(r'(\d+)', name)
    if part
  ]


def _usual_orders(
  names: tuple[str, ...],
) -> Iterator[tuple[str, tuple[str, ...]]]:
  """Yields orders that trainings and users take, with a title."""
  yield 'sorted as text', tuple(sorted(names))
  yield 'in numeric order', tuple(sorted(names, key=_natural_key))
  folded = tuple(sorted(names, key=str.casefold))
  yield 'sorted without regard to case', folded
  yield 'sorted backwards', tuple(sorted(names, reverse=True))
  yield 'one output later', (*names[-1:], *names[:-1])
  yield 'one output earlier', (*names[1:], *names[:1])
  if set(names) == set(map(str, range(len(names)))):
    from_one = tuple(map(str, range(1, len(names) + 1)))
    yield 'numbered from 1, in numeric order', from_one
    yield 'numbered from 1, sorted as text', tuple(sorted(from_one))


def find_better(
  names: tuple[str, ...],
  label: Int[np.ndarray, 'n'],
  predicted: Int[np.ndarray, 'n'],
) -> BetterOrder | None:
  """Finds an order under which a network is far better.

  Usual orders come first, then any permutation, which is fitted to one half of
  the pictures and judged on the other half.

  Args:
    names: in the order that `label` assumes.
    label: indices into `names`.
    predicted: outputs of the network.

  Returns:
    The best order; None if no order is far better than `names`.
  """
  right = predicted == label
  present = [names[c] for c in np.unique(label)]
  best: BetterOrder | None = None
  for title, order in _usual_orders(names):
    # Names that count from 1 lack a class that is present.
    if not set(present) <= set(order):
      continue
    position = np.array(
      [order.index(name) if name in order else -1 for name in names]
    )
    hits = predicted == position[label]
    if _is_far_better(hits, right, _GAIN) and (
      best is None or hits.mean() > best.accuracy
    ):
      best = BetterOrder(title, order, float(right.mean()), float(hits.mean()))
  return best or _best_permutation(names, label, predicted)


def _is_far_better(hits: np.ndarray, right: np.ndarray, gain: float) -> bool:
  """Tests hits against the hits of the assumed order, by the sign test."""
  won, lost = int((hits & ~right).sum()), int((right & ~hits).sum())
  if won - lost < gain * hits.size:
    return False
  test = stats.binomtest(won, won + lost, alternative='greater')
  return bool(test.pvalue < _CHANCE)


def _best_permutation(
  names: tuple[str, ...], label: np.ndarray, predicted: np.ndarray
) -> BetterOrder | None:
  """Finds a permutation of the classes that holds on unseen pictures."""
  right = predicted == label
  # Alternate pictures of each class, so that both halves have every class.
  rank = np.empty(label.size, int)
  ordered = np.argsort(label, kind='stable')
  rank[ordered] = np.arange(label.size)
  half = rank % 2 == 0
  hits = np.zeros(label.size, bool)
  for part in (half, ~half):
    position = _assign(len(names), label[part], predicted[part])
    hits[~part] = predicted[~part] == position[label[~part]]
  position = _assign(len(names), label, predicted)
  present = np.unique(label)
  moved = (position != np.arange(len(names)))[present]
  # A few confused classes are a corruption, no order.
  if len(present) < 3 or 2 * moved.sum() <= len(present):
    return None
  if not _is_far_better(hits, right, _FREE_GAIN):
    return None
  order = np.array(names, object)
  order[position] = names
  title = 'in an order of its own'
  return BetterOrder(
    title, tuple(order), float(right.mean()), float(hits.mean())
  )


def _assign(
  classes: int, label: np.ndarray, predicted: np.ndarray
) -> Int[np.ndarray, 'k']:
  """Assigns an output to each class, to most pictures' liking."""
  counts = np.zeros((classes, classes))
  np.add.at(counts, (label, predicted), 1)
  # Absent classes stay where they are, if that costs nothing.
  counts += 1e-3 * np.eye(classes)
  return optimize.linear_sum_assignment(counts, maximize=True)[1]


def check_order(
  order: ClassOrder,
  label: Int[np.ndarray, 'n'],
  predicted: Int[np.ndarray, 'n'],
  origin: str,
) -> None:
  """Compares an order with labelled pictures.

  A contradiction stops an assumed order. With an order of the user, or with
  pictures of fewer than three classes, it is a remark: a corruption may look
  alike. So may pictures that the network misreads: at chance, it is a remark
  too unless most answers are right in the other order.

  Args:
    order: of the classes.
    label: of pictures, by this order.
    predicted: outputs of the network.
    origin: of the pictures, in words.

  Raises:
    UserError: the network is far better in another order than the assumed one.
  """
  better = find_better(order.names, label, predicted)
  if better is None:
    return
  sentence = (
    f'by the {"assumed" if order.assumed else "given"} order of the classes '
    f'the network is right on {better.assumed:.1%} of {origin}, with the '
    f'classes {better.title} on {better.accuracy:.1%}'
  )
  remedy = f'--classes={",".join(better.names)}'
  few = len(np.unique(label)) < min(3, len(order.names))
  misread = better.assumed <= 1 / len(order.names) and better.accuracy < _MOST
  if order.assumed and not few and not misread:
    raise errors.UserError(f'{sentence}: give {remedy}')
  errors.remark(f'Warning: {sentence}. Is {remedy} meant?')
