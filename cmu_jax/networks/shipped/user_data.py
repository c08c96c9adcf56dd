"""Side files of a user's weights, class names, and pictures with classes."""

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from cmu_jax.core import errors, files
from cmu_jax.core.types import Batch
from cmu_jax.data import normalisation
from cmu_jax.data.sources import image_folder, npz
from cmu_jax.data.sources.pictures import PictureReader
from cmu_jax.networks.shipped.class_order import ShownClasses

SIDE_FIELDS = (
  'mean',
  'std',
  'channels',
  'image_size',
  'classes',
  'target',
)
_IGNORED_FIELDS = ('model', 'notes')
# Flags of the normalisation.
STATISTICS = ('--mean', '--std')
# Earlier names of fields, which files may still have.
_RENAMED = {'class_names': 'classes'}


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
  'classes': (_are_classes, 'a list of names, in the order of the outputs'),
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
  result = _rename_fields(side, path)
  # A misspelled field must not count as absent.
  for name, value in list(result.items()):
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


def label_pictures(
  root: str, folder: image_folder.FolderPictures, class_names: tuple[str, ...]
) -> np.ndarray:
  """Class indices of pictures, by the names of their folders.

  Labels of an archive without these names are positions already.

  Raises:
    UserError: no class folders, an unknown one, or a label without an output.
  """
  if folder.numbered and not set(folder.names) & set(class_names):
    largest = int(folder.group.max(initial=0))
    errors.check(
      largest < len(class_names),
      f'{root} has label {largest}, but the network has outputs 0 to '
      f'{len(class_names) - 1}',
    )
    return folder.group.astype(np.int32)
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


def _rename_fields(side: Mapping[str, Any], path: str) -> dict[str, Any]:
  """Gives fields of earlier versions their present name, and says so."""
  result = dict(side)
  for earlier, name in _RENAMED.items():
    if earlier not in side:
      continue
    errors.check(
      name not in side,
      f"the side file of {path} has both '{earlier}' and '{name}'; keep "
      f"'{name}'",
    )
    errors.remark(
      f"The side file of {path} calls '{name}' by its earlier name "
      f"'{earlier}'; both are read."
    )
    result[name] = result.pop(earlier)
  return result


def check_normalisation(
  facts: Mapping[str, Any], folder: image_folder.FolderPictures
) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Returns mean and standard deviation, if they suit the pictures.

  Raises:
    UserError: they are in each other's place.
  """
  mean, std = tuple(facts['mean']), tuple(facts['std'])
  normalisation.check_exchange(mean, std, folder.image, STATISTICS)
  channels = folder.image.shape[3]
  if len(mean) == len(std) == 1 < channels:
    errors.remark(
      f'The mean {mean[0]:g} and the standard deviation {std[0]:g} are taken '
      f'for all {channels} channels.'
    )
  return mean, std


def list_classes(flag: str, root: str) -> ShownClasses:
  """Lists the classes that a set of pictures shows.

  Args:
    flag: of the set.
    root: a folder with class folders, or an archive.

  Raises:
    UserError: nothing there.
  """
  path = files.expand(root)
  if path.suffix == '.npz':
    return ShownClasses(flag, npz.read_class_names(path), True)
  return ShownClasses(flag, image_folder.class_folders(path))


def read_pictures(
  root: str,
  image_size: int | None,
  channels: int | None,
  reader: PictureReader | None = None,
  has_classes: bool = True,
) -> image_folder.FolderPictures:
  """Reads pictures of one size and colour.

  Args:
    root: a folder, see `image_folder.read_folder`; or FILE.npz with `images`,
      uint8 [n, h, w] or [n, h, w, c], and `labels`, integers [n].
    image_size: side to resize to, folders only; None for the common size.
    channels: 1 or 3; None for those of the images.
    reader: of single picture files; None for the full picture.
    has_classes: the subfolders are classes; if not, all is a single set.

  Raises:
    UserError: nothing there, or pictures that do not fit.
  """
  path = files.expand(root)
  if path.suffix != '.npz':
    read = (
      image_folder.read_folder if has_classes else image_folder.read_flat_folder
    )
    return read(path, image_size, channels, reader)
  errors.check(
    reader is None, f'{root}: this network reads picture files; give a folder'
  )
  image, label, names = npz.read_pictures(path)
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
  # An archive without names has no class folders: its labels are positions.
  return image_folder.FolderPictures(image, label, names, True)


def name_picture(root: str, position: int, has_classes: bool = True) -> str:
  """Names a picture of a set by its file, or by its place in an archive."""
  path = files.expand(root)
  if path.suffix == '.npz':
    return f'{root}[{position}]'
  return str(image_folder.list_files(path, has_classes)[position])


def read_labelled(
  root: str,
  image: Any,
  class_names: tuple[str, ...],
  reader: PictureReader | None = None,
) -> Batch:
  """Reads class folders of pictures in the size of given pictures.

  Args:
    root: the folder.
    image: raw pixels, [n, h, w, c].
    class_names: in the order of the network's outputs.
    reader: see `ShippedNetwork.reader`.

  Raises:
    UserError: an unknown class folder, or pictures that do not fit.
  """
  pictures = read_same_shape(root, image, reader)
  label = label_pictures(root, pictures, class_names)
  return Batch(jnp.asarray(pictures.image), jnp.asarray(label))


def read_same_shape(
  root: str,
  image: Any,
  reader: PictureReader | None = None,
  has_classes: bool = True,
) -> image_folder.FolderPictures:
  """Reads pictures in the size and colours of given pictures, [n, h, w, c].

  Args:
    root: see `read_pictures`, as for the last two.
    image: the given pictures.
    reader: of single picture files.
    has_classes: the subfolders are classes.

  Raises:
    UserError: pictures of another shape.
  """
  height, width, channels = image.shape[1:]
  # Only square pictures can be resized without a choice of the crop.
  side = height if height == width else None
  pictures = read_pictures(root, side, channels, reader, has_classes)
  errors.check(
    pictures.image.shape[1:] == tuple(image.shape[1:]),
    f'{root}: pictures of {pictures.image.shape[1:3]} pixels, the others have '
    f'{(height, width)}; make them the same size',
  )
  return pictures
