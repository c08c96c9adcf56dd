"""Clothing1M: a million web images with noisy labels, in its own layout.

<root>/images/<0-9>/<...>/<name>.jpg  as the keys in the lists name them
noisy_train_key_list.txt              keys, one per line: the training split
noisy_label_kv.txt                    lines 'key label', labels 0 to 13
clean_test_key_list.txt               the test split
clean_label_kv.txt                    its labels, likewise

The lists lie in <root> or in <root>/annotations. Those of the clean training
and validation splits are not read. (Xiao et al., Learning from Massive Noisy
Labeled Data for Image Classification, CVPR 2015.)
"""

import hashlib
import pathlib

import numpy as np
from jaxtyping import Int

from cmu_jax.core import errors, files
from cmu_jax.data.sources import common, pictures
from cmu_jax.data.sources.common import Source, SourceOptions, SplitArrays

CLASSES = (
  *('t-shirt', 'shirt', 'knitwear', 'chiffon', 'sweater', 'hoodie'),
  *('windbreaker', 'jacket', 'downcoat', 'suit', 'shawl', 'dress'),
  *('vest', 'underwear'),
)
TRAIN = ('noisy_train_key_list.txt', 'noisy_label_kv.txt')
TEST = ('clean_test_key_list.txt', 'clean_label_kv.txt')


def _read_lines(
  root: pathlib.Path, name: str
) -> tuple[pathlib.Path, list[str]]:
  """Reads the lines of a list, which is in `root` or in its annotations."""
  options = [root / name, root / 'annotations' / name]
  path = next((path for path in options if path.is_file()), None)
  if path is None:
    raise errors.UserError(
      f'{root} has no {name}, nor has its folder annotations; check '
      'clothing1m:PATH'
    )
  try:
    lines = path.read_text(encoding='utf-8').splitlines()
  except UnicodeDecodeError as error:
    raise errors.UserError(
      f'{path} is not text: {error}; unpack it again'
    ) from error
  # Blank lines at the end are harmless; elsewhere they are mistakes.
  while lines and not lines[-1].strip():
    lines.pop()
  errors.check(lines, f'{path} is empty; unpack it again')
  return path, lines


def _parse_labels(path: pathlib.Path, lines: list[str]) -> dict[str, int]:
  """Parses lines to key -> label."""
  label_of = {}
  for number, line in enumerate(lines, 1):
    # From the right, because keys contain commas and may contain blanks.
    key, _, text = line.strip().rpartition(' ')
    errors.check(
      key and text.isdecimal() and int(text) < len(CLASSES),
      f"{path} line {number} is '{line[:80]}'; 'KEY LABEL' is needed, with a "
      f'label from 0 to {len(CLASSES) - 1}',
    )
    label_of[key.strip()] = int(text)
  return label_of


def _read_split(
  root: pathlib.Path, names: tuple[str, str]
) -> tuple[list[str], Int[np.ndarray, 'n']]:
  """Reads the keys of a split and their labels, in the order of its list."""
  path, lines = _read_lines(root, names[0])
  keys = [line.strip() for line in lines]
  labels_path, labels = _read_lines(root, names[1])
  label_of = _parse_labels(labels_path, labels)
  earlier: set[str] = set()
  for number, key in enumerate(keys, 1):
    entry = f"{path} line {number}: '{key[:80]}'"
    # A list from the web must not lead out of the folder.
    parts = pathlib.PurePosixPath(key)
    errors.check(
      key and not parts.is_absolute() and '..' not in parts.parts,
      f'{entry} is no path inside {root}',
    )
    errors.check(key in label_of, f'{entry} has no label in {labels_path}')
    errors.check(key not in earlier, f'{entry} is listed twice')
    earlier.add(key)
  return keys, np.array([label_of[key] for key in keys])


def _stat_digest(root: pathlib.Path, keys: list[str]) -> str:
  """Computes SHA-256 of the size and modification time (ns) of every image."""
  # A million entries are too many for the facts of the cache: a digest.
  stats = np.zeros((len(keys), 2), '<i8')

  def read(span: range) -> None:
    for i in span:
      try:
        stat = (root / keys[i]).stat()
      except OSError as error:
        raise errors.UserError(
          f'the image {root / keys[i]} cannot be read '
          f'({error.strerror or error}); unpack the images into {root}'
        ) from error
      stats[i] = stat.st_size, stat.st_mtime_ns

  common.run_in_chunks('looking for images', len(keys), read)
  return hashlib.sha256(stats.tobytes()).hexdigest()


def _build(
  root: pathlib.Path,
  train: tuple[list[str], np.ndarray],
  test: tuple[list[str], np.ndarray],
  side: int,
) -> SplitArrays:
  keys = train[0] + test[0]

  def read(i: int) -> np.ndarray:
    path = root / keys[i]
    return pictures.decode(path, str(path), False, (side, side))

  image = common.decode_images(len(keys), (side, side, 3), read)
  # One array for both splits: the threads decode them without a pause.
  cut = len(train[0])
  return SplitArrays(image[:cut], train[1], image[cut:], test[1], CLASSES)


def find(spec: str, options: SourceOptions) -> Source:
  """Finds Clothing1M: noisy training labels, clean test labels, 14 classes.

  Images become RGB of image_size x image_size, whatever their proportions.

  Raises:
    UserError: the folder, a list or an image is missing, a line of a list is
      malformed, or image_size is not set; when it is built, a broken image.
  """
  errors.check(spec, "'clothing1m' needs a path; write 'clothing1m:PATH'")
  root = files.expand(spec)
  side = options.image_size
  if side is None:
    raise errors.UserError(
      'the images of clothing1m differ in size; set image_size to resize them'
    )
  with common.check_readable(root):
    errors.check(
      root.is_dir(), f'the folder {root} does not exist; check clothing1m:PATH'
    )
    train, test = _read_split(root, TRAIN), _read_split(root, TEST)
  # Labels too: a corrected list must not meet an old cache.
  keys, label = train[0] + test[0], np.append(train[1], test[1])
  lists = '\n'.join([*keys, *map(str, label.tolist())])
  facts = {
    'root': str(root.resolve()),
    'train': len(train[0]),
    'lists': hashlib.sha256(lists.encode()).hexdigest(),
    'files': _stat_digest(root, keys),
    'image_size': side,
  }
  return Source(facts, lambda: _build(root, train, test, side))
