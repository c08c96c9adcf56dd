"""From class names to tokens: sentences for them, and CLIP's byte pairs.

Data sets are named as in the field. CUTS (arXiv 2511.18660) describes CIFAR by
18 sentences, each of nine qualities with both articles, and MNIST by the word
"number".
"""

import functools
import gzip
import html
import itertools
import pathlib
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from cmu_jax.core import errors

_QUALITIES = (
  '',
  'blurry ',
  'black and white ',
  'low contrast ',
  'high contrast ',
  'bad ',
  'good ',
  'small ',
  'big ',
)


def _photos_of(subject: str) -> tuple[str, ...]:
  return tuple(
    f'a {view} of {subject}.' for view in ('photo', 'close-up photo')
  )


# 'small' and 'big' describe the object, the other qualities the photo.
CIFAR: tuple[str, ...] = tuple(
  (
    f'a photo of {article} {quality}{{}}.'
    if quality in ('small ', 'big ')
    else f'a {quality}photo of {article} {{}}.'
  )
  for article, quality in itertools.product(('a', 'the'), _QUALITIES)
)
IMAGENET: tuple[str, ...] = (
  'a photo of a {}.',
  'a photo of the {}.',
  'a photo of many {}.',
  'a photo of one {}.',
  'a close-up photo of a {}.',
  'a cropped photo of the {}.',
  'a bright photo of a {}.',
  'a dark photo of the {}.',
  'a bad photo of a {}.',
  'a drawing of a {}.',
  'a photo of a {} in its surroundings.',
)
BY_DATASET: dict[str, tuple[str, ...]] = {
  'cifar10': CIFAR,
  'cifar100': CIFAR,
  'mnist': ('a photo of the number: "{}".',),
  'svhn_cropped': ('a photo of the number: "{}".', 'the house number "{}".'),
  'imagenet2012': IMAGENET,
  'cars196': (*_photos_of('a {}'), 'a photo of the {}, a car.'),
  'dtd': (*_photos_of('a {} texture'), 'a photo of a {} surface.'),
  'eurosat': ('a satellite photo of {}.', 'a photo of {}, seen from space.'),
  'resisc45': ('an aerial photo of {}.', 'satellite imagery of {}.'),
  'sun397': ('a photo of a {}.', 'a photo taken in a {}.', 'a view of a {}.'),
  'gtsrb': (*_photos_of('a "{}" traffic sign'), 'a photo of the {} road sign.'),
}


def for_dataset(dataset: str) -> tuple[str, ...]:
  """The sentences for a dataset, by default those of IMAGENET."""
  return BY_DATASET.get(dataset, IMAGENET)


def spell_class_names(class_names: Sequence[str]) -> tuple[str, ...]:
  """Writes class names as in a caption: '_' becomes a space.

  >>> spell_class_names(('maple_tree',))
  ('maple tree',)
  """
  return tuple(name.replace('_', ' ').strip() for name in class_names)


START, END = 49406, 49407
CONTEXT = 77
# OpenAI's table of merges (MIT licence, `data/LICENSE`).
_TABLE = pathlib.Path(__file__).parent / 'data' / 'merges.txt.gz'
_END_OF_WORD = '</w>'
# The original splits by the third-party module `regex`. The standard library's
# `re` may cut numerals beyond 0-9 and wrongly decoded text otherwise; class
# names are not affected.
_WORD = re.compile(
  r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+", re.IGNORECASE
)


def tokenize(text: str) -> list[int]:
  """Converts a text to ids, without start and end.

  >>> tokenize('a diagram')
  [320, 22697]
  """
  ids = _vocabulary()
  # Twice, as in the original: text from the web may be escaped twice.
  clean = html.unescape(html.unescape(text)).strip().lower()
  return [
    ids[piece] for word in _WORD.findall(clean) for piece in _merge_pairs(word)
  ]


def encode(
  texts: Sequence[str], context: int = CONTEXT
) -> Int[np.ndarray, 'n t']:
  """Converts texts to rows of ids: start, tokens, end, zeros.

  Args:
    texts: the texts.
    context: length of a row.

  Raises:
    UserError: a text that is too long.
  """
  rows = np.zeros((len(texts), context), np.int32)
  for row, text in zip(rows, texts, strict=True):
    ids = [START, *tokenize(text), END]
    errors.check(
      len(ids) <= context,
      f"'{text[:40]}...' is {len(ids)} tokens, at most {context} fit; "
      'shorten it',
    )
    row[: len(ids)] = ids
  return rows


@functools.cache
def _byte_letters() -> dict[int, str]:
  """A printable letter for every byte: itself, or a letter from 256 on."""
  # The table of merges is a text file, so that no byte may be a space or a
  # control character.
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = [byte for byte in range(256) if byte not in printable]
  return {
    **{byte: chr(byte) for byte in printable},
    **{byte: chr(256 + i) for i, byte in enumerate(others)},
  }


@functools.cache
def _merge_ranks() -> dict[tuple[str, ...], int]:
  """Pairs by the order in which they are merged."""
  lines = gzip.decompress(_TABLE.read_bytes()).decode().splitlines()
  return {tuple(line.split()): rank for rank, line in enumerate(lines)}


@functools.cache
def _vocabulary() -> dict[str, int]:
  letters = list(_byte_letters().values())
  # An id is the position in this list, as in the original.
  pieces = [*letters, *(letter + _END_OF_WORD for letter in letters)]
  pieces += [''.join(pair) for pair in _merge_ranks()]
  return {piece: index for index, piece in enumerate(pieces)}


@functools.lru_cache(maxsize=4096)
def _merge_pairs(word: str) -> tuple[str, ...]:
  """Cuts a word into the largest pieces that the table makes of its bytes."""
  ranks, letters = _merge_ranks(), _byte_letters()
  parts = [letters[byte] for byte in word.encode()]
  parts[-1] += _END_OF_WORD
  while len(parts) > 1:
    pairs = set(itertools.pairwise(parts))
    best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
    if best not in ranks:
      break
    merged, position = [], 0
    while position < len(parts):
      pair = tuple(parts[position : position + 2]) == best
      merged.append(''.join(best) if pair else parts[position])
      position += 1 + pair
    parts = merged
  return tuple(parts)
