"""Datasets: a source by name to uint8 images and labels on the device.

A new kind of source is one file with a function `find` and one line in
SOURCES.

Data sets from archives, folders and TFDS.
"""

import os
from collections.abc import Callable

import jax.numpy as jnp

from cmu_jax.core import errors
from cmu_jax.core.types import Batch, Dataset
from cmu_jax.data.sources import (
  cache,
  clothing1m,
  common,
  digits,
  image_folder,
  npz,
  tfds,
)
from cmu_jax.data.sources.common import Source, SourceOptions, SplitArrays

SOURCES: dict[str, Callable[[str, SourceOptions], Source]] = {
  'clothing1m': clothing1m.find,
  'digits': digits.find,
  'folder': image_folder.find,
  'npz': npz.find,
  'tfds': tfds.find,
}


def _find_source(name: str, options: SourceOptions) -> Source:
  """The source that `name` means: a kind with what follows, or a TFDS set."""
  kind, _, rest = name.partition(':')
  if kind in SOURCES:
    return SOURCES[kind](rest, options)
  return SOURCES['tfds'](name, options)


def _read_source(
  name: str, found: Source, cache_dir: str | os.PathLike | None
) -> SplitArrays:
  """The validated arrays of a source, decoded or from the cache."""
  decode = lambda: common.check_arrays(name, found.build())
  if found.facts is None:
    return decode()
  return cache.read_or_build(cache_dir, name, found.facts, decode)


def load(
  source: str,
  *,
  data_dir: str | os.PathLike | None = None,
  download: bool = False,
  image_size: int | None = None,
  cache_dir: str | os.PathLike | None = None,
) -> Dataset:
  """Loads a dataset whole.

  Args:
    source: 'digits'; 'folder:PATH' (<root>/<split>/<class>/*); 'npz:PATH';
      'clothing1m:PATH'; or a TFDS set such as 'cifar10', 'emnist/letters' or
      'mnist:3.0.1'.
    data_dir: where TFDS sets are; None for the default of TFDS.
    download: fetch a TFDS set that is not there.
    image_size: side to resize to on load (not npz); None to keep.
    cache_dir: where decoded images are kept; None for $CMU_JAX_CACHE or
      ~/.cache/cmu_jax.

  Returns:
    Both splits on the default device, uint8 [n, h, w, c] and int32 [n].

  Raises:
    UserError: the source is unknown, absent, incomplete or malformed.
  """
  errors.check(
    image_size is None or image_size >= 1,
    f'image_size is {image_size}; it must be at least 1',
  )
  found = _find_source(source, SourceOptions(data_dir, download, image_size))
  arrays = _read_source(source, found, cache_dir)
  # Copies: on a CPU jax would otherwise share the mapped file's memory.
  train = Batch(jnp.array(arrays.train_image), jnp.array(arrays.train_label))
  test = Batch(jnp.array(arrays.test_image), jnp.array(arrays.test_label))
  return Dataset(train, test, arrays.class_names, source)
