"""What all cells of a run share: the CLIP, the data sets, how it is trained."""

import functools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from cmu_jax.core import errors, provenance, rng
from cmu_jax.core.types import Batch, InputStep, Model, Variables
from cmu_jax.data import input_step
from cmu_jax.networks import clip
from cmu_jax.networks.clip import heads, zero_shot
from cmu_jax.studies.engine import recipes
from cmu_jax.studies.negation import sets, settings
from cmu_jax.studies.negation.sets import Set
from cmu_jax.training import small_clip


class Task(NamedTuple):
  """A data set as a classification task of the CLIP.

  Attributes:
    data: its images.
    model: image tower and frozen head.
    start: weights before anything is done, head included.
  """

  data: Set
  model: Model
  start: Variables


class Place(NamedTuple):
  """What all cells share.

  Attributes:
    config: every setting.
    folder: the work folder.
    inputs: raw pixels to network input.
    control: what must stay known.
    tasks: what is to be forgotten, in order.
    summed: digest of the CLIP and of the control set.
  """

  config: ConfigDict
  folder: pathlib.Path
  inputs: InputStep
  control: Task
  tasks: tuple[Task, ...]
  summed: str


def load(config: ConfigDict, folder: pathlib.Path) -> Place:
  """Checks the settings, loads the CLIP and the data sets.

  Raises:
    UserError: bad data, weights or settings, in one line.
  """
  settings.check(config)
  step = input_step.make(zero_shot.MEAN, zero_shot.STD)
  if config.model.weights:
    found = clip.load(config.model.weights, config.model.name)
    data = [sets.load(config, name, found.sizes) for name in _names(config)]
  else:
    found, data = _small(config)
  errors.check(
    found.sizes.vision.width == config.model.width,
    f'config.model.width is {config.model.width}, the weights are of a CLIP of '
    f'width {found.sizes.vision.width}; set it to that',
  )
  kept = folder / 'heads'
  control, *tasks = [_task(config, found, one, kept) for one in data]
  leaves = jax.tree.leaves(control.start.params)
  summed = provenance.digest(*leaves, *control.data.validation[:2])
  return Place(config, folder, step, control, tuple(tasks), summed)


def optimiser(
  config: ConfigDict, position: int, size: int, seed: int
) -> tuple[optax.GradientTransformation, dict[str, Any]]:
  """The fine-tuning of the set at a position: optimiser, steps, batch size."""
  part = settings.training(config, position, seed)
  options = recipes.fit_options(part, size, 'train')
  made = options.pop('optimizer')
  if config.clip_norm:
    made = optax.chain(optax.clip_by_global_norm(config.clip_norm), made)
  return made, options


def augmented(config: ConfigDict, seed: int) -> InputStep:
  """The input step of a fine-tuning."""
  return _padded(settings.padding(config, seed))


@functools.cache
def _padded(pad: int) -> InputStep:
  """One object for each padding, so that seeds share compilations."""
  return input_step.make(zero_shot.MEAN, zero_shot.STD, pad=pad)


def _names(config: ConfigDict) -> tuple[str, ...]:
  return (config.dataset, *config.forget)


def _task(
  config: ConfigDict, found: clip.LoadedClip, data: Set, kept: pathlib.Path
) -> Task:
  head = heads.read_or_make(kept, found, data.class_names, data.sentences)
  model = zero_shot.model(
    found.sizes, len(data.class_names), config.model.dtype
  )
  return Task(data, model, zero_shot.variables(found.variables, head.kernel))


def _small(config: ConfigDict) -> tuple[clip.LoadedClip, list[Set]]:
  """A small CLIP that knows all sets, trained on images that are left out.

  Raises:
    UserError: there are no settings of it, or it did not learn every set.
  """
  asked = config.get('pretrain')
  errors.check(
    asked is not None,
    'which weights? give --config.model.weights=model.safetensors, a CLIP of '
    'yours, or try :smoke, which trains a small one',
  )
  of = small_clip.small_sizes(32, asked.patch, config.model.width, asked.depth)
  names = _names(config)
  shares = (asked.images, *[asked.images // 4] * len(config.forget))
  data = [
    sets.load(config, name, of, extra)
    for name, extra in zip(names, shares, strict=True)
  ]
  found = small_clip.train_small_clip(
    rng.fold_in(0, 'small_clip'),
    of,
    _together(data),
    input_step.make(zero_shot.MEAN, zero_shot.STD, pad=2),
    steps=asked.steps,
    learning_rate=asked.learning_rate,
  )
  plain = input_step.make(zero_shot.MEAN, zero_shot.STD)
  for one in data:
    seen = small_clip.CaptionedImages(
      one.validation, one.class_names, one.sentences
    )
    reached = small_clip.check_accuracy(found, seen, plain, asked.times_chance)
    print(f'small CLIP: {reached:.1%} on unseen images of {one.name}')
  return found, data


def _together(data: list[Set]) -> small_clip.CaptionedImages:
  """The images of all sets, and all their classes."""
  rests: list[Any] = [one.rest for one in data]
  first = np.cumsum([0, *(len(one.class_names) for one in data)])
  label = [r.label + int(at) for r, at in zip(rests, first[:-1], strict=True)]
  batch = Batch(
    jnp.concatenate([r.image for r in rests]), jnp.concatenate(label)
  )
  names = tuple(name for one in data for name in one.class_names)
  return small_clip.CaptionedImages(batch, names, data[0].sentences)
