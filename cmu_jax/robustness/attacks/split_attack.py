"""An attack on every image of a split, a block at a time."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from cmu_jax.core import jit, progress
from cmu_jax.core.types import Batch, InputStep, Model, PRNGKey, Variables
from cmu_jax.robustness.attacks import protocol
from cmu_jax.robustness.attacks.protocol import Attack, AttackResult, Logits


def logits_of(
  model: Model,
  inputs: InputStep,
  variables: Variables,
  stamp: Bool[Array, 'n'] | None = None,
) -> Logits:
  """Logits of images in [0, 1], normalised inside, in evaluation mode.

  Args:
    model: the network.
    inputs: raw pixels to network input.
    variables: its weights.
    stamp: which images carry the trigger. It is painted on the perturbed
      image: what it covers cannot be perturbed.
  """
  return lambda image: model.apply(variables, inputs.eval(255 * image, stamp))


@functools.lru_cache(maxsize=32)
def _compile_block(
  attack: Attack, model: Model, inputs: InputStep, size: int
) -> Callable:
  """(key, variables, batch, first) -> Adversarial of `size` images."""

  def run(key, variables, batch, first):
    rows = jnp.minimum(first + jnp.arange(size), batch.label.shape[0] - 1)
    stamp = None if batch.has_trigger is None else batch.has_trigger[rows]
    logits = logits_of(model, inputs, variables, stamp)
    image = batch.image[rows].astype(jnp.float32) / 255
    label = batch.label[rows].astype(jnp.int32)
    return attack(jax.random.fold_in(key, first), logits, image, label)

  return jit.compile_loop(run)


def count_classes(
  model: Model, inputs: InputStep, variables: Variables, batch: Batch
) -> int:
  """k, the number of logits of such images; nothing is computed."""
  see = lambda v, x: model.apply(v, inputs.eval(x, None))
  return jax.eval_shape(see, variables, batch.image[:1]).shape[-1]


def attack_split(
  key: PRNGKey,
  attack: Attack,
  model: Model,
  inputs: InputStep,
  variables: Variables,
  batch: Batch,
  size: int = 256,
  title: str = 'attack',
  count: int | None = None,
) -> AttackResult:
  """Attacks the images of a split under their labels.

  Compiled once for each (attack, model, inputs, size): factories of attacks
  return the same function for the same settings.

  Args:
    key: of random starts; a block has one of its own.
    attack: one of this package.
    model: the network under attack, in evaluation mode.
    inputs: raw pixels to network input; paints the stamps of the batch.
    variables: the weights under attack.
    batch: n images of pixels from 0 to 255, whole numbers or floats.
    size: images in memory at once.
    title: of the progress bar.
    count: attack so many images, from the first on; None for all. Splits of
      one shape share a compilation whatever their count.

  Returns:
    Images in [0, 1] in the order of the batch, before the input step: what is
    stamped carries no trigger.

  Raises:
    UserError: no images, pixels that are NaN or outside [0, 255], a label that
      is no class, or a size below 1.
  """
  size = protocol.check_count(size, 'block size')
  protocol.check_shapes(batch.image, batch.label)
  rows = batch.label.shape[0]
  total = (
    rows if count is None else min(protocol.check_count(count, 'count'), rows)
  )
  classes = count_classes(model, inputs, variables, batch)
  protocol.check_images(batch.image, batch.label, classes, top=255.0)
  size = min(size, rows)
  run = _compile_block(attack, model, inputs, size)
  found = []
  with progress.bar(title, total, 'images') as advance:
    for first in range(0, total, size):
      found.append(run(key, variables, batch, first))
      jax.block_until_ready(found[-1].success)
      advance(min(size, total - first))
  # On the host: the number of images decides the shapes.
  joined = lambda *x: np.concatenate([np.asarray(part) for part in x])[:total]
  return jax.tree.map(lambda *x: jnp.asarray(joined(*x)), *found)
