"""Side files of a user's weights, class names, and pictures with classes."""

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cmu_jax.core import errors, files
from cmu_jax.data.sources import image_folder, npz, pictures

SIDE_FIELDS = (
  'mean',
  'std',
  'channels',
  'image_size',
  'class_names',
  'target',
)
_IGNORED_FIELDS = ('model', 'notes')


def _is_number(value: Any) -> bool:
  # bool is a subclass of int, and JSON's true is no number.
  return isinstance(value, int | float) and not isinstance(value, bool)


def _are_numbers(value: Any) -> bool:
  return isinstance(value, list) and bool(value) and all(map(_is_number, value))


def _is_size(value: Any) -> bool:
  return isinstance(value, int) and _is_number(value) and value > 0


def _is_class(value: Any) -> bool:
  return isinstance(value, str | int) and not isinstance(value, bool)


def _are_classes(value: Any) -> bool:
  return isinstance(value, list) and all(map(_is_class, value))


_SIDE_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
  'mean': (_are_numbers, 'a list of numbers, one a channel'),
  'std': (_are_numbers, 'a list of numbers, one a channel'),
  'channels': (('rgb', 'bgr').__contains__, "'rgb' or 'bgr'"),
  'image_size': (_is_size, 'a whole number of pixels above 0'),
  'class_names': (_are_classes, 'a list of names, in the order of the outputs'),
  'target': (_is_class, 'the name or the number of a class'),
}


def read_side_file(path: os.PathLike | str) -> dict[str, Any]:
  """Reads the side file `<weights>.json`; {} where there is none.

  That of `model.safetensors.index.json` is `model.safetensors.json`.

  Raises:
    UserError: the file is not a JSON object, a field is unknown or has a value
      of another kind.
  """
  file = next((f for f in side_file_names(path) if f.is_file()), None)
  if file is None:
    return {}
  side = files.read_json(file)
  errors.check(
    isinstance(side, dict),
    f'{file} must be a JSON object such as {{"mean": [0.5], "std": [0.5]}}',
  )
  return check_side_file(side, str(path))


def side_file_names(path: os.PathLike | str) -> tuple[pathlib.Path, ...]:
  """Names that the side file of weights may have, the usual name first."""
  weights = files.expand(path)
  # A folder of weights shares no name with a file of facts.
  if weights.is_dir():
    return ()
  # An index of several files ends in .json itself, and is no side file.
  whole = weights.with_name(weights.name.removesuffix('.index.json'))
  return whole.with_name(f'{whole.name}.json'), whole.with_suffix('.json')


def check_side_file(side: Mapping[str, Any], path: str) -> dict[str, Any]:
  """Returns the fields of a side file, with lists where lists are needed.

  Fields that are null count as absent. A single number for mean or std is that
  of all channels.

  Raises:
    UserError: names the field.
  """
  # A misspelled field must not count as absent.
  result = dict(side)
  for name, value in side.items():
    if name not in (*SIDE_FIELDS, *_IGNORED_FIELDS):
      raise errors.unknown_name('field of the side file', name, SIDE_FIELDS)
    if name not in _SIDE_RULES or value is None:
      continue
    if name in ('mean', 'std') and _is_number(value):
      value = result[name] = [value]
    fits, rule = _SIDE_RULES[name]
    errors.check(
      fits(value),
      f"'{name}' in the side file of {path} is {value!r:.60}; it must be "
      f'{rule}',
    )
  return result


def resolve_class_names(
  names: Any, classes: int, folders: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """Determines the names of all classes in the order of the outputs.

  Args:
    names: as the user gave them, or None.
    classes: number of outputs.
    folders: class folders of the pictures.

  Returns:
    The names, and a note on an assumption, if any.
  """
  if names is not None:
    given = tuple(map(str, names))
    errors.check(
      len(given) == classes and len(set(given)) == classes,
      f'{len(set(given))} different class names are given, the network has '
      f'{classes} outputs; name each once, in their order',
    )
    return given, ()
  # Folders may be named by class numbers, and need not show every class.
  numbers = tuple(map(str, range(classes)))
  if set(folders) <= {*numbers, ''}:
    return numbers, ()
  if len(folders) == classes:
    return folders, (
      'The classes are taken to be the folders in alphabetical order.',
    )
  raise errors.UserError(
    f'the network has {classes} outputs, the folder {len(folders)} class '
    f'folders ({", ".join(folders[:4])}{"..." if len(folders) > 4 else ""}): '
    'give --classes=A,B,... in the order of the outputs'
  )


def label_pictures(
  root: str, folder: image_folder.FolderPictures, class_names: tuple[str, ...]
) -> np.ndarray:
  """Class indices of pictures that lie in folders named after classes."""
  errors.check(
    folder.names != ('',),
    f'{root} has no class folders: put each picture in the folder of its class '
    f'({", ".join(class_names[:3])}, ...)',
  )
  for name in folder.names:
    if name not in class_names:
      raise errors.unknown_name(f'class folder in {root}', name, class_names)
  # A folder's position is alphabetical, the network's order may be another.
  index = np.array([class_names.index(n) for n in folder.names], np.int32)
  return index[folder.group]


def read_pictures(
  root: str,
  image_size: int | None,
  channels: int | None,
  reader: pictures.PictureReader | None = None,
) -> image_folder.FolderPictures:
  """Reads pictures with classes, of one size and colour.

  Args:
    root: a folder, see `image_folder.read_folder`; or FILE.npz with `images`,
      uint8 [n, h, w] or [n, h, w, c], and `labels`, integers [n].
    image_size: side to resize to, folders only; None for the common size.
    channels: 1 or 3; None for those of the images.
    reader: of single picture files; None for the full picture.

  Raises:
    UserError: nothing there, or pictures that do not fit.
  """
  path = files.expand(root)
  if path.suffix != '.npz':
    return image_folder.read_folder(path, image_size, channels, reader)
  errors.check(
    reader is None, f'{root}: this network reads picture files; give a folder'
  )
  image, label = npz.read_pictures(path)
  # Only picture files are resized, at the time they are decoded.
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
  # Labels of an archive are numbers, and their texts stand for class folders.
  present, group = np.unique(label, return_inverse=True)
  return image_folder.FolderPictures(image, group, tuple(map(str, present)))
