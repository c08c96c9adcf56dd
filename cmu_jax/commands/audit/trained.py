"""The points of an audit of a network: it is run, references are trained."""

import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from cmu_jax import audits
from cmu_jax.audits import shadow, signals
from cmu_jax.commands.audit import recipe
from cmu_jax.commands.audit.points import Points
from cmu_jax.commands.audit.request import Request
from cmu_jax.core import errors, provenance, rng
from cmu_jax.core.types import Batch, Info
from cmu_jax.networks import shipped
from cmu_jax.networks.shipped import Shipped
from cmu_jax.training import metrics


class Subject(NamedTuple):
  """A network, and pictures of which it may have been trained on some.

  Attributes:
    network: as shipped.
    pool: members, non-members and further pictures, in this order.
    member: which pictures are members.
    further: which are neither: references are trained on them too, and RMIA
      compares with them.
  """

  network: Shipped
  pool: Batch
  member: Bool[np.ndarray, 'n']
  further: Bool[np.ndarray, 'n']


def subject(request: Request) -> Subject:
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
    shipped.labelled(root, image, network.class_names)
    for root in roots
    if root is not None
  ]
  pool = Batch(
    jnp.concatenate([part.image for part in parts]),
    jnp.concatenate([part.label for part in parts]),
  )
  kind = np.repeat(np.arange(len(parts)), [p.label.shape[0] for p in parts])
  _distinct(request, np.asarray(pool.image), kind)
  return Subject(network, pool, kind == 0, kind == 2)


def _distinct(request: Request, image: np.ndarray, kind: np.ndarray) -> None:
  """No picture may be a member and not."""
  flat = image.reshape(len(image), -1)
  _, group = np.unique(flat, axis=0, return_inverse=True)
  both = np.intersect1d(group[kind == 0], group[kind == 1])
  errors.check(
    not both.size,
    f'{both.size} pictures are in --members={request.members} and in '
    f'--nonmembers={request.nonmembers}; leave them out of one',
  )


def settings(request: Request, asked: Subject) -> Info:
  """The request with what was inferred, and what identifies its inputs."""
  return {
    **request._asdict(),
    'classes': asked.network.class_names,
    'image_size': asked.pool.image.shape[1:3],
    'weights_sha256': provenance.digest(*asked.network.stored.arrays.values()),
    'pictures_sha256': provenance.digest(asked.pool.image, asked.pool.label),
  }


def _clock(seconds: float) -> str:
  if seconds < 90:
    return f'{seconds:.0f} s'
  if seconds < 5400:
    return f'{seconds / 60:.0f} min'
  return f'{seconds / 3600:.1f} h'


def points(request: Request, asked: Subject, out: pathlib.Path) -> Points:
  """Trains the references and collects the signals of all networks.

  Says beforehand how long it will take; groups of references that are done lie
  in `out`, so that the same command continues.

  Args:
    request: checked.
    asked: see `subject`.
    out: the folder of results.
  """
  key = rng.named(request.seed, 'audit references')
  size = asked.pool.label.shape[0]
  inside = shadow.membership(key, request.refs, size)
  fit = recipe.fit(request, asked.network, size - size // 2)
  plan = shadow.Plan(
    budget=int(request.memory * 2**30), folder=out, title='references'
  )
  told = (key, asked.network.model, asked.pool, inside, fit)
  seconds = shadow.predicted(*told, plan)
  print(
    f'{request.refs} references of {inside.sum(1).max()} pictures and '
    f'{fit.steps} steps: about {_clock(seconds)}',
    flush=True,
  )
  signals = signals_of(request)
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
  return Points(
    logits=logits,
    labels=np.asarray(asked.pool.label),
    member=asked.member,
    inside=inside,
    population=asked.further if asked.further.any() else None,
    known=found.statistics,
    judged=~asked.further,
  )


def signals_of(request: Request) -> dict[str, signals.Signal]:
  """What references leave behind: the signals of RMIA and LiRA."""
  order = request.taylor_order

  def taylor(logits: jax.Array, label: jax.Array) -> jax.Array:
    return audits.taylor_softmax(logits, label, order=order)

  return {'taylor_softmax': taylor, 'logit_confidence': audits.logit_confidence}
