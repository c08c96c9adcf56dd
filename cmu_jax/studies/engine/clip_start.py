"""A CLIP as the start of a run: its weights, and the head of a data set.

`config.model` names it: `weights` is the user's file. Without one, a smoke run
trains a small CLIP on the training images that the run itself leaves out.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cmu_jax.core import errors, rng
from cmu_jax.core.types import Batch, InputStep, Model, PRNGKey, Variables
from cmu_jax.data import input_step, sources, splits
from cmu_jax.networks import clip
from cmu_jax.networks.clip import heads, prompts, zero_shot
from cmu_jax.studies.engine.binding import Loaded
from cmu_jax.training import small_clip

NAMES = (*clip.PUBLISHED, *clip.FROM_CONFIG)
_SENTENCES = prompts.CIFAR[:1]


class Start(NamedTuple):
  """The first network of every seed: image tower, frozen head, weights."""

  model: Model
  variables: Variables


def settings(name: str, width: int = 768) -> dict[str, Any]:
  """Returns the fields of config.model of a CLIP, one of NAMES."""
  return dict(
    name=name,
    width=width,  # of the image tower, checked against the weights
    weights='',  # model.safetensors, flax_model.msgpack or an .npz
    weights_sha256='',  # of their content; computed where it is empty
    dtype='float32',  # float32, bfloat16
  )


def pretrain() -> dict[str, Any]:
  """Returns the fields of config.pretrain: a small CLIP in place of weights."""
  return dict(
    steps=300,
    learning_rate=2e-3,
    images=20000,  # at most, of those that the run leaves out
    patch=8,
    depth=1,
    times_chance=3.0,  # zero-shot accuracy that is needed
  )


def is_clip(config: Any) -> bool:
  """Returns whether a config is of a CLIP."""
  return config.model.name in NAMES


def make_model(config: ConfigDict, loaded: Loaded) -> Model:
  """Makes the network of a config of a CLIP, which starts as `load_start`.

  The first weights come by a callback: as constants they would be part of every
  program.
  """
  start = load_start(config, loaded)
  shapes = jax.eval_shape(lambda: start.variables)
  host = jax.tree.map(np.asarray, start.variables)

  def init(key: PRNGKey, image: jax.Array) -> Variables:
    del key, image
    return cast(Variables, jax.pure_callback(lambda: host, shapes))

  return start.model._replace(init=init)


def load_start(config: ConfigDict, loaded: Loaded) -> Start:
  """Loads weights, and makes the head for the data set of a config.

  Raises:
    UserError: no weights, weights that do not fit, or a small CLIP that did
      not learn.
  """
  options, dataset = config.model, loaded.dataset
  if options.weights:
    weights = clip.load(options.weights, options.name)
    sentences = prompts.for_dataset(config.dataset)
  else:
    weights, sentences = _train_on_spare(config, loaded), _SENTENCES
  check_width(weights, options.width)
  head = heads.make(weights, dataset.class_names, sentences)
  model = zero_shot.model(weights.sizes, dataset.num_classes, options.dtype)
  return Start(model, zero_shot.variables(weights.variables, head.kernel))


def check_width(weights: clip.LoadedClip, width: int) -> None:
  """Refuses weights of another width than config.model has."""
  actual = weights.sizes.vision.width
  errors.check(
    actual == width,
    f'config.model.width is {width}, the weights are of a CLIP of width '
    f'{actual}; set it to that',
  )


def find_pretraining(config: ConfigDict) -> Any:
  """Returns the settings of a small CLIP; refuses a config without them."""
  options = config.get('pretrain')
  errors.check(
    options is not None,
    'which weights? give --config.model.weights=model.safetensors, a CLIP of '
    'yours, or try :smoke, which trains a small one',
  )
  return options


def _train_on_spare(config: ConfigDict, loaded: Loaded) -> clip.LoadedClip:
  """Trains a small CLIP on the images that the run leaves out.

  Raises:
    UserError: there are too few such images, or it did not learn.
  """
  pretraining = find_pretraining(config)
  source = sources.load(config.dataset, data_dir=config.data_dir)
  spare = np.setdiff1d(np.arange(len(source.train.label)), loaded.position)
  errors.check(
    spare.size >= 2 * source.num_classes,
    f'config.train_limit {config.train_limit} leaves {spare.size} images to '
    'train a small CLIP on; lower it',
  )
  spare = np.random.default_rng(0).permutation(spare)[: pretraining.images]
  captioned = lambda index: small_clip.CaptionedImages(
    _convert_to_rgb(splits.take(source.train, index)),
    source.class_names,
    _SENTENCES,
  )
  # The test images that the run measures on are not needed for this.
  side, unseen = source.train.image.shape[1], captioned(loaded.position)
  images = captioned(np.sort(spare))
  return train_small_clip(config, side, images, {config.dataset: unseen})


def train_small_clip(
  config: ConfigDict,
  side: int,
  images: small_clip.CaptionedImages,
  unseen: Mapping[str, small_clip.CaptionedImages],
) -> clip.LoadedClip:
  """Trains a small CLIP by config.pretrain, in place of weights.

  Args:
    config: `pretrain` and the width of the model.
    side: of the square images that it sees, in pixels.
    images: to train on.
    unseen: data set -> images of it, all of which it has to know.

  Raises:
    UserError: it did not learn a data set.
  """
  options = find_pretraining(config)
  width, depth = config.model.width, options.depth
  trained = small_clip.train_small_clip(
    rng.fold_in(0, 'small_clip'),
    small_clip.small_sizes(side, options.patch, width, depth),
    images,
    make_inputs(2),
    steps=options.steps,
    learning_rate=options.learning_rate,
  )
  for name, data in unseen.items():
    accuracy = small_clip.check_accuracy(
      trained, data, make_inputs(), options.times_chance
    )
    print(f'small CLIP: {accuracy:.1%} on unseen images of {name}')
  return trained


@functools.cache
def make_inputs(pad: int = 0) -> InputStep:
  """Makes the input step of a CLIP, with a random crop from `pad` zeros."""
  # One object per padding, so that seeds share their compiled programs.
  return input_step.make(zero_shot.MEAN, zero_shot.STD, pad=pad)


def _convert_to_rgb(batch: Batch) -> Batch:
  image = batch.image
  # Grey images: a CLIP has three channels.
  if image.shape[-1] == 1:
    image = jnp.repeat(image, 3, axis=-1)
  return batch._replace(image=image)
