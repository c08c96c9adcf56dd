"""The order of a user's classes: assumed, said, and compared with answers.

Class folders have names, a network has numbered outputs, and no file says which
belong together. Trainings on folders take the names sorted as text
(torchvision's ImageFolder, `folder:` here), so this is the assumption. Labelled
pictures refute it if the network is far better in another order.
"""

import re
from collections.abc import Iterator, Sequence
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
MOST = 0.5
# Names in a sentence: more of them would hide it.
_LISTED = 12
# Names in a flag that a user may paste.
_WRITTEN = 100
_SPLITS = {'train', 'test', 'val', 'valid', 'validation'}


class ShownClasses(NamedTuple):
  """Names of classes that a set of pictures shows.

  Attributes:
    flag: of the set, '--retain'; '' without one.
    names: its class folders, or the names in its archive; ('',) or () for none.
    numbered: its labels are positions, as in an archive.
  """

  flag: str
  names: tuple[str, ...]
  numbered: bool = False


class ClassOrder(NamedTuple):
  """Names of classes in the order of the outputs.

  Attributes:
    names: one a class.
    assumed: the user named no order.
    source: of the order, in words.
    doubt: a sentence on names that are as likely; '' for none.
  """

  names: tuple[str, ...]
  assumed: bool
  source: str
  doubt: str = ''


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
  names: Any, classes: int, sets: Sequence[ShownClasses]
) -> ClassOrder:
  """Determines the names of all classes in the order of the outputs.

  Args:
    names: as the user gave them, or None.
    classes: number of outputs.
    sets: of pictures, the most important first. A set with a folder for every
      class names the classes of all sets.

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
  archives = [entry for entry in sets if entry.numbered]
  for entry in archives:
    if len(entry.names) == classes:
      return ClassOrder(entry.names, False, _archive_text(entry))
  folders = [s for s in sets if not s.numbered and s.names not in ((), ('',))]
  present = tuple(sorted({name for entry in folders for name in entry.names}))
  numbers = tuple(map(str, range(classes)))
  # Labels of an archive are positions, and folders of such names agree.
  if archives and set(present) <= {*numbers}:
    return ClassOrder(numbers, False, _archive_text(archives[0]))
  for entry in folders:
    errors.check(
      not {*entry.names} <= _SPLITS,
      f'the class folders are called {", ".join(entry.names)}: give the folder '
      'of one split, in which the class folders lie',
    )
  return _assume(classes, folders, present)


def _archive_text(entry: ShownClasses) -> str:
  return f'the labels of the archive {entry.flag}'.rstrip()


def _assume(
  classes: int, folders: list[ShownClasses], present: tuple[str, ...]
) -> ClassOrder:
  """Takes the names of folders, sorted as text, for all classes."""
  flags = ' and '.join(entry.flag for entry in folders)
  for entry in folders:
    if len(entry.names) == classes:
      # The set that the command is about needs no mention.
      title = '' if entry is folders[0] else f' of {entry.flag}'
      return _sorted_order(f"the folders' names{title}", entry.names)
  if len(present) == classes:
    return _sorted_order(f"the folders' names of {flags} together", present)
  numberings = _list_numberings(present or ('0',), classes)
  # Plain numbers count from 0, if folders leave it open.
  if numberings and (len(numberings) == 1 or numberings[0][1][0] == '0'):
    start, assumed = numberings[0]
    order = _sorted_order(f'numbers from {start}', assumed)
    return order._replace(doubt=_describe_doubt(numberings))
  count = errors.count_text(len(present), 'class folder')
  listed = ', '.join(present[:4]) + ('...' if len(present) > 4 else '')
  remedy = ' or '.join(_classes_flag(names) for _, names in numberings)
  raise errors.UserError(
    f'the network has {classes} outputs, {flags or "the folder"} {count} '
    f'({listed}): give {remedy or "--classes=A,B,..."} in the order of the '
    'outputs, or a set with a folder for every class'
  )


def _sorted_order(title: str, names: tuple[str, ...]) -> ClassOrder:
  source = f'assumed: {title}, sorted as text'
  return ClassOrder(tuple(sorted(names)), True, source)


def _list_numberings(
  present: tuple[str, ...], classes: int
) -> list[tuple[int, tuple[str, ...]]]:
  """Lists numberings of all classes that have these names.

  Args:
    present: names of some classes, '3', '03' or 'sign3'.
    classes: number of all.

  Returns:
    The first number, 0 or 1, and the names in numeric order; [] for names that
    are no numbers.
  """
  matches = [re.fullmatch(r'(\D*)(\d+)(\D*)', name) for name in present]
  parts = [match.groups() for match in matches if match]
  if len(parts) < len(present) or len({(a, c) for a, _, c in parts}) != 1:
    return []
  head, _, tail = parts[0]
  # Zeros in front fill all numbers to one width.
  width = max(
    (len(n) for _, n, _ in parts if n.startswith('0') and n != '0'), default=1
  )
  numberings = [
    (start, tuple(f'{head}{i:0{width}}{tail}' for i in span))
    for start in (0, 1)
    for span in [range(start, start + classes)]
  ]
  return [(start, x) for start, x in numberings if set(present) <= set(x)]


def _describe_doubt(numberings: list[tuple[int, tuple[str, ...]]]) -> str:
  """Says that folders leave open with which number the classes begin."""
  if len(numberings) < 2:
    return ''
  (_, zero), (_, unit) = numberings
  return (
    f'Warning: no class folder is called {zero[0]} or {unit[-1]}, so the '
    f'classes may be {zero[0]} to {zero[-1]}, as assumed, or {unit[0]} to '
    f'{unit[-1]}. Say which: {_classes_flag(zero)} or {_classes_flag(unit)}.'
  )


def _classes_flag(names: tuple[str, ...]) -> str:
  """The flag for these classes, sorted as text."""
  words = sorted(names)
  # A thousand names would fill the screen.
  if len(words) > _WRITTEN:
    words = [*words[:_LISTED], '...', words[-1]]
  return f'--classes={",".join(words)}'


def announce(order: ClassOrder) -> None:
  """Says the order, its source, and names that are as likely."""
  errors.remark(describe(order))
  if order.doubt:
    errors.remark(order.doubt)


def describe(order: ClassOrder) -> str:
  """Returns a sentence with the order and its source."""
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
  names: tuple[str, ...], present: tuple[str, ...]
) -> Iterator[tuple[str, tuple[str, ...]]]:
  """Yields orders that trainings and users take, with a title.

  Args:
    names: of all classes.
    present: of the classes that pictures show.
  """
  yield 'sorted as text', tuple(sorted(names))
  yield 'in numeric order', tuple(sorted(names, key=_natural_key))
  folded = tuple(sorted(names, key=str.casefold))
  yield 'sorted without regard to case', folded
  yield 'sorted backwards', tuple(sorted(names, reverse=True))
  # Before the shifts, which have the same hits and keep a name too many.
  if _list_numberings(names, len(names)):
    for start, numbered in _list_numberings(present, len(names)):
      if set(numbered) != set(names):
        yield f'numbered from {start}, in numeric order', numbered
        title = f'numbered from {start}, sorted as text'
        yield title, tuple(sorted(numbered))
  yield 'one output later', (*names[-1:], *names[:-1])
  yield 'one output earlier', (*names[1:], *names[:1])


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
  present = tuple(names[c] for c in np.unique(label))
  best: BetterOrder | None = None
  for title, order in _usual_orders(names, present):
    # Names that count from 1 lack a name from 0.
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
  misread = better.assumed <= 1 / len(order.names) and better.accuracy < MOST
  if order.assumed and not few and not misread:
    raise errors.UserError(f'{sentence}: give {remedy}')
  errors.remark(f'Warning: {sentence}. Is {remedy} meant?')
