"""Protocol of a source of images, and the checks of its arrays."""

import concurrent.futures
import contextlib
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Integer, UInt8

from cmu_jax.core import errors, progress
from cmu_jax.data import splits

# Images per task of a thread: few enough for a smooth progress bar.
CHUNK = 256
# Machines with many cores would otherwise open hundreds of files at once.
MAX_THREADS = 16


class SplitArrays(NamedTuple):
  """Both splits on the host, possibly memory-mapped.

  Attributes:
    train_image: raw pixels, 0 to 255, one channel (grey) or three (RGB).
    train_label: class indices.
    test_image: the test split, likewise.
    test_label: the test split, likewise.
    class_names: name of each class, in label order.
  """

  train_image: UInt8[np.ndarray, 'n h w c']
  train_label: Int[np.ndarray, 'n']
  test_image: UInt8[np.ndarray, 'm h w c']
  test_label: Int[np.ndarray, 'm']
  class_names: tuple[str, ...]


class SourceOptions(NamedTuple):
  """Options of a source that the user may set.

  Attributes:
    data_dir: folder of prepared TFDS sets; None for its default.
    download: whether the network may be used.
    image_size: side that images are resized to on load; None to keep theirs.
  """

  data_dir: str | os.PathLike | None = None
  download: bool = False
  image_size: int | None = None


class Source(NamedTuple):
  """A source that exists, but is not decoded yet.

  Attributes:
    facts: JSON values that change whenever the arrays would, the cache key;
      None if decoding is too cheap to cache.
    build: decodes everything.
  """

  facts: Mapping[str, Any] | None
  build: Callable[[], SplitArrays]


@contextlib.contextmanager
def check_readable(path: pathlib.Path) -> Iterator[None]:
  """Turns errors of the file system into a UserError that names `path`."""
  try:
    yield
  except OSError as error:
    raise errors.UserError(
      f'cannot read {path}: {error.strerror or error}; check its permissions'
    ) from error


def every_fifth(label: Integer[np.ndarray, 'n']) -> Bool[np.ndarray, 'n']:
  """Marks the fixed test split of a set without its own: 20% of each class.

  The 5th, 10th, ... sample of each class in file order, which is floor(n_c / 5)
  of class c and depends on no random generator.
  """
  # Stable: within a class, the order of the file counts.
  order = np.argsort(label, kind='stable')
  return splits.rank_in_class(label, order) % 5 == 4


def split_off(
  image: UInt8[np.ndarray, 'n h w c'],
  label: Integer[np.ndarray, 'n'],
  class_names: tuple[str, ...],
) -> SplitArrays:
  """Splits samples into arrays whose test split is `every_fifth`."""
  test = every_fifth(label)
  return SplitArrays(
    image[~test], label[~test], image[test], label[test], class_names
  )


def stat_files(root: pathlib.Path, paths: list[pathlib.Path]) -> list[list]:
  """Lists name, size and modification time (ns) of each file."""
  # Not the content: reading it would cost as much as decoding.
  stats = [path.stat() for path in paths]
  return [
    [path.relative_to(root).as_posix(), stat.st_size, stat.st_mtime_ns]
    for path, stat in zip(paths, stats, strict=True)
  ]


def run_in_chunks(title: str, total: int, work: Callable[[range], Any]) -> None:
  """Calls work(range) on all of 0..total-1 in threads, with progress.

  Raises the first error, in index order, and cancels all later ranges.
  """
  # Threads, because Pillow releases the interpreter lock while it decodes.
  spans = [range(i, min(i + CHUNK, total)) for i in range(0, total, CHUNK)]
  threads = min(os.cpu_count() or 1, MAX_THREADS)
  with (
    progress.bar(title, total, 'images') as advance,
    concurrent.futures.ThreadPoolExecutor(threads) as pool,
  ):
    jobs = [pool.submit(work, span) for span in spans]
    # In order, so that the error does not depend on the speed of the threads.
    try:
      for span, job in zip(spans, jobs, strict=True):
        job.result()
        advance(len(span))
    finally:
      pool.shutdown(wait=True, cancel_futures=True)


def decode_images(
  count: int,
  shape: tuple[int, ...],
  read: Callable[[int], UInt8[np.ndarray, 'h w c']],
) -> UInt8[np.ndarray, 'n h w c']:
  """Fills an array of images of the same shape by read(i), in threads."""
  image = np.empty((count, *shape), np.uint8)

  def decode(span: range) -> None:
    for i in span:
      image[i] = read(i)

  run_in_chunks('decoding images', count, decode)
  return image


def _check_split(name: str, split: str, image, label, classes) -> None:
  title = f'{name}, {split} split'
  errors.check(
    image.dtype == np.uint8 and image.ndim == 4 and image.shape[3] in (1, 3),
    f'{title}: images are {image.dtype} of shape {image.shape}; '
    'uint8 [n, height, width, 1 or 3] is needed',
  )
  errors.check(
    min(image.shape[1:3]) > 0, f'{title}: images of zero size {image.shape}'
  )
  errors.check(
    label.shape == image.shape[:1],
    f'{title}: {image.shape[0]} images but {label.size} labels',
  )
  errors.check(
    label.size > 0,
    f'{title}: no image; give 5 or more per class, or images of its own',
  )
  outside = np.flatnonzero((label < 0) | (label >= len(classes)))
  errors.check(
    outside.size == 0,
    f'{title}: label {label[outside[:1]].sum()} of sample '
    f'{outside[:1].sum()} is outside 0..{len(classes) - 1}; '
    'correct the labels or class_names',
  )
  # Accuracies of a class are undefined without samples.
  missing = np.flatnonzero(np.bincount(label, minlength=len(classes)) == 0)
  errors.check(
    missing.size == 0,
    f"{title}: class '{classes[missing[0]] if missing.size else ''}' has no "
    'sample; add some or take the class out',
  )


def check_arrays(name: str, arrays: SplitArrays) -> SplitArrays:
  """Returns the arrays with int32 labels, if they are a classification set.

  Raises:
    UserError: pixels that are not uint8 [n, h, w, 1 or 3], counts or sizes
      that differ, labels out of range, fewer than 2 classes, or a class
      without a sample in one of the splits.
  """
  classes = arrays.class_names
  errors.check(
    len(classes) >= 2, f'{name}: {len(classes)} class; at least 2 are needed'
  )
  _check_split(name, 'train', arrays.train_image, arrays.train_label, classes)
  _check_split(name, 'test', arrays.test_image, arrays.test_label, classes)
  train, test = arrays.train_image.shape[1:], arrays.test_image.shape[1:]
  errors.check(
    train == test, f'{name}: train images are {train} but test images {test}'
  )
  # int32 suffices for classes, and JAX has no int64 by default.
  return arrays._replace(
    train_label=arrays.train_label.astype(np.int32),
    test_label=arrays.test_label.astype(np.int32),
  )


def _build_digits() -> SplitArrays:
  # Imported late: it takes a second, which the other sources need not pay.
  import sklearn.datasets

  pixels, label = sklearn.datasets.load_digits(return_X_y=True)
  image = np.round(pixels * 255 / 16).astype(np.uint8).reshape(-1, 8, 8, 1)
  return split_off(image, label, tuple('0123456789'))


def find_digits(spec: str, options: SourceOptions) -> Source:
  """Finds scikit-learn's 1,797 digits of 8x8 pixels, without a download.

  Pixels 0..16 become 0..255.

  Raises:
    UserError: something follows the name, or image_size is set.
  """
  errors.check(not spec, f"'digits:{spec}' is not a source; write 'digits'")
  errors.check(
    options.image_size in (None, 8),
    f'image_size {options.image_size} does not apply to digits (8x8); '
    'resize in the input step',
  )
  # No facts: decoding the digits is quicker than reading a cache.
  return Source(None, _build_digits)


def picture_digests(image: UInt8[np.ndarray, 'n h w c']) -> list[bytes]:
  """Computes a digest of the pixels of each picture."""
  return [
    hashlib.blake2b(np.ascontiguousarray(pixels), digest_size=16).digest()
    for pixels in image
  ]


def remark_on_copies(name: str, arrays: SplitArrays) -> None:
  """Says how many test pictures are training pictures, pixel for pixel."""
  # The user made this split: taking pictures out could empty a class.
  train = set(picture_digests(arrays.train_image))
  copies = sum(x in train for x in picture_digests(arrays.test_image))
  if copies:
    errors.remark(
      f'Warning: {copies} of {len(arrays.test_image)} test pictures of {name} '
      'are training pictures too; no test accuracy here is of unseen pictures.'
    )
