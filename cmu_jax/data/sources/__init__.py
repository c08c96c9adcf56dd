"""Datasets: a source by name to uint8 images and labels on the device.

A new kind of source is a file with a function `find` and an entry in SOURCES.
"""

import os
from collections.abc import Callable

import jax.numpy as jnp

from cmu_jax.core import array_checks
from cmu_jax.core.types import Batch, Dataset
from cmu_jax.data.sources import (
  cache,
  clothing1m,
  common,
  image_folder,
  npz,
  tfds,
)
from cmu_jax.data.sources.common import Source, SourceOptions, SplitArrays

SOURCES: dict[str, Callable[[str, SourceOptions], Source]] = {
  'clothing1m': clothing1m.find,
  'digits': common.find_digits,
  'folder': image_folder.find,
  'npz': npz.find,
  'tfds': tfds.find,
}


def _find_source(name: str, options: SourceOptions) -> Source:
  """Finds the source of 'kind:spec'; any other name is a TFDS set."""
  kind, _, spec = name.partition(':')
  if kind in SOURCES:
    return SOURCES[kind](spec, options)
  return SOURCES['tfds'](name, options)


def _read_source(
  name: str, source: Source, cache_dir: str | os.PathLike | None
) -> SplitArrays:
  """Decodes a source, or reads its arrays from the cache."""
  decode = lambda: common.check_arrays(name, source.build())
  # Only a source that is cheap to decode has no facts.
  if source.facts is None:
    return decode()
  return cache.read_or_build(cache_dir, name, source.facts, decode)


def load(
  source: str,
  *,
  data_dir: str | os.PathLike | None = None,
  download: bool = False,
  image_size: int | None = None,
  cache_dir: str | os.PathLike | None = None,
) -> Dataset:
  """Loads a dataset into memory.

  Args:
    source: 'digits'; 'folder:PATH' (<root>/<split>/<class>/*); 'npz:PATH';
      'clothing1m:PATH'; or a TFDS set such as 'cifar10', 'emnist/letters' or
      'mnist:3.0.1'.
    data_dir: folder of the TFDS sets; None for the default of TFDS.
    download: fetch an absent TFDS set.
    image_size: side to resize to on load (not npz); None to keep.
    cache_dir: folder for decoded images; None for $CMU_JAX_CACHE or
      ~/.cache/cmu_jax.

  Returns:
    Both splits on the default device, uint8 [n, h, w, c] and int32 [n].

  Raises:
    UserError: the source is unknown, absent, incomplete or malformed.
  """
  array_checks.check_type('source', source, str)
  if image_size is not None:
    array_checks.check_count('image_size', image_size)
  options = SourceOptions(data_dir, download, image_size)
  arrays = _read_source(source, _find_source(source, options), cache_dir)
  # Published sets are as they are; a user's own split may be a mistake.
  if source.startswith(('folder:', 'npz:')):
    common.remark_on_copies(source, arrays)
  # Copies: on a CPU jax would otherwise share the mapped file's memory.
  train = Batch(jnp.array(arrays.train_image), jnp.array(arrays.train_label))
  test = Batch(jnp.array(arrays.test_image), jnp.array(arrays.test_label))
  return Dataset(train, test, arrays.class_names, source)
