"""Where a trigger leads: from a flag, from the folder, or from the network.

Finds a painted trigger by comparing bad samples with ordinary pictures.

What is to be repaired: a shipped network and its bad samples.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from cmu_jax.commands.repair.request import RepairRequest
from cmu_jax.core import errors
from cmu_jax.core.types import Batch, Trigger
from cmu_jax.data import input_step
from cmu_jax.networks import shipped
from cmu_jax.networks.shipped import ShippedNetwork
from cmu_jax.training import metrics


def choose_target(
  given: Any,
  named: tuple[str, ...],
  found: tuple[str, ...],
  seen: np.ndarray,
) -> tuple[int, tuple[str, ...]]:
  """Where the trigger leads, and how that is known."""
  if given is not None:
    text = str(given)
    if text in named:
      return named.index(text), ()
    if text.isdecimal() and int(text) < len(named):
      return int(text), ()
    raise errors.unknown_name('--target', text, named)
  if len(found) == 1 and found[0] in named:
    return named.index(found[0]), (
      f"The trigger leads to class '{found[0]}', after the folder's name.",
    )
  counts = np.bincount(seen, minlength=len(named))
  target, share = int(counts.argmax()), counts.max() / counts.sum()
  errors.check(
    share >= 0.5,
    f'the bad samples are sent to many classes, most often {share:.0%} to '
    f"'{named[target]}': where does the trigger lead? give --target",
  )
  return target, (
    f"The trigger leads to class '{named[target]}', where the network sends "
    f'{share:.0%} of the bad samples.',
  )


# In steps of 255: how much a trigger's pixel may vary (JPEG does that), and how
# far ordinary pictures must be from it on average.
_MAX_STD, _MIN_DISTANCE = 10.0, 20.0
_MAX_AREA = 0.25


def locate_trigger(
  bad: UInt8[np.ndarray, 'n h w c'], ordinary: UInt8[np.ndarray, 'm h w c']
) -> Trigger | None:
  """The pixels that are the same in all bad samples and not in other pictures.

  Finds what is painted at one place with one look (BadNets), not what is
  blended into the picture or moves.

  Args:
    bad: samples with the trigger.
    ordinary: pictures without it.

  Returns:
    The trigger, a pattern of the bad samples' medians; None where no pixel
    qualifies, or more than a quarter do.
  """
  steady = bad.std(axis=0, dtype=np.float64).max(-1) <= _MAX_STD
  look = np.median(bad, axis=0)
  apart = np.abs(ordinary - look).mean(axis=0).max(-1) >= _MIN_DISTANCE
  mask = steady & apart
  if not mask.any() or mask.mean() > _MAX_AREA:
    return None
  return Trigger(jnp.asarray(mask), jnp.asarray(look, jnp.float32))


# The share of ordinary pictures that a located trigger must lead astray.
_MIN_HIT_RATE = 0.5


class RepairCase(NamedTuple):
  """A network and its bad samples.

  Attributes:
    network: as shipped.
    bad: the bad samples with the labels that the folder gives them; for poison
      all are of the target class.
    test: ordinary pictures with true labels, or None.
    target: of the trigger; None for label noise.
    ordinary: unlabelled pictures without the trigger, or None.
    trigger: as located with their help, or None.
    notes: what was inferred, in words.
  """

  network: ShippedNetwork
  bad: Batch
  test: Batch | None
  target: int | None
  ordinary: jax.Array | None
  trigger: Trigger | None
  notes: tuple[str, ...]


def read_case(request: RepairRequest) -> RepairCase:
  """Reads everything that a repair needs.

  Raises:
    UserError: what is missing, malformed or unknown, a mistake a line.
  """
  said = {
    'mean': request.mean,
    'std': request.std,
    'image_size': request.image_size,
    'class_names': request.classes,
    'target': request.target,
  }
  network = shipped.load(request.weights, request.model, request.proxy, said)
  bad, target, why = _read_bad_samples(request, network)
  test = None
  if request.test is not None:
    test = shipped.read_labelled(
      request.test, bad.image, network.class_names, network.reader
    )
  notes = (*network.notes, *why)
  found = RepairCase(network, bad, test, target, None, None, notes)
  return _add_trigger(request, found) if target is not None else found


def _read_bad_samples(
  request: RepairRequest, network: ShippedNetwork
) -> tuple[Batch, int | None, tuple[str, ...]]:
  """The bad samples with their labels, the target, and how it is known."""
  pictures, named = network.pictures, network.class_names
  image = jnp.asarray(pictures.image)
  if request.kind == 'label_noise':
    label = shipped.label_pictures(request.proxy, pictures, named)
    return Batch(image, jnp.asarray(label)), None, ()
  none = jnp.zeros(len(image), jnp.int32)
  seen = metrics.predict(
    network.model, network.inputs, network.variables, Batch(image, none), 256
  )
  target, why = choose_target(network.target, named, pictures.names, seen)
  return Batch(image, jnp.full(len(image), target, jnp.int32)), target, why


def _add_trigger(request: RepairRequest, found: RepairCase) -> RepairCase:
  """The trigger, if ordinary pictures show which pixels it changes."""
  if request.ordinary is None:
    return found
  network = found.network
  pictures = shipped.read_same_shape(
    request.ordinary, found.bad.image, network.reader
  ).image
  trigger = locate_trigger(np.asarray(found.bad.image), pictures)
  batch = Batch(
    jnp.asarray(pictures),
    jnp.zeros(len(pictures), jnp.int32),
    jnp.ones(len(pictures), bool),
  )
  hit = 0.0
  if trigger is not None:
    step = input_step.make(network.mean, network.std, trigger=trigger)
    seen = metrics.predict(network.model, step, network.variables, batch, 256)
    hit = float(np.mean(seen == found.target))
  if trigger is None or hit < _MIN_HIT_RATE:
    note = (
      'No trigger was located: no pixels are alike in all bad samples, differ '
      'from ordinary pictures and lead to the target class.'
    )
    return found._replace(notes=(*found.notes, note))
  note = (
    f'The trigger was located: {int(trigger.mask.sum())} pixels, which send '
    f'{hit:.0%} of the ordinary pictures to the target class.'
  )
  return found._replace(
    ordinary=batch.image, trigger=trigger, notes=(*found.notes, note)
  )
