"""Class maps of asymmetric label noise: similar classes, source to target."""

from collections.abc import Mapping, Sequence

import numpy as np

from cmu_jax.core import errors

# The superclass (0-19) of each of the 100 fine labels, in label order.
CIFAR100_SUPERCLASS = (
  *(4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11),
  *(6, 11, 5, 10, 7, 6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5),
  *(5, 19, 8, 8, 15, 13, 14, 17, 18, 10, 16, 4, 17, 4, 2, 0, 17, 4, 18, 17),
  *(10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16, 12, 9, 13, 15, 13),
  *(16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13),
)


def within_superclass(superclass: Sequence[int]) -> dict[int, int]:
  """Maps each class to the next class of its superclass, cyclically.

  Args:
    superclass: the superclass of each class, in label order.
  """
  group = np.asarray(superclass)
  members = [np.flatnonzero(group == g) for g in np.unique(group)]
  pairs = np.concatenate(
    [np.stack([fine, np.roll(fine, -1)], 1) for fine in members]
  )
  return {
    int(source): int(target) for source, target in sorted(map(tuple, pairs))
  }


# Digits that look alike: 7 -> 1, 2 -> 7, 5 <-> 6, 3 -> 8.
_DIGITS = {7: 1, 2: 7, 5: 6, 6: 5, 3: 8}

CLASS_MAPS: dict[str, dict[int, int]] = {
  'mnist': _DIGITS,
  'digits': _DIGITS,
  # Truck -> automobile, bird -> airplane, cat <-> dog, deer -> horse.
  'cifar10': {9: 1, 2: 0, 3: 5, 5: 3, 4: 7},
  'cifar100': within_superclass(CIFAR100_SUPERCLASS),
  'clothing1m': {2: 4, 4: 2, 9: 6, 12: 11, 8: 12, 13: 12, 6: 8, 10: 2},
}


# Pairs of similar classes for interclass confusion, from CUTS's released code.
PAIRS: dict[str, tuple[int, int]] = {
  'mnist': (1, 7),
  'digits': (1, 7),
  'cifar10': (3, 5),
  'cifar100': (47, 52),
}


def _class_index(value: str | int, names: Sequence[str]) -> int:
  """Finds a class by its name or its number, also a number as text."""
  if isinstance(value, str) and value in names:
    return list(names).index(value)
  if isinstance(value, str) and not value.strip().isdecimal():
    raise errors.unknown_name('class in class_map', value, names)
  # Without class names only the sign can be checked.
  index = int(value)
  errors.check(
    0 <= index < (len(names) or index + 1),
    f'class_map names class {index}, but classes are 0..{len(names) - 1}',
  )
  return index


def resolve_class_map(
  value: str | Mapping, class_names: Sequence[str] = ()
) -> dict[int, int]:
  """Resolves a class map to indices: source class to target class.

  Args:
    value: a name in CLASS_MAPS, or a mapping between indices or names of
      classes.
    class_names: the classes of the dataset, in label order; without them the
      map must use indices, whose range is not checked.

  Raises:
    UserError: an unknown map or class, an empty map, or a class that is mapped
      to itself.

  References:
    CUTS, arXiv 2511.18660, section 4 (asymmetric noise).
  """
  if isinstance(value, str):
    if value not in CLASS_MAPS:
      raise errors.unknown_name('class_map', value, CLASS_MAPS)
    value = CLASS_MAPS[value]
  mapped = {
    _class_index(source, class_names): _class_index(target, class_names)
    for source, target in value.items()
  }
  errors.check(mapped, 'class_map is empty; give at least one pair of classes')
  for source, target in mapped.items():
    errors.check(
      source != target,
      f'class_map sends class {source} to itself; leave the pair out',
    )
  return mapped


def parse_class_map(text: str, class_names: Sequence[str]) -> dict[int, int]:
  """Parses the class map of a config: a name in CLASS_MAPS, or 'cat:dog,5:3'.

  Raises:
    UserError: an unknown map or class, text that is not a pair, or a class with
      two targets.
  """
  if ':' not in text:
    return resolve_class_map(text, class_names)
  pairs = [pair.strip().split(':') for pair in text.split(',')]
  errors.check(
    all(len(pair) == 2 for pair in pairs),
    f"config.corruption.class_map is '{text}'; write pairs such as '3:5,5:3'",
  )
  # A dict would silently keep the last target of a repeated source.
  sources = [source.strip() for source, _ in pairs]
  errors.check(
    len(set(sources)) == len(sources),
    f"config.corruption.class_map '{text}' sends a class to two others; give "
    'every class before a colon once',
  )
  return resolve_class_map(
    {a.strip(): b.strip() for a, b in pairs}, class_names
  )


def parse_class_pair(
  text: str,
  class_names: Sequence[str],
  field: str = 'corruption.class_map',
) -> tuple[int, int]:
  """Parses two classes of a config: a name in PAIRS, or 'cat:dog', '3:5'.

  Raises:
    UserError: an unknown name or class, or more than a pair of classes.
  """
  if text in PAIRS:
    a, b = PAIRS[text]
    text = f'{a}:{b}'
  if ':' not in text:
    raise errors.unknown_name(f'pair in config.{field}', text, PAIRS)
  pairs = parse_class_map(text, class_names)
  errors.check(
    len(pairs) == 1,
    f"config.{field} is '{text}'; interclass confusion is of one pair, such as "
    "'3:5'",
  )
  return next(iter(pairs.items()))
