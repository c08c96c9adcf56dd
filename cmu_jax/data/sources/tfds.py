"""Image classification sets of TensorFlow Datasets, without TensorFlow.

Sets are read where TFDS has prepared them, <data_dir>/<name>/<version>, in the
array_record format (TFRecord needs TensorFlow, Parquet loses records).

Some images of a TFDS set, read in a way of one's own.

A set as large as ImageNet does not fit into memory whole; runs on pre-trained
networks need a part of it, resized and cropped as the network wants.
"""

import difflib
import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
from google.protobuf import json_format
from jaxtyping import Int, UInt8

from cmu_jax.core import errors
from cmu_jax.data.sources import common, pictures
from cmu_jax.data.sources.common import Source, SourceOptions, SplitArrays

_TEST_SPLITS = ('test', 'validation', 'val')
# What TFDS raises on the descriptions of sets that are damaged.
_BROKEN = (OSError, ValueError, KeyError, AttributeError, json_format.Error)
_VERSION = re.compile(r'\d+\.\d+\.\d+')


class FeatureKeys(NamedTuple):
  """The features that are read, and how images come out of a row."""

  image: str
  label: str
  ordered: bool
  shape: tuple[int | None, ...]


def _tfds() -> Any:
  # Imported late: it takes over a second, which other sources need not pay.
  import tensorflow_datasets

  return tensorflow_datasets


def _known_sets() -> list[str]:
  """The sets that TFDS itself can prepare, without asking the network."""
  return _tfds().list_builders(with_community_datasets=False)


def _data_dir(options: SourceOptions) -> pathlib.Path:
  default = _tfds().core.constants.DATA_DIR
  return pathlib.Path(options.data_dir or default).expanduser()


def _versions(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """The prepared versions in `folder`, oldest first."""
  found = folder.iterdir() if folder.is_dir() else iter(())
  names = [path.name for path in found if _VERSION.fullmatch(path.name)]
  ordered = sorted(names, key=lambda name: tuple(map(int, name.split('.'))))
  return {name: folder / name for name in ordered}


def _unknown_error(name: str) -> errors.UserError:
  """The error for a set that is neither on the disk nor in TFDS."""
  known = ['clothing1m', 'digits', 'folder', 'npz', *_known_sets()]
  if difflib.get_close_matches(name, known, n=1, cutoff=0.5):
    return errors.unknown_name('dataset', name, known)
  return errors.UserError(
    f"unknown dataset '{name}': use digits, folder:PATH, npz:PATH or the name "
    'of a TFDS image set such as cifar10'
  )


def _absent_error(
  name: str, version: str, base: pathlib.Path
) -> errors.UserError:
  """Why <base>/<name>/<version> cannot be used."""
  folder = base / name
  there = list(_versions(folder))
  if there:
    return errors.UserError(
      f"'{name}' is in {base} in version {', '.join(there)}, not {version}"
    )
  inner = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
  configs = [config for config in inner if _versions(folder / config)]
  if configs:
    return errors.UserError(
      f"'{name}' has configurations in {base}; write "
      f"'{name}/{configs[0]}' (there: {', '.join(configs)})"
    )
  if not folder.is_dir() and name.split('/')[0] not in _known_sets():
    return _unknown_error(name)
  return errors.UserError(
    f"'{name}' is not in the data_dir {base}; set data_dir to where it is, or "
    'download=True to fetch it'
  )


def _fetch(name: str, base: pathlib.Path) -> None:
  """Downloads and prepares a set as array_record."""
  tfds = _tfds()
  if name.split(':')[0].split('/')[0] not in _known_sets():
    raise _unknown_error(name)
  try:
    builder = tfds.builder(name, data_dir=base, file_format='array_record')
    builder.download_and_prepare()
  except Exception as error:
    raise errors.UserError(
      f"cannot download '{name}' to {base}: {errors.first_line(error)}; "
      "prepare it elsewhere with file_format='array_record' and set data_dir"
    ) from error


def locate(name: str, options: SourceOptions) -> pathlib.Path:
  """The folder of the newest prepared version, or of the one asked for."""
  base = _data_dir(options)
  plain, _, version = name.partition(':')
  there = _versions(base / plain)
  if not there and options.download:
    _fetch(name, base)
    there = _versions(base / plain)
  wanted = version or next(reversed(there), '')
  if wanted not in there:
    raise _absent_error(plain, version, base)
  return there[wanted]


def open_builder(name: str, folder: pathlib.Path) -> Any:
  """The read-only builder of a prepared set."""
  try:
    builder = _tfds().builder_from_directory(folder)
    form = builder.info.file_format.value
  except _BROKEN as error:
    raise errors.UserError(
      f'{folder} is no prepared TFDS set ({errors.first_line(error)}); '
      'prepare it again'
    ) from error
  errors.check(
    form == 'array_record',
    f"'{name}' in {folder} is in the format {form}, which cannot be read "
    "without TensorFlow; prepare it with file_format='array_record'",
  )
  return builder


def feature_keys(name: str, builder: Any) -> FeatureKeys:
  """Which features are the image and the label."""
  features = builder.info.features
  pair = builder.info.supervised_keys
  simple = pair and len(pair) == 2 and all(isinstance(k, str) for k in pair)
  image, label = pair if simple else ('image', 'label')
  kinds = _tfds().features
  named = dict(features) if isinstance(features, kinds.FeaturesDict) else {}
  errors.check(
    isinstance(named.get(label), kinds.ClassLabel)
    and isinstance(named.get(image), kinds.Image | kinds.Tensor)
    and named[image].np_dtype == np.uint8
    and len(named[image].shape) == 3,
    f"TFDS set '{name}' is not image classification (features: "
    f'{", ".join(named)}); use one with uint8 images and class labels',
  )
  ordered = isinstance(named.get('id'), kinds.Text)
  return FeatureKeys(image, label, ordered, named[image].shape)


def _pixels(value: Any, row: str, grey: bool, size: tuple[int, int]):
  if isinstance(value, bytes):
    return pictures.decode(value, row, grey, size)
  plain = value[..., 0] if value.shape[-1] == 1 else value
  return pictures.resize(PIL.Image.fromarray(plain), size)


def _split(
  where: str, rows: Any, keys: FeatureKeys, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
  """Decodes a split, in the order of `id` where there is one."""
  total, grey = len(rows), keys.shape[-1] == 1
  image = np.empty((total, *size, 1 if grey else 3), np.uint8)
  label = np.empty(total, np.int64)
  names: list = [b''] * total

  def read(span: range) -> None:
    for i, row in zip(span, rows.__getitems__(span), strict=True):
      image[i] = _pixels(row[keys.image], f'{i} of {where}', grey, size)
      label[i] = row[keys.label]
      names[i] = row['id'] if keys.ordered else b''

  try:
    common.run_in_chunks(f'decoding {where}', total, read)
  except errors.UserError:
    raise
  except (RuntimeError, OSError, ValueError, IndexError) as error:
    raise errors.UserError(
      f'cannot read {where}: {errors.first_line(error)}; the files may be '
      'cut short, prepare the set again'
    ) from error
  if not keys.ordered:
    return image, label
  order = np.argsort(np.array(names), kind='stable')
  return image[order], label[order]


def _size(
  name: str, keys: FeatureKeys, image_size: int | None
) -> tuple[int, int]:
  height, width = keys.shape[:2]
  if image_size:
    return image_size, image_size
  if height is None or width is None:
    raise errors.UserError(
      f"the images of '{name}' differ in size; set image_size to resize them"
    )
  return height, width


def open_rows(builder: Any, split: str, keys: FeatureKeys) -> Any:
  """The stored rows of a split, images still encoded."""
  kinds = _tfds()
  coded = isinstance(builder.info.features[keys.image], kinds.features.Image)
  skip = {keys.image: kinds.decode.SkipDecoding()} if coded else None
  try:
    return builder.as_data_source(split, decoders=skip)
  except (OSError, ValueError, RuntimeError) as error:
    raise errors.UserError(
      f'cannot open {builder.data_dir}, {split} split: '
      f'{errors.first_line(error)}; prepare the set again'
    ) from error


def _build(
  name: str, builder: Any, keys: FeatureKeys, size: tuple[int, int]
) -> SplitArrays:
  info = builder.info
  test = next((s for s in _TEST_SPLITS if s in info.splits), None)
  if 'train' not in info.splits or test is None:
    raise errors.UserError(
      f"'{name}' has no train and test split (found: {', '.join(info.splits)})"
    )
  read = lambda split: _split(
    f'{name}, {split} split', open_rows(builder, split, keys), keys, size
  )
  class_names = tuple(info.features[keys.label].names)
  return SplitArrays(*read('train'), *read(test), class_names)


def find(rest: str, options: SourceOptions) -> Source:
  """A TFDS set: 'name', 'name/config' or 'name:version'.

  Rows are in the order of the feature `id` where there is one, else as they
  are stored. The test split is `test`, or else `validation`.

  Raises:
    UserError: the set is unknown, not on the disk (and download is off), of
      another format, or not image classification; when it is built, files
      that are cut short.
  """
  errors.check(rest, "'tfds' needs a name; write 'tfds:NAME'")
  with common.check_readable(_data_dir(options)):
    folder = locate(rest, options)
  builder = open_builder(rest, folder)
  keys = feature_keys(rest, builder)
  size = _size(rest, keys, options.image_size)
  with common.check_readable(folder):
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    prints = common.stat_files(folder, paths)
  facts = {
    'folder': str(folder.resolve()),
    'files': prints,
    'image_size': options.image_size,
  }
  return Source(facts, lambda: _build(rest, builder, keys, size))


ReadPicture = Callable[[PIL.Image.Image], UInt8[np.ndarray, 'h w c']]


class TfdsSet(NamedTuple):
  """A set on the disk, not decoded.

  Attributes:
    name: as the user wrote it.
    splits: number of images by split.
    class_names: in label order.
    builder: of TFDS.
    keys: which features are read.
  """

  name: str
  splits: dict[str, int]
  class_names: tuple[str, ...]
  builder: Any
  keys: FeatureKeys


def open_set(name: str, options: SourceOptions) -> TfdsSet:
  """Finds a set.

  Raises:
    UserError: it is unknown, not on the disk, or not image classification.
  """
  folder = locate(name, options)
  builder = open_builder(name, folder)
  keys = feature_keys(name, builder)
  info = builder.info
  splits = {
    split: int(info.splits[split].num_examples) for split in info.splits
  }
  names = tuple(info.features[keys.label].names)
  return TfdsSet(name, splits, names, builder, keys)


def read_images(
  found: TfdsSet, split: str, positions: Int[np.ndarray, 'n'], read: ReadPicture
) -> tuple[UInt8[np.ndarray, 'n h w c'], Int[np.ndarray, 'n']]:
  """Images at some positions of a split, and their labels.

  Args:
    found: the set.
    split: its name.
    positions: as stored, in any order.
    read: makes pixels of one size of a picture.

  Raises:
    UserError: files that are cut short, or an image that is broken.
  """
  rows = open_rows(found.builder, split, found.keys)
  where = f'{found.name}, {split} split'
  image: list = [None] * len(positions)
  label = np.empty(len(positions), np.int32)

  def decode(span: range) -> None:
    wanted = [int(positions[i]) for i in span]
    for i, row in zip(span, rows.__getitems__(wanted), strict=True):
      value = row[found.keys.image]
      if isinstance(value, bytes):
        image[i] = pictures.read_picture(
          value, read, f'{positions[i]} of {where}'
        )
      else:
        plain = value[..., 0] if value.shape[-1] == 1 else value
        image[i] = read(PIL.Image.fromarray(plain))
      label[i] = row[found.keys.label]

  common.run_in_chunks(f'decoding {where}', len(positions), decode)
  errors.check(
    (label >= 0).all(), f'{where} has images without a label; use another split'
  )
  return np.stack(image), label
