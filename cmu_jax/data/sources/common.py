"""What a source of images is, and what all of them must satisfy."""

import concurrent.futures
import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Integer, UInt8

from cmu_jax.core import errors, progress

CHUNK = 256
MAX_THREADS = 16


class SplitArrays(NamedTuple):
  """Both splits on the host, possibly memory-mapped.

  Attributes:
    train_image: raw pixels, 0 to 255, one channel (grey) or three (RGB).
    train_label: class indices.
    test_image: the test split, likewise.
    test_label: the test split, likewise.
    class_names: one name a class, in label order.
  """

  train_image: UInt8[np.ndarray, 'n h w c']
  train_label: Int[np.ndarray, 'n']
  test_image: UInt8[np.ndarray, 'm h w c']
  test_label: Int[np.ndarray, 'm']
  class_names: tuple[str, ...]


class SourceOptions(NamedTuple):
  """What the user may ask of a source.

  Attributes:
    data_dir: where TFDS keeps prepared sets; None for its default.
    download: whether the network may be used.
    image_size: side that images are resized to on load; None to keep theirs.
  """

  data_dir: str | os.PathLike | None = None
  download: bool = False
  image_size: int | None = None


class Source(NamedTuple):
  """A source that was found, but not decoded yet.

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
  """The fixed test split of a set that has none: 20% of each class.

  Marks the 5th, 10th, ... sample of each class in file order, which is
  floor(n_c / 5) of class c and depends on no random generator.
  """
  order = np.argsort(label, kind='stable')
  grouped = label[order]
  rank = np.empty(label.size, np.int64)
  rank[order] = np.arange(label.size) - np.searchsorted(grouped, grouped)
  return rank % 5 == 4


def split_off(
  image: UInt8[np.ndarray, 'n h w c'],
  label: Integer[np.ndarray, 'n'],
  class_names: tuple[str, ...],
) -> SplitArrays:
  """Arrays whose test split is `every_fifth` of the samples."""
  test = every_fifth(label)
  return SplitArrays(
    image[~test], label[~test], image[test], label[test], class_names
  )


def stat_files(root: pathlib.Path, paths: list[pathlib.Path]) -> list[list]:
  """Name, size and modification time (ns) of each file."""
  stats = [path.stat() for path in paths]
  return [
    [path.relative_to(root).as_posix(), stat.st_size, stat.st_mtime_ns]
    for path, stat in zip(paths, stats, strict=True)
  ]


def run_in_chunks(title: str, total: int, work: Callable[[range], Any]) -> None:
  """Calls work(range) on all of 0..total-1 in threads, with progress.

  The first error, in index order, is raised and the rest is given up.
  """
  spans = [range(at, min(at + CHUNK, total)) for at in range(0, total, CHUNK)]
  threads = min(os.cpu_count() or 1, MAX_THREADS)
  with (
    progress.bar(title, total, 'images') as advance,
    concurrent.futures.ThreadPoolExecutor(threads) as pool,
  ):
    jobs = [pool.submit(work, span) for span in spans]
    try:
      for span, job in zip(spans, jobs, strict=True):
        job.result()
        advance(len(span))
    finally:
      pool.shutdown(wait=True, cancel_futures=True)


def _check_split(name: str, split: str, image, label, classes) -> None:
  where = f'{name}, {split} split'
  errors.check(
    image.dtype == np.uint8 and image.ndim == 4 and image.shape[3] in (1, 3),
    f'{where}: images are {image.dtype} of shape {image.shape}; '
    'uint8 [n, height, width, 1 or 3] is needed',
  )
  errors.check(
    min(image.shape[1:3]) > 0, f'{where}: images of zero size {image.shape}'
  )
  errors.check(
    label.shape == image.shape[:1],
    f'{where}: {image.shape[0]} images but {label.size} labels',
  )
  errors.check(
    label.size > 0,
    f'{where}: no image; give 5 or more a class, or images of its own',
  )
  wrong = (label < 0) | (label >= len(classes))
  errors.check(
    not wrong.any(),
    f'{where}: label {label[wrong.argmax()] if wrong.any() else ""} of sample '
    f'{wrong.argmax()} is outside 0..{len(classes) - 1}; '
    'mend the labels or class_names',
  )
  missing = np.flatnonzero(np.bincount(label, minlength=len(classes)) == 0)
  errors.check(
    missing.size == 0,
    f"{where}: class '{classes[missing[0]] if missing.size else ''}' has no "
    'sample; add some or take the class out',
  )


def check_arrays(name: str, arrays: SplitArrays) -> SplitArrays:
  """The arrays with int32 labels, if they are a classification set.

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
  sizes = arrays.train_image.shape[1:], arrays.test_image.shape[1:]
  errors.check(
    sizes[0] == sizes[1],
    f'{name}: train images are {sizes[0]} but test images {sizes[1]}',
  )
  return arrays._replace(
    train_label=arrays.train_label.astype(np.int32),
    test_label=arrays.test_label.astype(np.int32),
  )
