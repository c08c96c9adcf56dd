"""One unlearning, from the request to the report."""

import pathlib
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from cmu_jax.commands import workdir
from cmu_jax.commands.unlearn import catalogue, evidence, page
from cmu_jax.commands.unlearn.request import Request
from cmu_jax.core import config as config_lib
from cmu_jax.core import errors, files, provenance, rng, store
from cmu_jax.core.types import Batch, Given, Info, Samples, Variables
from cmu_jax.networks import shipped
from cmu_jax.networks.shipped import Shipped
from cmu_jax.training import descent, metrics

SCHEMA = 1
# At most so much of a training is lost.
_SECONDS = 20.0


class Subject(NamedTuple):
  """A network, what it shall forget, and what it shall keep.

  Attributes:
    network: as shipped.
    forget: training pictures with the labels that they were trained with.
    retain: likewise, or None.
    test: pictures that were not trained on, or None.
  """

  network: Shipped
  forget: Batch
  retain: Batch | None
  test: Batch | None


def run(request: Request) -> Info:
  """Unlearns and writes weights, results, figure and report.

  Continues where an earlier call with the same request was stopped.

  Raises:
    UserError: bad settings, weights or pictures; nothing is written then.
  """
  asked = _subject(request)
  settings = _settings(request, asked)
  out = pathlib.Path(request.out).expanduser()
  with workdir.opened(out, settings, '--out'):
    return _unlearned(request, asked, settings, out)


def _subject(request: Request) -> Subject:
  said = {
    'mean': request.mean,
    'std': request.std,
    'image_size': request.image_size,
    'class_names': request.classes,
  }
  network = shipped.load(request.weights, request.model, request.forget, said)
  image = jnp.asarray(network.pictures.image)
  label = shipped.labels(request.forget, network.pictures, network.class_names)
  forget = Batch(image, jnp.asarray(label))
  errors.check(
    request.method != 'trw' or len(np.unique(label)) == 1,
    f'--method=trw forgets one class, but {request.forget} has pictures of '
    f'{len(np.unique(label))}; keep one class folder, or use --method=amun',
  )
  retain, test = (
    None
    if root is None
    else shipped.labelled(root, image, network.class_names, network.read)
    for root in (request.retain, request.test)
  )
  return Subject(network, forget, retain, test)


def _settings(request: Request, asked: Subject) -> Info:
  """The request with what was inferred, and what identifies its inputs."""
  digests = {
    f'{name}_sha256': provenance.digest(batch.image, batch.label)
    for name in ('forget', 'retain')
    if (batch := getattr(asked, name)) is not None
  }
  return {
    **request._asdict(),
    'learning_rate': catalogue.learning_rate(request),
    'classes': asked.network.class_names,
    'image_size': asked.forget.image.shape[1:3],
    'weights_sha256': provenance.digest(*asked.network.stored.arrays.values()),
    **digests,
  }


def _given(asked: Subject) -> Given:
  forget = descent.whole(asked.forget)
  known = jnp.ones(asked.forget.label.shape, bool)
  retain = None if asked.retain is None else descent.whole(asked.retain)
  return Given(retain, Samples(forget.batch, known, forget.valid))


def _unlearned(
  request: Request, asked: Subject, settings: Info, out: pathlib.Path
) -> Info:
  network, given = asked.network, _given(asked)
  key = rng.named(request.seed, 'unlearn')
  method = catalogue.method(request, network.model, network.inputs, given)
  prepared = method.prepare(rng.named(key, 'prepare'), network.variables, given)
  name = config_lib.fingerprint(settings)
  after, info = method.solve(
    rng.named(key, 'solve'),
    network.variables,
    given,
    prepared,
    method.grid[0],
    **_continued(request, out, name),
  )
  results = {
    'schema': SCHEMA,
    'finished': True,
    'method': request.method,
    'provenance': provenance.provenance(settings),
    'settings': settings,
    'notes': list(network.notes),
    'class_names': list(network.class_names),
    'pictures': {
      name: None if batch is None else int(batch.label.shape[0])
      for name, batch in asked._asdict().items()
      if name != 'network'
    },
    'hyper': method.grid[0],
    'facts': {
      k: v if isinstance(v, str) else float(v) for k, v in info.items()
    },
    'measured': {
      'before': _measured(asked, network.variables),
      'after': _measured(asked, after),
    },
  }
  _write(network, after, results, out)
  store.drop(out, name)
  return results


def _continued(request: Request, out: pathlib.Path, name: str) -> Info:
  """Where a method that trains saves its state; SSD is done at once."""
  if request.method == 'ssd':
    return {}
  return {'checkpoint': store.saving(out, name, _SECONDS)}


def _measured(asked: Subject, variables: Variables) -> Info:
  """What a network makes of each set of pictures."""
  network = asked.network
  logits = {
    name: None
    if batch is None
    else (
      metrics.logits(network.model, network.inputs, variables, batch, 256),
      np.asarray(batch.label),
    )
    for name, batch in asked._asdict().items()
    if name != 'network'
  }
  return evidence.measured(logits, len(network.class_names))


def _write(
  network: Shipped, after: Variables, results: Info, out: pathlib.Path
) -> None:
  """New weights, side file, results and report."""
  results['weights'] = shipped.write(network, after, out, 'unlearned')
  files.write_json(out / 'results.json', {**results, 'finished': False})
  page.build(results, out)
  files.write_json(out / 'results.json', results)
