"""Image folders: <root>/<split>/<class>/*, see `picture_files.SUFFIXES`."""

import itertools
import pathlib
from typing import NamedTuple

import numpy as np

from cmu_jax.core import errors, files
from cmu_jax.data.sources import common, picture_files, pictures
from cmu_jax.data.sources.common import Source, SourceOptions, SplitArrays

# In this order: a folder with both uses `test`.
TEST_SPLITS = ('test', 'val')
# Formats of animations and pages: only their headers are read twice.
_FRAMED = ('.gif', '.tif', '.tiff', '.apng')


class _SplitFiles(NamedTuple):
  """Files of a split, class by class, and the class of each."""

  paths: list[pathlib.Path]
  label: np.ndarray


def _split_folders(root: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
  """Finds the folders of the train and test splits."""
  names = picture_files.list_subfolders(root)
  test = next((name for name in TEST_SPLITS if name in names), None)
  if 'train' not in names or test is None:
    absent = "'train'" if 'train' not in names else "'test' or 'val'"
    raise errors.UserError(
      f'{root} has no {absent} folder (found: {", ".join(names) or "none"}); '
      'lay images out as <root>/train/<class>/* and <root>/test/<class>/*'
    )
  surplus = [name for name in names if name not in ('train', test)]
  if surplus:
    errors.remark(
      f'{root}: the folders train and {test} are read, not '
      f'{", ".join(surplus)}.'
    )
  return root / 'train', root / test


def _class_names(train: pathlib.Path, test: pathlib.Path) -> list[str]:
  names = picture_files.list_subfolders(train)
  errors.check(
    names, f'{train} has no class folders; put images in {train}/<class>/'
  )
  # Labels are positions in the sorted names: both splits need all of them.
  unpaired = sorted(set(names) ^ set(picture_files.list_subfolders(test)))
  errors.check(
    not unpaired,
    f"class folder '{''.join(unpaired[:1])}' is in only one of {train} and "
    f'{test}; both splits need the same classes',
  )
  return names


def _list_split(folder: pathlib.Path, classes: list[str]) -> _SplitFiles:
  """Lists the files of class folders, and says which are left out."""
  # Pictures beside folders would be silently ignored.
  loose = picture_files.list_loose(folder) if classes != [''] else []
  errors.check(
    not loose,
    f'{folder} holds {errors.count_text(len(loose), "picture")} beside class '
    f"folders such as '{classes[0]}'; move the one or the other elsewhere",
  )
  groups = {
    folder / name: picture_files.list_pictures(folder / name)
    for name in classes
  }
  picture_files.remark_on_files(folder, groups)
  # By class and name, so that the order does not depend on the file system.
  counts = [len(group.paths) for group in groups.values()]
  paths = itertools.chain(*(group.paths for group in groups.values()))
  return _SplitFiles(list(paths), np.repeat(np.arange(len(classes)), counts))


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


def _remark_on_frames(root: pathlib.Path, paths: list[pathlib.Path]) -> None:
  """Says how many pictures have frames or pages that are not read."""
  candidates = [path for path in paths if path.suffix.lower() in _FRAMED]
  count = sum(pictures.has_frames(path) for path in candidates)
  if count:
    errors.remark(
      f'{errors.count_text(count, "picture")} in {root} with several frames or '
      'pages: the first alone is read.'
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
    numbered: the images are of an archive, and `group` their labels, which
      count from 0; `names` may be empty.
  """

  image: np.ndarray
  group: np.ndarray
  names: tuple[str, ...]
  numbered: bool = False


def class_folders(root: pathlib.Path) -> tuple[str, ...]:
  """Lists the subfolders of a folder; ('',) if it has none.

  Raises:
    UserError: the folder is missing.
  """
  with common.check_readable(root):
    errors.check(root.is_dir(), f'the image folder {root} does not exist')
    return tuple(picture_files.list_subfolders(root)) or ('',)


def list_files(root: pathlib.Path, has_classes: bool) -> list[pathlib.Path]:
  """Lists the pictures of a folder in the order in which they are read.

  Args:
    root: the folder.
    has_classes: as `read_folder` reads it, else as `read_flat_folder`.
  """
  names = class_folders(root) if has_classes else ('',)
  listed = (picture_files.list_pictures(root / name) for name in names)
  return list(itertools.chain(*(files.paths for files in listed)))


def read_folder(
  root: pathlib.Path,
  image_size: int | None,
  channels: int | None,
  read: pictures.PictureReader | None = None,
) -> FolderPictures:
  """Reads <root>/<name>/** or, without subfolders, <root>/*.

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
  names = class_folders(root)
  with common.check_readable(root):
    listed = _list_split(root, list(names))
  image = _decode_folder(root, listed.paths, image_size, channels, read)
  return FolderPictures(image, listed.label, names)


def read_flat_folder(
  root: pathlib.Path,
  image_size: int | None,
  channels: int | None,
  read: pictures.PictureReader | None = None,
) -> FolderPictures:
  """Reads <root>/** as a single set; its subfolders are no classes.

  A line says how many pictures lie in which subfolders. The arguments and
  errors are those of `read_folder`.
  """
  class_folders(root)
  with common.check_readable(root):
    listed = picture_files.list_pictures(root)
    picture_files.remark_on_files(root, {root: listed})
  image = _decode_folder(root, listed.paths, image_size, channels, read)
  return FolderPictures(image, np.zeros(len(image), int), ('',))


def _decode_folder(
  root: pathlib.Path,
  paths: list[pathlib.Path],
  image_size: int | None,
  channels: int | None,
  read: pictures.PictureReader | None,
) -> np.ndarray:
  """Decodes the files of a folder; see `read_folder`."""
  _remark_on_frames(root, paths)
  # A reader of its own crops to a fixed size, so sizes may differ.
  if read is None:
    return _decode_all(paths, image_size, channels)
  shape = read(paths[0]).shape
  return common.decode_images(len(paths), shape, lambda i: read(paths[i]))


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
  root = files.expand(spec)
  with common.check_readable(root):
    errors.check(
      root.is_dir(),
      f'the image folder {root} does not exist; check folder:PATH',
    )
    train_root, test_root = _split_folders(root)
    classes = _class_names(train_root, test_root)
    train = _list_split(train_root, classes)
    test = _list_split(test_root, classes)
    _remark_on_frames(root, train.paths + test.paths)
    # Size and time of every file: the cache notices each exchanged picture.
    prints = common.stat_files(root, train.paths + test.paths)
  facts = {
    'root': str(root.resolve()),
    'files': prints,
    'image_size': options.image_size,
  }
  return Source(facts, lambda: _build(train, test, classes, options.image_size))
