"""What is to be repaired: a shipped network and its bad samples."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmu_jax.commands.repair.request import Request
from cmu_jax.commands.repair.target import target_of
from cmu_jax.commands.repair.trigger import locate
from cmu_jax.core.types import Batch, Trigger
from cmu_jax.data import inputs
from cmu_jax.networks import shipped
from cmu_jax.networks.shipped import Shipped
from cmu_jax.training import metrics

# The share of ordinary pictures that a located trigger must lead astray.
_WORKS = 0.5


class Subject(NamedTuple):
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

  network: Shipped
  bad: Batch
  test: Batch | None
  target: int | None
  ordinary: jax.Array | None
  trigger: Trigger | None
  notes: tuple[str, ...]


def subject(request: Request) -> Subject:
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
  bad, target, why = _bad(request, network)
  test = None
  if request.test is not None:
    test = shipped.labelled(
      request.test, bad.image, network.class_names, network.read
    )
  notes = (*network.notes, *why)
  found = Subject(network, bad, test, target, None, None, notes)
  return _with_trigger(request, found) if target is not None else found


def _bad(
  request: Request, network: Shipped
) -> tuple[Batch, int | None, tuple[str, ...]]:
  """The bad samples with their labels, the target, and how it is known."""
  pictures, named = network.pictures, network.class_names
  image = jnp.asarray(pictures.image)
  if request.kind == 'label_noise':
    label = shipped.labels(request.proxy, pictures, named)
    return Batch(image, jnp.asarray(label)), None, ()
  none = jnp.zeros(len(image), jnp.int32)
  seen = metrics.predict(
    network.model, network.inputs, network.variables, Batch(image, none), 256
  )
  target, why = target_of(network.target, named, pictures.names, seen)
  return Batch(image, jnp.full(len(image), target, jnp.int32)), target, why


def _with_trigger(request: Request, found: Subject) -> Subject:
  """The trigger, if ordinary pictures show which pixels it changes."""
  if request.ordinary is None:
    return found
  network = found.network
  pictures = shipped.sized(
    request.ordinary, found.bad.image, network.read
  ).image
  trigger = locate(np.asarray(found.bad.image), pictures)
  batch = Batch(
    jnp.asarray(pictures),
    jnp.zeros(len(pictures), jnp.int32),
    jnp.ones(len(pictures), bool),
  )
  hit = 0.0
  if trigger is not None:
    step = inputs.make(network.mean, network.std, trigger=trigger)
    seen = metrics.predict(network.model, step, network.variables, batch, 256)
    hit = float(np.mean(seen == found.target))
  if trigger is None or hit < _WORKS:
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
