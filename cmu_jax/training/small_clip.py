"""A small CLIP trained from scratch, for runs without published weights.

Sentences with class names replace captions: training pulls an image towards the
text of its class and away from the other texts, through both towers. The result
is a CLIP in every respect but size, and no evidence about large ones.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from cmu_jax.core import errors, jit, tree
from cmu_jax.core.store import Checkpoint
from cmu_jax.core.types import (
  Batch,
  InputStep,
  Model,
  Network,
  PRNGKey,
  Training,
  Variables,
)
from cmu_jax.networks import clip
from cmu_jax.networks.clip import heads, prompts, towers, zero_shot
from cmu_jax.training import metrics, optimizers, train

_BATCH = 128
_WARMUP = 50


class CaptionedImages(NamedTuple):
  """Images with class names and sentences.

  Attributes:
    batch: images of the size that the CLIP takes, and labels.
    class_names: of every label.
    sentences: each with one '{}' for the class name.
  """

  batch: Batch
  class_names: tuple[str, ...]
  sentences: tuple[str, ...]


def small_sizes(
  side: int, patch: int = 4, width: int = 64, depth: int = 2
) -> clip.Sizes:
  """The sizes of a small CLIP that knows every token.

  Args:
    side: of the images, in pixels.
    patch: side of a patch.
    width: of the image tower, a multiple of 16.
    depth: blocks of each tower.
  """
  return clip.Sizes(
    clip.Tower(width, depth, max(1, width // 16), 2 * width),
    clip.Tower(32, 1, 2, 64),
    image_size=side,
    patch=patch,
    embed=width,
  )


def trainable_clip(
  sizes: clip.Sizes, class_names: Sequence[str], sentences: Sequence[str]
) -> Model:
  """A CLIP classifier whose text tower trains, too.

  Args:
    class_names: of every output.
    sentences: each with one '{}'; a class is the mean over them.
  """
  spelled = prompts.spell_class_names(tuple(class_names))
  texts = [s.replace('{}', name) for name in spelled for s in sentences]
  ids = prompts.encode(texts, sizes.context)
  # Padding beyond the longest text would only cost time.
  ids = ids[:, : int((ids != 0).sum(1).max())]
  network = clip.bind(sizes)
  shape = (len(spelled), len(sentences), sizes.embed)

  def columns(v: Variables) -> Float[Array, 'k e']:
    rows = towers.normalise_rows(network.text(v, ids)).reshape(shape)
    # As in CLIP, the scale is learned as a logarithm and stays positive.
    scale = jnp.exp(v.params['logit_scale'])
    return scale * towers.normalise_rows(rows.mean(1))

  def head(v: Variables, features: jax.Array) -> jax.Array:
    return towers.normalise_rows(features) @ columns(v).T

  def apply(v: Variables, image: jax.Array) -> jax.Array:
    return head(v, network.image(v, image))

  def update(v: Variables, image: jax.Array) -> tuple[jax.Array, Any]:
    return apply(v, image), v.batch_stats

  def init(key: PRNGKey, image: jax.Array) -> Variables:
    del image
    return network.init(key)

  return Model(init, apply, update, network.image, head)


def train_small_clip(
  key: PRNGKey,
  sizes: clip.Sizes,
  data: CaptionedImages,
  inputs: InputStep,
  *,
  steps: int,
  learning_rate: float = 1e-3,
  checkpoint: Checkpoint | None = None,
) -> clip.LoadedClip:
  """Trains a small CLIP.

  Args:
    key: of initial weights, sample order and augmentation.
    data: the training images.
    inputs: raw pixels to network input.
    steps: of AdamW with warm-up and cosine, batches of 128.
    learning_rate: the peak.
    checkpoint: saves the state and restores it; None to keep nothing.

  Returns:
    The CLIP, without a file.
  """
  model = trainable_clip(sizes, data.class_names, data.sentences)
  init_key, train_key = jax.random.split(key)
  # Short smoke runs would otherwise end during the warm-up.
  warmup = min(_WARMUP, steps // 4)
  rate = optimizers.warmup_cosine_schedule(learning_rate, warmup, 0, steps)
  start = jit.compile_cheaply(model.init)(init_key, data.batch.image[:1])
  optimizer = _freeze_tokens(optimizers.adamw(rate, 0.01))
  # Hundreds of steps repay the time of the compiler's optimizations.
  with jit.optimize_fully():
    fitted = train.fit(
      train_key,
      Network(model, inputs),
      start,
      data.batch,
      Training(optimizer, steps, _BATCH),
      train.Session('small CLIP', checkpoint),
    )
  # A CLIP as `clip.load` returns it, with the names of its future file.
  return clip.LoadedClip(
    sizes, fitted.variables, *clip.export(fitted.variables)
  )


def _freeze_tokens(
  optimizer: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """Returns `optimizer` without updates of the token table."""

  # The table is large, and a run uses few of its rows.
  def is_table(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
      lambda path, _: 'token_embedding' in tree.path_names(path), params
    )

  # One long vector: updates leaf by leaf take most of the compilation.
  return optax.multi_transform(
    {False: optax.flatten(optimizer), True: optax.set_to_zero()}, is_table
  )


def check_accuracy(
  loaded: clip.LoadedClip,
  data: CaptionedImages,
  inputs: InputStep,
  times: float = 3.0,
) -> float:
  """Returns the accuracy of the zero-shot head if it is far above chance.

  Args:
    loaded: the CLIP.
    data: images outside its training set.
    inputs: raw pixels to network input.
    times: required multiple of chance.

  Raises:
    UserError: the accuracy is lower, so that later results would say nothing.
  """
  # A head from texts, not the training head, shows zero-shot transfer.
  head = heads.make(loaded, data.class_names, data.sentences)
  model = zero_shot.model(loaded.sizes, len(data.class_names))
  variables = zero_shot.variables(loaded.variables, head.kernel)
  predicted = metrics.predict(
    Network(model, inputs), variables, data.batch, 500
  )
  reached = float(np.mean(predicted == np.asarray(data.batch.label)))
  chance = 1 / len(data.class_names)
  errors.check(
    reached >= times * chance,
    f'the small CLIP reaches {reached:.1%} on images of '
    f'{len(data.class_names)} classes, less than {times:g} times chance: '
    'train it for more steps (config.pretrain.steps)',
  )
  return reached
