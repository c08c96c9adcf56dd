"""Image classification sets of TensorFlow Datasets, without TensorFlow.

Sets are read where TFDS has prepared them, <data_dir>/<name>/<version>, in the
array_record format (TFRecord needs TensorFlow, Parquet loses records).

A set as large as ImageNet does not fit into memory: `read_images` reads a part
of it, resized and cropped as a pre-trained network requires.
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

from cmu_jax.core import errors, files
from cmu_jax.data.sources import common, pictures
from cmu_jax.data.sources.common import Source, SourceOptions, SplitArrays

_TEST_SPLITS = ('test', 'validation', 'val')
# Errors of TFDS on damaged descriptions of sets.
_BROKEN = (OSError, ValueError, KeyError, AttributeError, json_format.Error)
_VERSION = re.compile(r'\d+\.\d+\.\d+')

ReadPicture = Callable[[PIL.Image.Image], UInt8[np.ndarray, 'h w c']]


class FeatureKeys(NamedTuple):
  """Names of the image and label features, and facts about their rows.

  Attributes:
    image: feature of the image.
    label: feature of the class.
    ordered: whether rows have an `id` that orders them.
    shape: of an image; None for a side that varies.
  """

  image: str
  label: str
  ordered: bool
  shape: tuple[int | None, ...]


def _tfds() -> Any:
  # Imported late: it takes over a second, which other sources need not pay.
  import tensorflow_datasets

  return tensorflow_datasets


def _known_sets() -> list[str]:
  """Lists the sets that TFDS itself can prepare, without the network."""
  return _tfds().list_builders(with_community_datasets=False)


def _data_dir(options: SourceOptions) -> pathlib.Path:
  default = _tfds().core.constants.DATA_DIR
  return files.expand(options.data_dir or default)


def _versions(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Lists the prepared versions in `folder`, oldest first."""
  paths = folder.iterdir() if folder.is_dir() else iter(())
  names = [path.name for path in paths if _VERSION.fullmatch(path.name)]
  # By number: as text, 3.0.10 would come before 3.0.9.
  names.sort(key=lambda name: tuple(map(int, name.split('.'))))
  return {name: folder / name for name in names}


def _unknown_error(name: str) -> errors.UserError:
  """Builds the error for a set that is neither on the disk nor in TFDS."""
  names = ['clothing1m', 'digits', 'folder', 'npz', *_known_sets()]
  # Without a close match, the list of all TFDS sets would fill the screen.
  if difflib.get_close_matches(name, names, n=1, cutoff=0.5):
    return errors.unknown_name('dataset', name, names)
  return errors.UserError(
    f"unknown dataset '{name}': use digits, folder:PATH, npz:PATH or the name "
    'of a TFDS image set such as cifar10'
  )


def _absent_error(
  name: str, version: str, base: pathlib.Path
) -> errors.UserError:
  """Builds the error for an absent folder <base>/<name>/<version>."""
  folder = base / name
  versions = list(_versions(folder))
  if versions:
    return errors.UserError(
      f"'{name}' is in {base} in version {', '.join(versions)}, not {version}"
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
    f"'{name}' is not in the data_dir {base}; set data_dir to its folder, or "
    '--config.download=true to fetch it'
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
    # Every set has a download script of its own, which may raise anything.
    raise errors.UserError(
      f"cannot download '{name}' to {base}: {errors.first_line(error)}; "
      "prepare it elsewhere with file_format='array_record' and set data_dir"
    ) from error


def locate(name: str, options: SourceOptions) -> pathlib.Path:
  """Finds the folder of 'name:version', or of the newest prepared version."""
  # Prepared sets come first, so that a run works without the network.
  base = _data_dir(options)
  title, _, version = name.partition(':')
  versions = _versions(base / title)
  if not versions and options.download:
    _fetch(name, base)
    versions = _versions(base / title)
  chosen = version or next(reversed(versions), '')
  if chosen not in versions:
    raise _absent_error(title, version, base)
  return versions[chosen]


def open_builder(name: str, folder: pathlib.Path) -> Any:
  """Opens the read-only builder of a prepared set."""
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
  """Finds the image and label features of a set."""
  features = builder.info.features
  pair = builder.info.supervised_keys
  # Keys may be nested, or three; then the usual names have to do.
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


def _pixels(value: Any, name: str, read: ReadPicture) -> np.ndarray:
  """Reads an image feature, which is encoded bytes or an array."""
  if isinstance(value, bytes):
    return pictures.read_picture(value, read, name)
  # Pillow wants grey images without their channel axis.
  array = value[..., 0] if value.shape[-1] == 1 else value
  return read(PIL.Image.fromarray(array))


def _split(
  title: str, rows: Any, keys: FeatureKeys, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
  """Decodes a split, in the order of `id` if rows have one."""
  total, grey = len(rows), keys.shape[-1] == 1
  image = np.empty((total, *size, 1 if grey else 3), np.uint8)
  label = np.empty(total, np.int64)
  names: list = [b''] * total
  read = lambda picture: pictures.to_pixels(picture, grey, size)

  def decode(span: range) -> None:
    # A data source of TFDS reads many rows at a time much faster.
    for i, row in zip(span, rows.__getitems__(span), strict=True):
      image[i] = _pixels(row[keys.image], f'{i} of {title}', read)
      label[i] = row[keys.label]
      names[i] = row['id'] if keys.ordered else b''

  try:
    common.run_in_chunks(f'decoding {title}', total, decode)
  except errors.UserError:
    raise
  except (RuntimeError, OSError, ValueError, IndexError) as error:
    raise errors.UserError(
      f'cannot read {title}: {errors.first_line(error)}; the files may be '
      'cut short, prepare the set again'
    ) from error
  # array_record is written in shuffled order; `id` restores the published one.
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
  """Opens the stored rows of a split, images still encoded."""
  kinds = _tfds()
  # Encoded images: decoding them in threads, with resizing, is faster.
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
  # Without a test split there is nothing to report on.
  if 'train' not in info.splits or test is None:
    raise errors.UserError(
      f"'{name}' has no train and test split (found: {', '.join(info.splits)})"
    )
  read = lambda split: _split(
    f'{name}, {split} split', open_rows(builder, split, keys), keys, size
  )
  class_names = tuple(info.features[keys.label].names)
  return SplitArrays(*read('train'), *read(test), class_names)


def find(spec: str, options: SourceOptions) -> Source:
  """Finds a TFDS set: 'name', 'name/config' or 'name:version'.

  Rows are in the order of the feature `id` if the set has it, else in stored
  order. The test split is `test`, or else `validation`.

  Raises:
    UserError: the set is unknown, not on the disk (and download is off), of
      another format, or not image classification; when it is built, truncated
      files.
  """
  errors.check(spec, "'tfds' needs a name; write 'tfds:NAME'")
  with common.check_readable(_data_dir(options)):
    folder = locate(spec, options)
  builder = open_builder(spec, folder)
  keys = feature_keys(spec, builder)
  size = _size(spec, keys, options.image_size)
  with common.check_readable(folder):
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    prints = common.stat_files(folder, paths)
  facts = {
    'folder': str(folder.resolve()),
    'files': prints,
    'image_size': options.image_size,
  }
  return Source(facts, lambda: _build(spec, builder, keys, size))


class TfdsSet(NamedTuple):
  """A set on the disk, not decoded.

  Attributes:
    name: as the user wrote it.
    splits: number of images by split.
    class_names: in label order.
    builder: of TFDS.
    keys: features of image and label.
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
  source: TfdsSet,
  split: str,
  positions: Int[np.ndarray, 'n'],
  read: ReadPicture,
) -> tuple[UInt8[np.ndarray, 'n h w c'], Int[np.ndarray, 'n']]:
  """Reads images at some positions of a split, and their labels.

  Args:
    source: the set.
    split: its name.
    positions: in stored order of rows, themselves in any order.
    read: picture -> pixels of a fixed size.

  Raises:
    UserError: truncated files, or a broken image.
  """
  rows = open_rows(source.builder, split, source.keys)
  title = f'{source.name}, {split} split'
  image: list = [None] * len(positions)
  label = np.empty(len(positions), np.int32)

  def decode(span: range) -> None:
    numbers = [int(positions[i]) for i in span]
    for i, row in zip(span, rows.__getitems__(numbers), strict=True):
      name = f'{positions[i]} of {title}'
      image[i] = _pixels(row[source.keys.image], name, read)
      label[i] = row[source.keys.label]

  common.run_in_chunks(f'decoding {title}', len(positions), decode)
  # TFDS marks the hidden labels of a test split by -1.
  errors.check(
    (label >= 0).all(), f'{title} has images without a label; use another split'
  )
  return np.stack(image), label
