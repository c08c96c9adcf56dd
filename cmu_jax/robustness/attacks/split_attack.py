"""An attack on every image of a split, a block at a time."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from cmu_jax.core import array_checks, jit, progress
from cmu_jax.core.types import Batch, Network, PRNGKey, Variables
from cmu_jax.robustness.attacks import protocol
from cmu_jax.robustness.attacks.protocol import Attack, AttackResult, Logits
from cmu_jax.training import metrics


def logits_of(
  network: Network,
  variables: Variables,
  has_trigger: Bool[Array, 'n'] | None = None,
) -> Logits:
  """Logits of images in [0, 1], normalised inside, in evaluation mode.

  Args:
    has_trigger: marks the images with a trigger; None for no image.
  """
  # The trigger is painted on the perturbed image, so an attack cannot change
  # the pixels under it.
  return lambda image: network.model.apply(
    variables, network.inputs.eval(255 * image, has_trigger)
  )


@functools.lru_cache(maxsize=32)
def _compile_block(attack: Attack, network: Network, size: int) -> Callable:
  """(key, variables, batch, start) -> AttackResult of `size` images."""

  def run(key, variables, batch, start):
    rows = jnp.minimum(start + jnp.arange(size), batch.label.shape[0] - 1)
    stamp = None if batch.has_trigger is None else batch.has_trigger[rows]
    logits = logits_of(network, variables, stamp)
    image = batch.image[rows].astype(jnp.float32) / 255
    label = batch.label[rows].astype(jnp.int32)
    return attack(jax.random.fold_in(key, start), logits, image, label)

  return jit.compile_loop(run)


def attack_split(
  key: PRNGKey,
  attack: Attack,
  network: Network,
  variables: Variables,
  batch: Batch,
  size: int = 256,
  title: str = 'attack',
  count: int | None = None,
) -> AttackResult:
  """Attacks the images of a split under their labels.

  Compiles once for each (attack, network, size), because factories of
  attacks return the same function for the same settings.

  Args:
    key: of random starts; each block derives its own key.
    attack: an attack of this package.
    network: under attack, in evaluation mode; its input step paints triggers.
    batch: n images of pixels from 0 to 255, integers or floats.
    size: images in memory at once.
    title: of the progress bar.
    count: number of images to attack, from the start; None for all. Splits of
      one shape share a compilation for all counts.

  Returns:
    Images in [0, 1] in the order of the batch, without triggers.

  Raises:
    UserError: no images, pixels that are NaN or outside [0, 255], a label
      outside the classes, or a size below 1.
  """
  array_checks.check_key(key)
  array_checks.check_callable('attack', attack, 'an attack, such as pgd(0.1)')
  array_checks.check_type('network', network, Network)
  array_checks.check_type('variables', variables, Variables)
  array_checks.check_type('batch', batch, Batch)
  size = protocol.check_count(size, 'block size')
  protocol.check_shapes(batch.image, batch.label)
  rows = batch.label.shape[0]
  total = rows
  if count is not None:
    total = min(protocol.check_count(count, 'count'), rows)
  classes = metrics.count_classes(network, variables, batch.image)
  protocol.check_images(batch.image, batch.label, classes, top=255.0)
  size = min(size, rows)
  run = _compile_block(attack, network, size)
  blocks = []
  with progress.bar(title, total, 'images') as advance:
    for start in range(0, total, size):
      blocks.append(run(key, variables, batch, start))
      # Waits for the device, so that the bar shows finished work.
      jax.block_until_ready(blocks[-1].success)
      advance(min(size, total - start))
  # On the host, because the number of images decides the shapes.
  join = lambda *x: np.concatenate([np.asarray(block) for block in x])[:total]
  return jax.tree.map(lambda *x: jnp.asarray(join(*x)), *blocks)
