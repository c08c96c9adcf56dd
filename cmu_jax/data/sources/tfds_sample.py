"""Some images of a TFDS set, read in a way of one's own.

A set as large as ImageNet does not fit into memory whole; runs on pre-trained
networks need a part of it, resized and cropped as the network wants.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
from jaxtyping import Int, UInt8

from cmu_jax.core import errors
from cmu_jax.data.sources import pictures, source, tfds
from cmu_jax.data.sources.source import Options

Read = Callable[[PIL.Image.Image], UInt8[np.ndarray, 'h w c']]


class Opened(NamedTuple):
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
  keys: tfds.Keys


def opened(name: str, options: Options) -> Opened:
  """Finds a set.

  Raises:
    UserError: it is unknown, not on the disk, or not image classification.
  """
  folder = tfds.locate(name, options)
  builder = tfds.opened(name, folder)
  keys = tfds.keys_of(name, builder)
  info = builder.info
  splits = {
    split: int(info.splits[split].num_examples) for split in info.splits
  }
  names = tuple(info.features[keys.label].names)
  return Opened(name, splits, names, builder, keys)


def some(
  found: Opened, split: str, positions: Int[np.ndarray, 'n'], read: Read
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
  rows = tfds.rows_of(found.builder, split, found.keys)
  where = f'{found.name}, {split} split'
  image: list = [None] * len(positions)
  label = np.empty(len(positions), np.int32)

  def decode(span: range) -> None:
    wanted = [int(positions[i]) for i in span]
    for i, row in zip(span, rows.__getitems__(wanted), strict=True):
      value = row[found.keys.image]
      if isinstance(value, bytes):
        image[i] = pictures.opened(value, read, f'{positions[i]} of {where}')
      else:
        plain = value[..., 0] if value.shape[-1] == 1 else value
        image[i] = read(PIL.Image.fromarray(plain))
      label[i] = row[found.keys.label]

  source.in_chunks(f'decoding {where}', len(positions), decode)
  errors.check(
    (label >= 0).all(), f'{where} has images without a label; use another split'
  )
  return np.stack(image), label
