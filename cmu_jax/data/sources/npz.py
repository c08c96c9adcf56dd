"""NumPy archives of images and labels.

images       uint8 [n, h, w] or [n, h, w, 1 or 3], 0 to 255
labels       integers [n], 0 to k-1
test_images  likewise, optional, together with
test_labels  likewise; without them every fifth sample of each class is for test
class_names  k strings, optional, '0' to 'k-1' if absent
"""

import pathlib
import zipfile
import zlib

import numpy as np

from cmu_jax.core import array_checks, errors, files
from cmu_jax.data.sources import common
from cmu_jax.data.sources.common import Source, SourceOptions, SplitArrays

NAMES = ('images', 'labels', 'test_images', 'test_labels', 'class_names')
# Errors of NumPy on archives that are truncated or something else.
BROKEN = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
LAYOUT = 'save it with np.savez(path, images=..., labels=...)'


def _reason(error: BaseException) -> str:
  # NumPy takes any unknown file for a pickle, and advises to load it unsafely.
  reason = errors.first_line(error)
  return 'it is no archive' if 'load it unsafely' in reason else reason


def read_arrays(
  path: pathlib.Path, layout: str, names: tuple[str, ...] | None = None
) -> dict[str, np.ndarray]:
  """Reads the arrays of an archive, and never unpickles anything.

  Args:
    path: of the archive.
    layout: advice on the format, for the error.
    names: arrays to read if the archive has them; None for all.

  Raises:
    UserError: the file is absent, or not a complete archive of plain arrays.
  """
  try:
    # Opened here, since np.load leaves the file open if it is truncated.
    with path.open('rb') as file:
      archive = np.load(file, allow_pickle=False)
      if isinstance(archive, np.lib.npyio.NpzFile):
        chosen = archive.files if names is None else names
        return {name: archive[name] for name in chosen if name in archive}
  except BROKEN as error:
    raise errors.UserError(
      f'{path} is not a readable .npz of plain arrays '
      f'({_reason(error)}); {layout}'
    ) from error
  raise errors.UserError(f'{path} is one array, not an .npz; {layout}')


def _check_images(name: str, pixels: np.ndarray) -> np.ndarray:
  """Returns uint8 [n, h, w, c], or raises UserError."""
  errors.check(
    # First, because the advice below would turn NaN into an arbitrary pixel.
    pixels.dtype.kind != 'f' or np.isfinite(pixels).all(),
    f'{name} has NaN or infinite pixels; uint8 of 0 to 255 is needed',
  )
  errors.check(
    pixels.dtype == np.uint8,
    f'{name} is {pixels.dtype}; uint8 of 0 to 255 is needed: convert floats '
    'in 0..1 with (255 * x).round().astype(np.uint8)',
  )
  errors.check(
    pixels.ndim in (3, 4) and 0 not in pixels.shape,
    f'{name} has shape {pixels.shape}; [n, h, w] or [n, h, w, c] is needed',
  )
  return pixels[..., None] if pixels.ndim == 3 else pixels


def _check_labels(name: str, label: np.ndarray) -> np.ndarray:
  array_checks.check_labels(name, label)
  # uint8 labels would overflow in later sums.
  return label.astype(np.int64)


def _class_names(
  arrays: dict[str, np.ndarray], largest: int
) -> tuple[str, ...]:
  if 'class_names' not in arrays:
    return tuple(str(c) for c in range(largest + 1))
  # Text arrays only: object arrays need pickle, which is never read.
  names = arrays['class_names']
  errors.check(
    names.ndim == 1 and names.dtype.kind == 'U',
    f'class_names is {names.dtype} of shape {names.shape}; '
    'strings [k] are needed',
  )
  return tuple(names.tolist())


def _images_and_labels(
  path: pathlib.Path, arrays: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
  lacking = [name for name in ('images', 'labels') if name not in arrays]
  errors.check(not lacking, f"{path} has no '{''.join(lacking[:1])}'; {LAYOUT}")
  image = _check_images(f'{path}: images', arrays['images'])
  label = _check_labels(f'{path}: labels', arrays['labels'])
  errors.check(
    len(image) == len(label),
    f'{path}: {len(image)} images but {len(label)} labels',
  )
  return image, label


def read_pictures(
  path: pathlib.Path,
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
  """Reads one set of pictures; a test split in the archive is left out.

  Returns:
    `images`, uint8 [n, h, w, c], `labels`, [n], and `class_names`, () if the
    archive has none.

  Raises:
    UserError: the file is absent, or an array is missing or malformed.
  """
  arrays = read_arrays(path, LAYOUT, NAMES)
  image, label = _images_and_labels(path, arrays)
  errors.check(
    label.min(initial=0) >= 0,
    f'{path} has label {label.min(initial=0)}; labels count from 0',
  )
  if 'test_images' in arrays:
    errors.remark(f'Left out of {path}: test_images and test_labels.')
  return image, label, read_class_names(path)


def read_class_names(path: pathlib.Path) -> tuple[str, ...]:
  """Reads `class_names` of an archive; () if it has none.

  Raises:
    UserError: the file is absent, or the names are no strings.
  """
  arrays = read_arrays(path, LAYOUT, ('class_names',))
  return _class_names(arrays, 0) if arrays else ()


def _build(path: pathlib.Path) -> SplitArrays:
  arrays = read_arrays(path, LAYOUT, NAMES)
  image, label = _images_and_labels(path, arrays)
  names = _class_names(arrays, int(label.max(initial=0)))
  has_images, has_labels = 'test_images' in arrays, 'test_labels' in arrays
  errors.check(
    has_images == has_labels,
    f'{path} has only one of test_images and test_labels; add the other',
  )
  if not has_images:
    return common.split_off(image, label, names)
  test_image = _check_images(f'{path}: test_images', arrays['test_images'])
  test_label = _check_labels(f'{path}: test_labels', arrays['test_labels'])
  return SplitArrays(image, label, test_image, test_label, names)


def find(spec: str, options: SourceOptions) -> Source:
  """Finds an .npz archive with the layout at the top of this module.

  Raises:
    UserError: no such file, or image_size is set; when it is built, a missing
      or malformed array.
  """
  errors.check(spec, "'npz' needs a path; write 'npz:PATH'")
  errors.check(
    options.image_size is None,
    'image_size does not apply to npz; store images of the size you want',
  )
  path = files.expand(spec)
  with common.check_readable(path):
    errors.check(
      path.is_file(), f'the file {path} does not exist; check npz:PATH'
    )
    prints = common.stat_files(path.parent, [path])
  facts = {'path': str(path.resolve()), 'files': prints}
  return Source(facts, lambda: _build(path))
