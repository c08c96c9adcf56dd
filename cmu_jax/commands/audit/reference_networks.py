"""Reference networks of an audit, trained with the recipe of the request."""

import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool

from cmu_jax import audits
from cmu_jax.audits import shadow, signals
from cmu_jax.commands import frame, intake, readings
from cmu_jax.commands.audit.npz_points import AuditPoints
from cmu_jax.commands.requests import AuditRequest
from cmu_jax.core import errors, provenance, rng
from cmu_jax.core.types import Batch, Info
from cmu_jax.data import input_step
from cmu_jax.data.sources import common
from cmu_jax.networks import shipped
from cmu_jax.networks.shipped import ShippedNetwork
from cmu_jax.training import metrics, optimizers, train


class AuditCase(NamedTuple):
  """A network, its training pictures, and pictures of the same kind.

  Attributes:
    network: as shipped.
    pool: members, non-members and further pictures, in this order.
    member: marks the members.
    further: marks pictures that are neither: references are trained on them
      too, and RMIA compares with them.
  """

  network: ShippedNetwork
  pool: Batch
  member: Bool[np.ndarray, 'n']
  further: Bool[np.ndarray, 'n']


def read_case(request: AuditRequest) -> AuditCase:
  """Reads weights and pictures.

  Raises:
    UserError: files that are missing, malformed or unknown.
  """
  assert request.members and request.nonmembers
  network = frame.load_network(
    request, request.members, ('members', 'nonmembers', 'data')
  )
  image = jnp.asarray(network.pictures.image)
  sets: dict[str, Batch] = {}
  originals: dict[str, intake.PictureSet | None] = {}
  for flag in ('--members', '--nonmembers', '--data'):
    root = getattr(request, flag.removeprefix('--'))
    if root is not None:
      batch = shipped.read_labelled(
        root, image, network.class_names, network.reader
      )
      originals[flag] = intake.PictureSet(root, batch.image)
      sets[flag] = intake.drop_repeats(flag, batch)
  _check_disjoint(request, sets['--members'], sets['--nonmembers'])
  intake.warn_of_near_copies(originals)
  # Labels of further pictures train references, and compare with nothing.
  further = sets.pop('--data', None)
  answers = intake.check_classes(network, sets)
  further = intake.drop_copies('--data', further, sets)
  input_step.check_pad('--pad', request.pad, image.shape)
  batches = [*sets.values(), *([] if further is None else [further])]
  pool = Batch(
    jnp.concatenate([batch.image for batch in batches]),
    jnp.concatenate([batch.label for batch in batches]),
  )
  # Members, non-members and further pictures by position.
  sizes = [batch.label.shape[0] for batch in batches]
  source = np.repeat(np.arange(len(batches)), sizes)
  # Nothing can be told from a network that does not know its pictures.
  readings.check_labelled(
    network,
    batches[0],
    f'--members={request.members}',
    predicted=answers.get('--members'),
  )
  return AuditCase(network, pool, source == 0, source == 2)


def _check_disjoint(
  request: AuditRequest, members: Batch, others: Batch
) -> None:
  """Refuses a picture that is a member and a non-member."""
  # The user alone knows on which side a shared picture belongs.
  digests = (
    set(common.picture_digests(np.asarray(batch.image)))
    for batch in (members, others)
  )
  shared = len(set.intersection(*digests))
  errors.check(
    not shared,
    f'{shared} pictures are in --members={request.members} and in '
    f'--nonmembers={request.nonmembers}; remove them from one of the two',
  )


def case_settings(case: AuditCase) -> Info:
  """Settings of an audit that are inferred, and digests of its inputs."""
  return {
    **frame.network_settings(case.network, case.pool.image),
    'pictures_sha256': provenance.digest(case.pool.image, case.pool.label),
  }


def reference_training(
  request: AuditRequest, network: ShippedNetwork, size: int
) -> shadow.ShadowTraining:
  """The recipe of the references: SGD, its rate falling to 0 along a cosine.

  Args:
    request: with epochs, batch size, rate, decay and augmentation.
    network: the audited network, for its normalisation.
    size: training points of each reference.
  """
  count = min(request.batch_size, size)
  per_epoch = train.steps_per_epoch(size, count)
  steps = request.epochs * per_epoch
  train.check_length(f'--epochs={request.epochs}', steps, count)
  rate: optax.Schedule = optimizers.cosine_schedule(
    request.learning_rate, request.epochs, 0.0, per_epoch
  )
  # Augmentation as in the training of the network, else references overfit
  # differently.
  step = input_step.make(
    network.mean, network.std, pad=request.pad, flip=request.flip
  )
  return shadow.ShadowTraining(
    step,
    optimizers.sgd(rate, request.weight_decay),
    steps,
    request.batch_size,
  )


def reference_signals(request: AuditRequest) -> dict[str, signals.Signal]:
  """The signals of RMIA and LiRA, and hits: all that references leave."""
  order = request.taylor_order

  def taylor(logits: jax.Array, label: jax.Array) -> jax.Array:
    return audits.taylor_softmax(logits, label, order=order)

  def hit(logits: jax.Array, label: jax.Array) -> jax.Array:
    return jnp.argmax(logits, axis=-1) == label

  return {
    'taylor_softmax': taylor,
    'logit_confidence': audits.logit_confidence,
    'hit': hit,
  }


def _duration_text(seconds: float) -> str:
  if seconds < 90:
    return f'{seconds:.0f} s'
  if seconds < 5400:
    return f'{seconds / 60:.0f} min'
  return f'{seconds / 3600:.1f} h'


def train_references(
  request: AuditRequest, case: AuditCase, out: pathlib.Path
) -> AuditPoints:
  """Trains the references and collects the signals of all networks.

  Prints an estimate of the duration before. Finished groups of references lie
  in `out`, so that the same command continues.

  Args:
    request: checked.
    case: see `read_case`.
    out: the folder of results.
  """
  key = rng.fold_in(request.seed, 'audit references')
  size = case.pool.label.shape[0]
  # Half of the pool: as many references with each picture as without it.
  inside = shadow.assign_halves(key, request.refs, size)
  fit = reference_training(request, case.network, size - size // 2)
  plan = shadow.Plan(
    memory_bytes=int(request.memory * 2**30), folder=out, title='references'
  )
  arguments = (key, case.network.model, case.pool, inside, fit)
  # Trainings take minutes to hours: the user decides before they begin.
  seconds = shadow.predict_seconds(*arguments, plan)
  print(
    f'{request.refs} references of {inside.sum(1).max()} pictures and '
    f'{fit.steps} steps: about {_duration_text(seconds)}',
    flush=True,
  )
  # The optimiser is a closure: its settings must enter the address as text.
  settings = repr((request, case.network.mean, case.network.std))
  # The class had this name when the first references were trained: its own
  # name would make an unfinished audit train them again.
  address = settings.replace(AuditRequest.__name__, 'Request', 1)
  shadows = shadow.train(
    *arguments,
    signals=reference_signals(request),
    plan=plan._replace(address=address),
  )
  logits = metrics.logits(
    case.network.classifier,
    case.network.variables,
    case.pool,
  )
  return AuditPoints(
    logits=logits,
    labels=np.asarray(case.pool.label),
    member=case.member,
    inside=inside,
    # RMIA compares with pictures that are not under audit, if there are any.
    population=case.further if case.further.any() else None,
    reference_signals=shadows.statistics,
    audited=~case.further,
  )
