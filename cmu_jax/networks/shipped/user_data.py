"""The side file of somebody's weights: what it may say, and of which kind.

Which class is which: from flags, from the side file, or from the folders.

Pictures with classes, from a folder or from an archive of arrays.
"""

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cmu_jax.core import errors
from cmu_jax.data.sources import image_folder, npz, pictures
from cmu_jax.networks.weights import formats

SIDE_FIELDS = ('mean', 'std', 'image_size', 'class_names', 'target')
_IGNORED_FIELDS = ('model', 'notes')


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)


def _are_numbers(value: Any) -> bool:
  return isinstance(value, list) and bool(value) and all(map(_is_number, value))


def _is_size(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_class(value: Any) -> bool:
  return isinstance(value, str | int) and not isinstance(value, bool)


def _are_classes(value: Any) -> bool:
  return isinstance(value, list) and all(map(_is_class, value))


_SIDE_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
  'mean': (_are_numbers, 'a list of numbers, one a channel'),
  'std': (_are_numbers, 'a list of numbers, one a channel'),
  'image_size': (_is_size, 'a whole number of pixels above 0'),
  'class_names': (_are_classes, 'a list of names, in the order of the outputs'),
  'target': (_is_class, 'the name or the number of a class'),
}


def read_side_file(path: os.PathLike | str) -> dict[str, Any]:
  """The side file of weights; {} where there is none.

  Fields that are null count as not said. A single number for mean or std is
  that of all channels.

  Raises:
    UserError: the file is not a JSON object, a field is unknown or of another
      kind than it must be.
  """
  return check_side_file(formats.read_side_file(path), str(path))


def check_side_file(side: Mapping[str, Any], path: str) -> dict[str, Any]:
  """The fields of a side file as lists where they must be lists.

  Raises:
    UserError: names the field.
  """
  found = dict(side)
  for name, value in side.items():
    if name not in (*SIDE_FIELDS, *_IGNORED_FIELDS):
      raise errors.unknown_name('field of the side file', name, SIDE_FIELDS)
    if name not in _SIDE_RULES or value is None:
      continue
    if name in ('mean', 'std') and _is_number(value):
      value = found[name] = [value]
    fits, wanted = _SIDE_RULES[name]
    errors.check(
      fits(value),
      f"'{name}' in the side file of {path} is {value!r:.60}; it must be "
      f'{wanted}',
    )
  return found


def resolve_class_names(
  names: Any, classes: int, folders: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """The names of all classes in the order of the outputs, and a note."""
  if names is not None:
    names_ = tuple(map(str, names))
    errors.check(
      len(names_) == classes and len(set(names_)) == classes,
      f'{len(set(names_))} different class names are given, the network has '
      f'{classes} outputs; name each once, in their order',
    )
    return names_, ()
  numbers = tuple(map(str, range(classes)))
  if set(folders) <= {*numbers, ''}:
    return numbers, ()
  if len(folders) == classes:
    return folders, (
      'The classes are taken to be the folders in alphabetical order.',
    )
  raise errors.UserError(
    f'the network has {classes} outputs, the folder {len(folders)} class '
    f'folders '
    f'({", ".join(folders[:4])}{"..." if len(folders) > 4 else ""}): give '
    '--classes=A,B,... in the order of the outputs'
  )


def label_pictures(
  root: str, pictures: image_folder.FolderPictures, class_names: tuple[str, ...]
) -> np.ndarray:
  """Class indices of pictures that lie in folders named after classes."""
  errors.check(
    pictures.names != ('',),
    f'{root} has no class folders: put each picture in the folder of its class '
    f'({", ".join(class_names[:3])}, ...)',
  )
  for name in pictures.names:
    if name not in class_names:
      raise errors.unknown_name(f'class folder in {root}', name, class_names)
  index = np.array(
    [class_names.index(name) for name in pictures.names], np.int32
  )
  return index[pictures.group]


def read_pictures(
  root: str,
  image_size: int | None,
  channels: int | None,
  reader: pictures.PictureReader | None = None,
) -> image_folder.FolderPictures:
  """Pictures of one size and colour.

  Args:
    root: a folder, see `image_folder.read_folder`; or FILE.npz with `images`,
      uint8 [n, h, w] or [n, h, w, c], and `labels`, integers [n].
    image_size: side to resize to, folders only; None for the one of all.
    channels: 1 or 3; None for what the images are.
    reader: of single picture files; None for the whole picture.

  Raises:
    UserError: nothing there, or something that does not fit.
  """
  path = pathlib.Path(root).expanduser()
  if path.suffix != '.npz':
    return image_folder.read_folder(path, image_size, channels, reader)
  errors.check(
    reader is None, f'{root}: this network reads picture files; give a folder'
  )
  image, label = npz.read_pictures(path)
  errors.check(
    image_size in (None, image.shape[1]),
    f'{root} holds pictures of {image.shape[1:3]} pixels, {image_size} are '
    'asked for; store them in that size',
  )
  if channels == 3 and image.shape[3] == 1:
    image = np.repeat(image, 3, axis=3)
  errors.check(
    channels in (None, image.shape[3]),
    f'{root} holds pictures of {image.shape[3]} channels, the network takes '
    f'{channels}',
  )
  present, group = np.unique(label, return_inverse=True)
  return image_folder.FolderPictures(image, group, tuple(map(str, present)))
