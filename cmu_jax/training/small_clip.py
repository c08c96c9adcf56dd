"""A small CLIP trained here, for runs without weights of somebody else.

Class names in sentences stand in for captions: an image is drawn to the text of
its class and away from those of the others, through both towers. What comes out
is a CLIP in every respect but size, and is no evidence about large ones.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from cmu_jax.core import errors, jit, store, tree
from cmu_jax.core.types import Batch, InputStep, Model, PRNGKey, Variables
from cmu_jax.networks import clip
from cmu_jax.networks.clip import heads, prompts, towers, zero_shot
from cmu_jax.training import metrics, optimizers, train

_BATCH = 128
_WARMUP = 50


class CaptionedImages(NamedTuple):
  """Images and what they are called.

  Attributes:
    batch: images of the size that the CLIP sees, and labels.
    class_names: one a label.
    sentences: each with one '{}'.
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
  heads_ = max(1, width // 16)
  return clip.Sizes(
    clip.Tower(width, depth, heads_, 2 * width),
    clip.Tower(32, 1, 2, 64),
    image_size=side,
    patch=patch,
    embed=width,
  )


def trainable_clip(
  sizes: clip.Sizes, class_names: Sequence[str], sentences: Sequence[str]
) -> Model:
  """A CLIP whose outputs are the classes and whose text tower trains, too.

  Args:
    sizes: sizes of the CLIP.
    class_names: one an output.
    sentences: each with one '{}'; a class is the mean over them.
  """
  named = prompts.spell_class_names(tuple(class_names))
  texts = [s.replace('{}', name) for name in named for s in sentences]
  ids = prompts.encode(texts, sizes.context)
  ids = ids[:, : int((ids != 0).sum(1).max())]
  both = clip.bind(sizes)
  shape = (len(named), len(sentences), sizes.embed)

  def columns(v: Variables) -> Float[Array, 'k e']:
    rows = towers.normalise_rows(both.text(v, ids)).reshape(shape)
    return jnp.exp(v.params['logit_scale']) * towers.normalise_rows(
      rows.mean(1)
    )

  def head(v: Variables, features: jax.Array) -> jax.Array:
    return towers.normalise_rows(features) @ columns(v).T

  def apply(v: Variables, image: jax.Array) -> jax.Array:
    return head(v, both.image(v, image))

  def update(v: Variables, image: jax.Array) -> tuple[jax.Array, Any]:
    return apply(v, image), v.batch_stats

  def init(key: PRNGKey, image: jax.Array) -> Variables:
    del image
    return both.init(key)

  return Model(init, apply, update, both.image, head)


def train_small_clip(
  key: PRNGKey,
  of: clip.Sizes,
  data: CaptionedImages,
  inputs: InputStep,
  *,
  steps: int,
  learning_rate: float = 1e-3,
  checkpoint: store.Checkpoint | None = None,
) -> clip.LoadedClip:
  """Trains a small CLIP.

  Args:
    key: of the first weights, order and augmentation.
    of: its sizes.
    data: what it sees.
    inputs: raw pixels to network input.
    steps: of AdamW with warm-up and cosine, batches of 128.
    learning_rate: the peak.
    checkpoint: where it saves itself.

  Returns:
    The CLIP, with no file behind it.
  """
  network = trainable_clip(of, data.class_names, data.sentences)
  first, order = jax.random.split(key)
  warm = min(_WARMUP, steps // 4)
  rate = optimizers.warmup_cosine_schedule(learning_rate, warm, 0, steps)
  begin = jit.compile_cheaply(network.init)(first, data.batch.image[:1])
  # Hundreds of steps repay what the optimisations take.
  with jit.optimize_fully():
    fitted = train.fit(
      order,
      network,
      begin,
      data.batch,
      optimizer=_freeze_tokens(optimizers.adamw(rate, 0.01)),
      steps=steps,
      batch_size=_BATCH,
      inputs=inputs,
      checkpoint=checkpoint,
      title='small CLIP',
    )
  return as_loaded(of, fitted.variables)


def _freeze_tokens(
  optimizer: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """Leaves the table of tokens as it is: few are ever used, and it is large."""

  def kinds(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
      lambda path, _: 'token_embedding' in tree.path_names(path), params
    )

  # One long vector: updates leaf by leaf take most of the compilation.
  return optax.multi_transform(
    {False: optax.flatten(optimizer), True: optax.set_to_zero()}, kinds
  )


def as_loaded(of: clip.Sizes, variables: Variables) -> clip.LoadedClip:
  """A CLIP that was made here, as `clip.load` gives one."""
  return clip.LoadedClip(of, variables, *clip.export(variables))


def zero_shot_accuracy(
  found: clip.LoadedClip, data: CaptionedImages, inputs: InputStep
) -> float:
  """Zero-shot accuracy, with a head as any CLIP gets it."""
  head = heads.make(found, data.class_names, data.sentences)
  network = zero_shot.model(found.sizes, len(data.class_names))
  variables = zero_shot.variables(found.variables, head.kernel)
  seen = metrics.predict(network, inputs, variables, data.batch, 500)
  return float(np.mean(seen == np.asarray(data.batch.label)))


def check_accuracy(
  found: clip.LoadedClip,
  data: CaptionedImages,
  inputs: InputStep,
  times: float = 3.0,
) -> float:
  """The accuracy, if it is far enough above chance.

  Args:
    found: the CLIP.
    data: images that it was not trained on.
    inputs: raw pixels to network input.
    times: how many times chance is needed.

  Raises:
    UserError: it is less: nothing could be seen in what follows.
  """
  reached, chance = (
    zero_shot_accuracy(found, data, inputs),
    1 / len(data.class_names),
  )
  errors.check(
    reached >= times * chance,
    f'the small CLIP reaches {reached:.1%} on images of '
    f'{len(data.class_names)} classes, less than {times:g} times chance: '
    'train it for more steps (config.pretrain.steps)',
  )
  return reached
