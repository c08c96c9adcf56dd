"""How reference networks are trained: as the audited one was, as it is said.

The points of an audit of a network: it is run, references are trained.
"""

import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool

from cmu_jax import audits
from cmu_jax.audits import shadow, signals
from cmu_jax.commands.audit.npz_points import AuditPoints
from cmu_jax.commands.audit.request import AuditRequest
from cmu_jax.core import errors, provenance, rng
from cmu_jax.core.types import Batch, Info
from cmu_jax.data import input_step
from cmu_jax.networks import shipped
from cmu_jax.networks.shipped import ShippedNetwork
from cmu_jax.training import metrics, optimizers, train


def reference_training(
  request: AuditRequest, network: ShippedNetwork, size: int
) -> shadow.ShadowTraining:
  """SGD with momentum, its rate falling to 0 along a cosine.

  Args:
    request: its epochs, batch size, rate, decay and augmentation.
    network: the audited one, for its normalisation.
    size: points that each reference is trained on.
  """
  per_epoch = train.steps_per_epoch(size, request.batch_size)
  rate: optax.Schedule = optimizers.cosine_schedule(
    request.learning_rate, request.epochs, 0.0, per_epoch
  )
  step = input_step.make(
    network.mean, network.std, pad=request.pad, flip=request.flip
  )
  return shadow.ShadowTraining(
    step,
    optimizers.sgd(rate, request.weight_decay),
    request.epochs * per_epoch,
    request.batch_size,
  )


class AuditCase(NamedTuple):
  """A network, and pictures of which it may have been trained on some.

  Attributes:
    network: as shipped.
    pool: members, non-members and further pictures, in this order.
    member: which pictures are members.
    further: which are neither: references are trained on them too, and RMIA
      compares with them.
  """

  network: ShippedNetwork
  pool: Batch
  member: Bool[np.ndarray, 'n']
  further: Bool[np.ndarray, 'n']


def read_case(request: AuditRequest) -> AuditCase:
  """Reads weights and pictures.

  Raises:
    UserError: what is missing, malformed or unknown.
  """
  said = {
    'mean': request.mean,
    'std': request.std,
    'image_size': request.image_size,
    'class_names': request.classes,
  }
  assert request.weights and request.model and request.members
  network = shipped.load(request.weights, request.model, request.members, said)
  image = jnp.asarray(network.pictures.image)
  roots = (request.members, request.nonmembers, request.data)
  parts = [
    shipped.read_labelled(root, image, network.class_names)
    for root in roots
    if root is not None
  ]
  pool = Batch(
    jnp.concatenate([part.image for part in parts]),
    jnp.concatenate([part.label for part in parts]),
  )
  kind = np.repeat(np.arange(len(parts)), [p.label.shape[0] for p in parts])
  _check_disjoint(request, np.asarray(pool.image), kind)
  return AuditCase(network, pool, kind == 0, kind == 2)


def _check_disjoint(
  request: AuditRequest, image: np.ndarray, kind: np.ndarray
) -> None:
  """No picture may be a member and not."""
  flat = image.reshape(len(image), -1)
  _, group = np.unique(flat, axis=0, return_inverse=True)
  both = np.intersect1d(group[kind == 0], group[kind == 1])
  errors.check(
    not both.size,
    f'{both.size} pictures are in --members={request.members} and in '
    f'--nonmembers={request.nonmembers}; leave them out of one',
  )


def case_settings(request: AuditRequest, asked: AuditCase) -> Info:
  """The request with what was inferred, and what identifies its inputs."""
  return {
    **request._asdict(),
    'classes': asked.network.class_names,
    'image_size': asked.pool.image.shape[1:3],
    'weights_sha256': provenance.digest(*asked.network.stored.arrays.values()),
    'pictures_sha256': provenance.digest(asked.pool.image, asked.pool.label),
  }


def _duration_text(seconds: float) -> str:
  if seconds < 90:
    return f'{seconds:.0f} s'
  if seconds < 5400:
    return f'{seconds / 60:.0f} min'
  return f'{seconds / 3600:.1f} h'


def train_references(
  request: AuditRequest, asked: AuditCase, out: pathlib.Path
) -> AuditPoints:
  """Trains the references and collects the signals of all networks.

  Says beforehand how long it will take; groups of references that are done lie
  in `out`, so that the same command continues.

  Args:
    request: checked.
    asked: see `subject`.
    out: the folder of results.
  """
  key = rng.fold_in(request.seed, 'audit references')
  size = asked.pool.label.shape[0]
  inside = shadow.assign_halves(key, request.refs, size)
  fit = reference_training(request, asked.network, size - size // 2)
  plan = shadow.Plan(
    memory_bytes=int(request.memory * 2**30), folder=out, title='references'
  )
  told = (key, asked.network.model, asked.pool, inside, fit)
  seconds = shadow.predict_seconds(*told, plan)
  print(
    f'{request.refs} references of {inside.sum(1).max()} pictures and '
    f'{fit.steps} steps: about {_duration_text(seconds)}',
    flush=True,
  )
  signals = reference_signals(request)
  # Settings of the optimiser are not seen in it.
  address = repr((request, asked.network.mean, asked.network.std))
  found = shadow.train(
    *told, signals=signals, plan=plan._replace(address=address)
  )
  logits = metrics.logits(
    asked.network.model,
    asked.network.inputs,
    asked.network.variables,
    asked.pool,
  )
  return AuditPoints(
    logits=logits,
    labels=np.asarray(asked.pool.label),
    member=asked.member,
    inside=inside,
    population=asked.further if asked.further.any() else None,
    reference_signals=found.statistics,
    audited=~asked.further,
  )


def reference_signals(request: AuditRequest) -> dict[str, signals.Signal]:
  """What references leave behind: the signals of RMIA and LiRA."""
  order = request.taylor_order

  def taylor(logits: jax.Array, label: jax.Array) -> jax.Array:
    return audits.taylor_softmax(logits, label, order=order)

  return {'taylor_softmax': taylor, 'logit_confidence': audits.logit_confidence}
