"""CLIP's tokens: byte pairs merged in the order of a table.

The table is OpenAI's (MIT licence, `data/LICENSE`). Words are found by the
standard library's `re`, so that numerals beyond 0-9 and wrongly decoded text
may be cut otherwise than in the original; class names are not affected.
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

START, END = 49406, 49407
CONTEXT = 77
_TABLE = pathlib.Path(__file__).parent / 'data' / 'merges.txt.gz'
_LAST = '</w>'
_WORDS = re.compile(
  r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+", re.IGNORECASE
)


def tokens(text: str) -> list[int]:
  """The ids of a text, without start and end.

  >>> tokens('a diagram')
  [320, 22697]
  """
  ids = _vocabulary()
  clean = html.unescape(html.unescape(text)).strip().lower()
  return [
    ids[piece] for word in _WORDS.findall(clean) for piece in _merged(word)
  ]


def encode(
  texts: Sequence[str], context: int = CONTEXT
) -> Int[np.ndarray, 'n t']:
  """Texts as rows of ids: start, tokens, end, zeros.

  Args:
    texts: the texts.
    context: length of a row.

  Raises:
    UserError: a text that is too long.
  """
  rows = np.zeros((len(texts), context), np.int32)
  for row, text in zip(rows, texts, strict=True):
    found = [START, *tokens(text), END]
    errors.check(
      len(found) <= context,
      f"'{text[:40]}...' is {len(found)} tokens, at most {context} fit; "
      'shorten it',
    )
    row[: len(found)] = found
  return rows


@functools.cache
def _letters() -> dict[int, str]:
  """A printable letter for every byte: itself, or one from 256 on."""
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = [byte for byte in range(256) if byte not in printable]
  return {
    **{byte: chr(byte) for byte in printable},
    **{byte: chr(256 + i) for i, byte in enumerate(others)},
  }


@functools.cache
def _ranks() -> dict[tuple[str, ...], int]:
  """Pairs by the order in which they are merged."""
  lines = gzip.decompress(_TABLE.read_bytes()).decode().splitlines()
  return {tuple(line.split()): rank for rank, line in enumerate(lines)}


@functools.cache
def _vocabulary() -> dict[str, int]:
  letters = list(_letters().values())
  pieces = [*letters, *(letter + _LAST for letter in letters)]
  pieces += [''.join(pair) for pair in _ranks()]
  return {piece: index for index, piece in enumerate(pieces)}


@functools.lru_cache(maxsize=4096)
def _merged(word: str) -> tuple[str, ...]:
  """A word in the largest pieces that the table makes of its bytes."""
  ranks, letters = _ranks(), _letters()
  parts = [letters[byte] for byte in word.encode()]
  parts[-1] += _LAST
  while len(parts) > 1:
    pairs = set(itertools.pairwise(parts))
    first = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
    if first not in ranks:
      break
    joined, place = [], 0
    while place < len(parts):
      both = tuple(parts[place : place + 2]) == first
      joined.append(''.join(first) if both else parts[place])
      place += 1 + both
    parts = joined
  return tuple(parts)
