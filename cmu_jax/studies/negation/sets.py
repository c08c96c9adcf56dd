"""Data sets of a run: training, validation and test images, and a head.

The validation part is a random share of the training split (seed 0); the test
split is never looked at before the strength is chosen.
"""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import PIL.Image
from jaxtyping import Int
from ml_collections import ConfigDict

from cmu_jax.core import errors
from cmu_jax.core.types import Batch
from cmu_jax.data.sources import tfds
from cmu_jax.data.sources.common import SourceOptions, every_fifth
from cmu_jax.networks import clip
from cmu_jax.networks.clip import prompts, zero_shot

_TEST = ('test', 'validation', 'val')
# Sets whose test split has no labels.
_OTHER_TEST = {'visual_domain_decathlon/gtsrb': 'validation'}
# Images of one size up to this are kept so, and resized in the network.
_SMALL = 64


class Set(NamedTuple):
  """A data set as a run sees it.

  Attributes:
    name: of TFDS.
    train: what is fine-tuned on; None for the control set.
    validation: what the strength is chosen on.
    test: what is reported.
    class_names: in label order.
    sentences: that the head is made of.
    rest: training images that are none of these, for a small CLIP; or None.
  """

  name: str
  train: Batch | None
  validation: Batch
  test: Batch
  class_names: tuple[str, ...]
  sentences: tuple[str, ...]
  rest: Batch | None = None


def load(
  config: ConfigDict, name: str, sizes: clip.Sizes, extra: int = 0
) -> Set:
  """Reads what a run needs of a data set.

  Args:
    config: see `settings.base`; `dataset` is the control set.
    name: of TFDS.
    sizes: of the CLIP.
    extra: training images to read besides, for `rest`.

  Raises:
    UserError: the set is absent, broken or too small.
  """
  found = tfds.open_set(name, SourceOptions(config.data_dir, config.download))
  control = name == config.dataset
  split, train, test = _positions(found)
  held = min(int(config.validation.share * len(train)), config.validation.most)
  limit = 0 if control else config.train_limit or len(train)
  parts = np.split(
    train, np.cumsum([held, min(limit, len(train) - held), extra])
  )
  most = config.control_limit if control else config.test_limit
  errors.check(
    held >= 1 and (control or parts[1].size),
    f"'{name}' has {len(train)} training images: too few to hold out "
    f'{config.validation.share:g} of them; raise config.validation.share',
  )
  read = _reader(found, sizes)
  some = lambda where, rows: Batch(
    *map(jnp.asarray, tfds.read_images(found, where, np.sort(rows), read))
  )
  return Set(
    name,
    None if control else some('train', parts[1]),
    some('train', parts[0]),
    some(split, test[: most or len(test)]),
    found.class_names,
    prompts.IMAGENET[:1]
    if extra
    else prompts.for_dataset(name.rpartition('/')[2]),
    some('train', parts[2]) if extra else None,
  )


def _positions(
  found: tfds.TfdsSet,
) -> tuple[str, Int[np.ndarray, 'n'], Int[np.ndarray, 'm']]:
  """The test split, and random orders of training and test images."""
  errors.check(
    'train' in found.splits, f"'{found.name}' has no train split; use another"
  )
  shuffled = np.random.default_rng(0).permutation(found.splits['train'])
  split = _OTHER_TEST.get(
    found.name, next((s for s in _TEST if s in found.splits), '')
  )
  if split in found.splits:
    size = found.splits[split]
    return split, shuffled, np.random.default_rng(1).permutation(size)
  # A set with nothing but training images: a fifth of them is for test.
  test = every_fifth(np.zeros(len(shuffled), int))
  return 'train', shuffled[~test], shuffled[test]


def _reader(found: tfds.TfdsSet, sizes: clip.Sizes) -> Any:
  """Pictures as they are where all are small squares, else as CLIP's."""
  height, width = found.keys.shape[:2]
  small = height == width and height is not None and height <= _SMALL
  if small and sizes.image_size > _SMALL:
    return _colours
  return functools.partial(zero_shot.crop_centre, side=sizes.image_size)


def _colours(picture: PIL.Image.Image) -> np.ndarray:
  return np.array(picture.convert('RGB'))
