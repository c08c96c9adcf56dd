"""The CLIP and the data sets that all cells of the negation study share.

The validation part is a random share of the training split (seed 0). No choice
looks at the test split.
"""

import functools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import PIL.Image
from jaxtyping import Int
from ml_collections import ConfigDict

from cmu_jax.core import errors, provenance
from cmu_jax.core.types import Batch, InputStep, Model, Training, Variables
from cmu_jax.data.sources import tfds
from cmu_jax.data.sources.common import SourceOptions, every_fifth
from cmu_jax.networks import clip
from cmu_jax.networks.clip import heads, prompts, zero_shot
from cmu_jax.studies.engine import clip_start, recipes
from cmu_jax.studies.negation import settings
from cmu_jax.training import small_clip

_TEST = ('test', 'validation', 'val')
# Sets whose test split has no labels.
_OTHER_TEST = {'visual_domain_decathlon/gtsrb': 'validation'}
# Square images up to this side stay as they are: the network enlarges them.
_SMALL = 64


class DataSet(NamedTuple):
  """A data set as the study uses it."""

  name: str
  train: Batch | None  # for fine-tuning; None for the control set
  validation: Batch  # for the choice of the strength
  test: Batch  # for the reported accuracies
  class_names: tuple[str, ...]  # in label order
  sentences: tuple[str, ...]
  # Further training images, for a small CLIP; None without one.
  spare: Batch | None = None


class Task(NamedTuple):
  """A data set as a classification task of the CLIP."""

  data: DataSet
  model: Model  # image tower and frozen head
  start: Variables  # the weights of the CLIP, head included


class World(NamedTuple):
  """A CLIP and its tasks, which all cells share."""

  inputs: InputStep
  control: Task
  tasks: tuple[Task, ...]
  digest: str  # of the CLIP and of the control set


def load(config: ConfigDict, folder: pathlib.Path) -> World:
  """Loads the CLIP and the data sets.

  Args:
    config: checked settings.
    folder: heads are cached in it, because a large CLIP takes minutes for one.

  Raises:
    UserError: bad data or weights.
  """
  names = (config.dataset, *config.forget)
  if config.model.weights:
    loaded = clip.load(config.model.weights, config.model.name)
    data = [load_set(config, name, loaded.sizes) for name in names]
  else:
    loaded, data = _train_small_clip(config, names)
  clip_start.check_width(loaded, config.model.width)
  tasks = [
    _bind_task(config, loaded, subset, folder / 'heads') for subset in data
  ]
  # `names` has the control set in front.
  control = tasks[0]
  leaves = jax.tree.leaves(control.start.params)
  digest = provenance.digest(*leaves, *control.data.validation[:2])
  return World(clip_start.make_inputs(), control, tuple(tasks[1:]), digest)


def make_training(
  config: ConfigDict, position: int, seed: int, size: int
) -> Training:
  """Creates the training of one fine-tuning."""
  recipe = settings.tuning_recipe(config, position, seed)
  training = recipes.fit_options(recipe, size, 'train')
  if not config.clip_norm:
    return training
  clipping = optax.clip_by_global_norm(config.clip_norm)
  return training._replace(optimizer=optax.chain(clipping, training.optimizer))


def _bind_task(
  config: ConfigDict,
  loaded: clip.LoadedClip,
  data: DataSet,
  folder: pathlib.Path,
) -> Task:
  # The head is frozen: it belongs to the set, not to the fine-tuning.
  head = heads.read_or_make(folder, loaded, data.class_names, data.sentences)
  model = zero_shot.model(
    loaded.sizes, len(data.class_names), config.model.dtype
  )
  start = zero_shot.variables(loaded.variables, head.kernel)
  return Task(data, model, start)


def _train_small_clip(
  config: ConfigDict, names: tuple[str, ...]
) -> tuple[clip.LoadedClip, list[DataSet]]:
  """Trains a small CLIP that knows all sets, on images that are left out.

  Raises:
    UserError: the config has no settings of it, or it did not learn every set.
  """
  options = clip_start.find_pretraining(config)
  width, depth = config.model.width, options.depth
  sizes = small_clip.small_sizes(32, options.patch, width, depth)
  # The control set has many classes, hence most of the images.
  counts = (options.images, *[options.images // 4] * len(config.forget))
  data = [
    load_set(config, name, sizes, count)
    for name, count in zip(names, counts, strict=True)
  ]
  loaded = clip_start.train_small_clip(
    config,
    sizes.image_size,
    _join_spare_images(data),
    {
      subset.name: small_clip.CaptionedImages(
        subset.validation, subset.class_names, subset.sentences
      )
      for subset in data
    },
  )
  return loaded, data


def _join_spare_images(data: list[DataSet]) -> small_clip.CaptionedImages:
  """Concatenates the spare images of all sets, and their classes."""
  spare: list[Any] = [subset.spare for subset in data]
  # One classification task for all sets: their classes are numbered on.
  offsets = np.cumsum([0, *(len(subset.class_names) for subset in data)])
  label = [
    batch.label + int(offset)
    for batch, offset in zip(spare, offsets[:-1], strict=True)
  ]
  image = jnp.concatenate([batch.image for batch in spare])
  names = tuple(name for subset in data for name in subset.class_names)
  batch = Batch(image, jnp.concatenate(label))
  return small_clip.CaptionedImages(batch, names, data[0].sentences)


def load_set(
  config: ConfigDict, name: str, sizes: clip.Sizes, spare: int = 0
) -> DataSet:
  """Reads the parts of a data set.

  `spare` is the number of further training images to read.

  Raises:
    UserError: the set is absent, broken or too small.
  """
  source = tfds.open_set(name, SourceOptions(config.data_dir, config.download))
  control = name == config.dataset
  split, train, test = _shuffled_positions(source)
  options = config.validation
  validation = min(int(options.share * len(train)), options.most)
  # The control set is not trained on.
  limit = 0 if control else config.train_limit or len(train)
  sections = np.cumsum([validation, min(limit, len(train) - validation), spare])
  parts = np.split(train, sections)
  most = config.control_limit if control else config.test_limit
  errors.check(
    validation >= 1 and (control or parts[1].size),
    f"'{name}' has {len(train)} training images: too few to hold out "
    f'{options.share:g} of them; raise config.validation.share',
  )
  reader = _picture_reader(source, sizes)

  def read(split: str, rows: Int[np.ndarray, '_']) -> Batch:
    # Sorted, because files are read from front to back.
    images = tfds.read_images(source, split, np.sort(rows), reader)
    return Batch(*map(jnp.asarray, images))

  # A small CLIP knows a single sentence.
  sentences = (
    prompts.IMAGENET[:1]
    if spare
    else prompts.for_dataset(name.rpartition('/')[2])
  )
  return DataSet(
    name,
    None if control else read('train', parts[1]),
    read('train', parts[0]),
    read(split, test[: most or len(test)]),
    source.class_names,
    sentences,
    read('train', parts[2]) if spare else None,
  )


def _shuffled_positions(
  source: tfds.TfdsSet,
) -> tuple[str, Int[np.ndarray, 'n'], Int[np.ndarray, 'm']]:
  """Draws the test split's name, and orders of training and test images."""
  errors.check(
    'train' in source.splits, f"'{source.name}' has no train split; use another"
  )
  train = np.random.default_rng(0).permutation(source.splits['train'])
  split = _OTHER_TEST.get(
    source.name, next((s for s in _TEST if s in source.splits), '')
  )
  if split in source.splits:
    size = source.splits[split]
    return split, train, np.random.default_rng(1).permutation(size)
  # A set with training images alone gives a fifth of them to the test.
  test = every_fifth(np.zeros(len(train), int))
  return 'train', train[~test], train[test]


def _picture_reader(source: tfds.TfdsSet, sizes: clip.Sizes) -> Any:
  """Chooses the reader: small squares stay as they are, others are cropped."""
  height, width = source.keys.shape[:2]
  small = height == width and height is not None and height <= _SMALL
  if small and sizes.image_size > _SMALL:
    return _read_rgb
  return functools.partial(zero_shot.crop_centre, side=sizes.image_size)


def _read_rgb(picture: PIL.Image.Image) -> np.ndarray:
  return np.array(picture.convert('RGB'))
