"""Image folders: <root>/<split>/<class>/*.jpg, .jpeg or .png."""

import itertools
import os
import pathlib
from typing import NamedTuple

import numpy as np

from cmu_jax.core import errors
from cmu_jax.data.sources import common, pictures
from cmu_jax.data.sources.common import Source, SourceOptions, SplitArrays

TEST_SPLITS = ('test', 'val')


class _SplitFiles(NamedTuple):
  """The files of a split, class by class, and the class of each."""

  paths: list[pathlib.Path]
  label: np.ndarray


def _subfolders(root: pathlib.Path) -> list[str]:
  """Names of the visible folders in `root`, sorted."""
  with os.scandir(root) as entries:
    found = [entry.name for entry in entries if entry.is_dir()]
  return sorted(name for name in found if not name.startswith('.'))


def _image_names(folder: pathlib.Path) -> list[str]:
  """The names of the visible image files in `folder`, sorted."""
  with os.scandir(folder) as entries:
    names = [entry.name for entry in entries if entry.is_file()]
  return sorted(
    name
    for name in names
    if name.lower().endswith(pictures.SUFFIXES) and not name.startswith('.')
  )


def _image_paths(folder: pathlib.Path) -> list[pathlib.Path]:
  """The visible image files in `folder`, sorted by name; at least one."""
  kept = _image_names(folder)
  errors.check(
    kept,
    f'the class folder {folder} has no {", ".join(pictures.SUFFIXES)} image; '
    'add some or remove the folder',
  )
  return [folder / name for name in kept]


def _split_folders(root: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
  """The folders of the train and test splits."""
  found = _subfolders(root)
  test = next((name for name in TEST_SPLITS if name in found), None)
  if 'train' not in found or test is None:
    lacking = "'train'" if 'train' not in found else "'test' or 'val'"
    raise errors.UserError(
      f'{root} has no {lacking} folder (found: {", ".join(found) or "none"}); '
      'lay images out as <root>/train/<class>/* and <root>/test/<class>/*'
    )
  return root / 'train', root / test


def _class_names(train: pathlib.Path, test: pathlib.Path) -> list[str]:
  names = _subfolders(train)
  errors.check(
    names, f'{train} has no class folders; put images in {train}/<class>/'
  )
  odd = sorted(set(names) ^ set(_subfolders(test)))
  errors.check(
    not odd,
    f"class folder '{odd[0] if odd else ''}' is in only one of {train} and "
    f'{test}; both splits need the same classes',
  )
  return names


def _list_split(folder: pathlib.Path, classes: list[str]) -> _SplitFiles:
  groups = [_image_paths(folder / name) for name in classes]
  label = np.repeat(np.arange(len(classes)), [len(group) for group in groups])
  return _SplitFiles(list(itertools.chain(*groups)), label)


def _common_size(
  paths: list[pathlib.Path], headers: list[pictures.PictureHeader]
) -> tuple[int, int]:
  """The size that all images share."""
  size = headers[0][:2]
  for path, header in zip(paths, headers, strict=True):
    errors.check(
      header[:2] == size,
      f'images differ in size: {paths[0]} is {size[0]}x{size[1]}, {path} is '
      f'{header.height}x{header.width}; set image_size to resize them',
    )
  return size


def _decode_all(
  paths: list[pathlib.Path], image_size: int | None, channels: int | None
) -> np.ndarray:
  """All images as [n, h, w, c]: grey if all are, or as `channels` says."""
  headers: list = [None] * len(paths)

  def scan(span: range) -> None:
    for i in span:
      headers[i] = pictures.read_header(paths[i])

  common.run_in_chunks('reading image sizes', len(paths), scan)
  grey = all(header.grey for header in headers) if channels is None else False
  grey = grey or channels == 1
  size = (image_size,) * 2 if image_size else _common_size(paths, headers)
  image = np.empty((len(paths), *size, 1 if grey else 3), np.uint8)

  def decode(span: range) -> None:
    for i in span:
      image[i] = pictures.decode(paths[i], str(paths[i]), grey, size)

  common.run_in_chunks('decoding images', len(paths), decode)
  return image


def _build(
  train: _SplitFiles,
  test: _SplitFiles,
  classes: list[str],
  image_size: int | None,
) -> SplitArrays:
  image = _decode_all(train.paths + test.paths, image_size, None)
  cut = len(train.paths)
  names = tuple(classes)
  return SplitArrays(image[:cut], train.label, image[cut:], test.label, names)


class FolderPictures(NamedTuple):
  """The images of one folder, of one split only.

  Attributes:
    image: uint8 [n, h, w, c].
    group: for each image, which of `names` it lies under, [n].
    names: the subfolders, sorted; ('',) where the images lie in the folder
      itself.
  """

  image: np.ndarray
  group: np.ndarray
  names: tuple[str, ...]


def read_folder(
  root: pathlib.Path,
  image_size: int | None,
  channels: int | None,
  read: pictures.PictureReader | None = None,
) -> FolderPictures:
  """Reads <root>/<name>/* or, without subfolders, <root>/*.

  Args:
    root: the folder.
    image_size: side to resize to; None for the one size that all have.
    channels: 1 or 3; None for what the images are.
    read: makes pixels of one size of a file, whatever the other two say; None
      for the whole picture.

  Raises:
    UserError: the folder is missing or empty, has pictures both in it and in
      its folders, or an image is broken or of another size than the first.
  """
  with common.check_readable(root):
    errors.check(root.is_dir(), f'the image folder {root} does not exist')
    names = _subfolders(root)
    loose = _image_names(root) if names else []
    errors.check(
      not loose,
      f'{root} holds {len(loose)} pictures beside class folders such as '
      f"'{names[0] if names else ''}'; move the one or the other elsewhere",
    )
    listed = _list_split(root, names or [''])
  if read is None:
    image = _decode_all(listed.paths, image_size, channels)
  else:
    image = _read_all(listed.paths, read)
  return FolderPictures(image, listed.label, tuple(names) or ('',))


def _read_all(
  paths: list[pathlib.Path], read: pictures.PictureReader
) -> np.ndarray:
  """All images as `read` makes them."""
  first = read(paths[0])
  image = np.empty((len(paths), *first.shape), np.uint8)

  def decode(span: range) -> None:
    for i in span:
      image[i] = read(paths[i])

  common.run_in_chunks('decoding images', len(paths), decode)
  return image


def find(rest: str, options: SourceOptions) -> Source:
  """An image folder; classes in the order of their names.

  All images become RGB, or grey if all of them are. They are resized to
  image_size x image_size if that is set, whatever their proportions, and must
  be of one size otherwise. The test split is `test`, or `val`.

  Raises:
    UserError: the folder, a split or a class is missing or empty, or, when it
      is built, an image is broken or of another size than the first.
  """
  errors.check(rest, "'folder' needs a path; write 'folder:PATH'")
  root = pathlib.Path(rest).expanduser()
  with common.check_readable(root):
    errors.check(
      root.is_dir(),
      f'the image folder {root} does not exist; check folder:PATH',
    )
    train_root, test_root = _split_folders(root)
    classes = _class_names(train_root, test_root)
    train, test = (
      _list_split(train_root, classes),
      _list_split(test_root, classes),
    )
    prints = common.stat_files(root, train.paths + test.paths)
  facts = {
    'root': str(root.resolve()),
    'files': prints,
    'image_size': options.image_size,
  }
  return Source(facts, lambda: _build(train, test, classes, options.image_size))
