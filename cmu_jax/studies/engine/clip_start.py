"""A CLIP as the start of a run: its weights, and the head of a data set.

`config.model` names it: `weights` is the user's file. Without one, a smoke run
trains a small CLIP on the training images that the run itself leaves out.
"""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cmu_jax.core import errors, rng
from cmu_jax.core.types import Batch, Model, PRNGKey, Variables
from cmu_jax.data import input_step, sources, splits
from cmu_jax.networks import clip
from cmu_jax.networks.clip import heads, prompts, zero_shot
from cmu_jax.studies.engine.binding import Loaded
from cmu_jax.training import small_clip

NAMES = (*clip.PUBLISHED, *clip.FROM_CONFIG)
_SENTENCES = prompts.CIFAR[:1]


class Start(NamedTuple):
  """Where every seed starts.

  Attributes:
    model: image tower and frozen head.
    variables: its weights.
  """

  model: Model
  variables: Variables


def settings(name: str, width: int = 768) -> dict[str, Any]:
  """The fields of config.model of a CLIP.

  Args:
    name: of the CLIP, one of NAMES.
    width: of its image tower, checked against the weights.
  """
  return dict(
    name=name,
    width=width,  # of the image tower
    weights='',  # model.safetensors, flax_model.msgpack or an .npz
    weights_sha256='',  # of their content; found out where it is empty
    dtype='float32',  # float32, bfloat16
  )


def pretrain() -> dict[str, Any]:
  """The fields of config.pretrain, of a small CLIP in place of weights."""
  return dict(
    steps=300,
    learning_rate=2e-3,
    images=20000,  # at most, of those that the run leaves out
    patch=8,
    depth=1,
    times_chance=3.0,  # zero-shot accuracy that is needed
  )


def asked(config: Any) -> bool:
  """Whether a config is of a CLIP."""
  return config.model.name in NAMES


def begun(start: Start) -> Model:
  """The network, whose first weights are those it was given.

  They come by a callback: as constants they would be part of every program.
  """
  shapes = jax.eval_shape(lambda: start.variables)
  host = jax.tree.map(np.asarray, start.variables)

  def init(key: PRNGKey, image: jax.Array) -> Variables:
    del key, image
    return cast(Variables, jax.pure_callback(lambda: host, shapes))

  return start.model._replace(init=init)


def network(config: ConfigDict, found: Loaded) -> Model:
  """The network of a config of a CLIP, see `start`."""
  return begun(start(config, found))


def start(config: ConfigDict, found: Loaded) -> Start:
  """Weights and head for the data set of a config.

  Args:
    config: `model` from `settings`, `pretrain` for a small CLIP.
    found: the data as the run sees them.

  Raises:
    UserError: no weights, weights that do not fit, or a small CLIP that did
      not learn.
  """
  options, dataset = config.model, found.dataset
  if options.weights:
    one = clip.load(options.weights, options.name)
    sentences = prompts.for_dataset(config.dataset)
  else:
    one, sentences = _small(config, found), _SENTENCES
  errors.check(
    one.sizes.vision.width == options.width,
    f'config.model.width is {options.width}, the weights are of a CLIP of '
    f'width {one.sizes.vision.width}; set it to that',
  )
  head = heads.make(one, dataset.class_names, sentences)
  model = zero_shot.model(one.sizes, dataset.num_classes, options.dtype)
  return Start(model, zero_shot.variables(one.variables, head.kernel))


def _small(config: ConfigDict, found: Loaded) -> clip.LoadedClip:
  """A small CLIP trained on what the run leaves out, if that is enough."""
  asked_for = config.get('pretrain')
  errors.check(
    asked_for is not None,
    'which weights? give --config.model.weights=model.safetensors, a CLIP of '
    'yours, or try :smoke, which trains a small one',
  )
  whole = sources.load(config.dataset, data_dir=config.data_dir)
  rest = np.setdiff1d(np.arange(len(whole.train.label)), found.position)
  errors.check(
    rest.size >= 2 * whole.num_classes,
    f'config.train_limit {config.train_limit} leaves {rest.size} images to '
    'train a small CLIP on; lower it',
  )
  rest = np.random.default_rng(0).permutation(rest)[: asked_for.images]
  side, options = whole.train.image.shape[1], config.model
  of = small_clip.small_sizes(
    side, asked_for.patch, options.width, asked_for.depth
  )
  captioned = lambda batch: small_clip.CaptionedImages(
    _rgb(batch), whole.class_names, _SENTENCES
  )
  one = small_clip.train_small_clip(
    rng.fold_in(0, 'small_clip'),
    of,
    captioned(splits.take(whole.train, np.sort(rest))),
    _step(2),
    steps=asked_for.steps,
    learning_rate=asked_for.learning_rate,
  )
  # The test images that the run measures on are not needed for this.
  unseen = captioned(splits.take(whole.train, found.position))
  reached = small_clip.check_accuracy(
    one, unseen, _step(0), asked_for.times_chance
  )
  print(f'small CLIP: zero-shot accuracy {reached:.1%} on unseen images')
  return one


def _step(pad: int) -> Any:
  return input_step.make(zero_shot.MEAN, zero_shot.STD, pad=pad)


def _rgb(batch: Batch) -> Batch:
  """Grey images in three channels, as a CLIP sees them."""
  image = batch.image
  if image.shape[-1] == 1:
    image = jnp.repeat(image, 3, axis=-1)
  return batch._replace(image=image)
