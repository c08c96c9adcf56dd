"""Image folders: <root>/<split>/<class>/*.jpg, .jpeg or .png."""

import itertools
import os
import pathlib
from typing import NamedTuple

import numpy as np

from cmu_jax.core import errors
from cmu_jax.data.sources import common, pictures
from cmu_jax.data.sources.common import Source, SourceOptions, SplitArrays

# In this order: a folder with both uses `test`.
TEST_SPLITS = ('test', 'val')


class _SplitFiles(NamedTuple):
  """Files of a split, class by class, and the class of each."""

  paths: list[pathlib.Path]
  label: np.ndarray


def _subfolders(root: pathlib.Path) -> list[str]:
  """Lists the visible folders in `root`, sorted by name."""
  # Hidden folders are left by file managers and version control.
  with os.scandir(root) as entries:
    names = [entry.name for entry in entries if entry.is_dir()]
  return sorted(name for name in names if not name.startswith('.'))


def _image_names(folder: pathlib.Path) -> list[str]:
  """Lists the visible image files in `folder`, sorted by name."""
  with os.scandir(folder) as entries:
    names = [entry.name for entry in entries if entry.is_file()]
  return sorted(
    name
    for name in names
    if name.lower().endswith(pictures.SUFFIXES) and not name.startswith('.')
  )


def _image_paths(folder: pathlib.Path) -> list[pathlib.Path]:
  """Lists the paths of the image files in a class folder; at least one."""
  names = _image_names(folder)
  errors.check(
    names,
    f'the class folder {folder} has no {", ".join(pictures.SUFFIXES)} image; '
    'add some or remove the folder',
  )
  return [folder / name for name in names]


def _split_folders(root: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
  """Finds the folders of the train and test splits."""
  names = _subfolders(root)
  test = next((name for name in TEST_SPLITS if name in names), None)
  if 'train' not in names or test is None:
    absent = "'train'" if 'train' not in names else "'test' or 'val'"
    raise errors.UserError(
      f'{root} has no {absent} folder (found: {", ".join(names) or "none"}); '
      'lay images out as <root>/train/<class>/* and <root>/test/<class>/*'
    )
  return root / 'train', root / test


def _class_names(train: pathlib.Path, test: pathlib.Path) -> list[str]:
  names = _subfolders(train)
  errors.check(
    names, f'{train} has no class folders; put images in {train}/<class>/'
  )
  # Labels are positions in the sorted names: both splits need all of them.
  unpaired = sorted(set(names) ^ set(_subfolders(test)))
  errors.check(
    not unpaired,
    f"class folder '{''.join(unpaired[:1])}' is in only one of {train} and "
    f'{test}; both splits need the same classes',
  )
  return names


def _list_split(folder: pathlib.Path, classes: list[str]) -> _SplitFiles:
  groups = [_image_paths(folder / name) for name in classes]
  # By class and name, so that the order does not depend on the file system.
  label = np.repeat(np.arange(len(classes)), [len(group) for group in groups])
  return _SplitFiles(list(itertools.chain(*groups)), label)


def _common_size(
  paths: list[pathlib.Path], headers: list[pictures.PictureHeader]
) -> tuple[int, int]:
  """Returns the size that all images share, or raises UserError."""
  # Of the first image, which the error then names beside the other.
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
  """Decodes all images to [n, h, w, c]; grey if all are grey, or as asked."""
  headers: list = [None] * len(paths)

  def scan(span: range) -> None:
    for i in span:
      headers[i] = pictures.read_header(paths[i])

  # All headers first, because they determine the shape of the array.
  common.run_in_chunks('reading image sizes', len(paths), scan)
  all_grey = channels is None and all(header.grey for header in headers)
  grey = all_grey or channels == 1
  size = (image_size,) * 2 if image_size else _common_size(paths, headers)
  return common.decode_images(
    len(paths),
    (*size, 1 if grey else 3),
    lambda i: pictures.decode(paths[i], str(paths[i]), grey, size),
  )


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
  """Images of a folder without splits.

  Attributes:
    image: uint8 [n, h, w, c].
    group: for each image, the index of its subfolder in `names`, [n].
    names: the subfolders, sorted; ('',) if the images lie in the folder itself.
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
    image_size: side to resize to; None to keep the size, equal for all images.
    channels: 1 or 3; None for grey if all images are grey.
    read: file -> pixels of a fixed size, which overrides the other two; None
      for the whole picture.

  Raises:
    UserError: the folder is missing or empty, has pictures both in it and in
      its folders, or an image is broken or of another size than the first.
  """
  with common.check_readable(root):
    errors.check(root.is_dir(), f'the image folder {root} does not exist')
    # Pictures beside folders would be silently ignored.
    names = _subfolders(root)
    loose = _image_names(root) if names else []
    errors.check(
      not loose,
      f'{root} holds {len(loose)} pictures beside class folders such as '
      f"'{names[0] if names else ''}'; move the one or the other elsewhere",
    )
    listed = _list_split(root, names or [''])
  paths = listed.paths
  # A reader of its own crops to a fixed size, so sizes may differ.
  if read is None:
    image = _decode_all(paths, image_size, channels)
  else:
    image = common.decode_images(
      len(paths), read(paths[0]).shape, lambda i: read(paths[i])
    )
  return FolderPictures(image, listed.label, tuple(names) or ('',))


def find(spec: str, options: SourceOptions) -> Source:
  """Finds an image folder; classes in the order of their names.

  All images become RGB, or grey if all of them are. They are resized to
  image_size x image_size if that is set, whatever their proportions, and must
  be of one size otherwise. The test split is `test`, or `val`.

  Raises:
    UserError: the folder, a split or a class is missing or empty, or, when it
      is built, an image is broken or of another size than the first.
  """
  errors.check(spec, "'folder' needs a path; write 'folder:PATH'")
  root = pathlib.Path(spec).expanduser()
  with common.check_readable(root):
    errors.check(
      root.is_dir(),
      f'the image folder {root} does not exist; check folder:PATH',
    )
    train_root, test_root = _split_folders(root)
    classes = _class_names(train_root, test_root)
    train = _list_split(train_root, classes)
    test = _list_split(test_root, classes)
    # Size and time of every file: the cache notices each exchanged picture.
    prints = common.stat_files(root, train.paths + test.paths)
  facts = {
    'root': str(root.resolve()),
    'files': prints,
    'image_size': options.image_size,
  }
  return Source(facts, lambda: _build(train, test, classes, options.image_size))
