"""What a network still knows of pictures: accuracy, and a membership attack.

One unlearning, from the request to the report.
"""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from cmu_jax import audits
from cmu_jax.commands import workdir
from cmu_jax.commands.unlearn import catalogue, page
from cmu_jax.commands.unlearn.request import UnlearnRequest
from cmu_jax.core import config as config_lib
from cmu_jax.core import errors, files, provenance, rng, store
from cmu_jax.core.types import Batch, Info, MethodInputs, Samples, Variables
from cmu_jax.networks import shipped
from cmu_jax.networks.shipped import ShippedNetwork
from cmu_jax.training import descent, metrics

# Of the bootstrap: it belongs to the measurement, not to the request.
_BOOTSTRAP_SEED = 0


def measure_sets(
  seen: Mapping[
    str, tuple[Float[np.ndarray, 'n k'], Int[np.ndarray, 'n']] | None
  ],
  classes: int,
) -> dict[str, Any]:
  """Accuracy of each set, by class on the test set, and who can tell them.

  Args:
    seen: logits and labels of 'forget', 'retain' and 'test'; None where
      there are no such pictures.
    classes: k.

  Returns:
    'accuracy' and 'confidence' (mean probability of the label) by set,
    'class_accuracy' of the test set, and 'membership': how well the confidence
    in the label tells forgotten pictures from unseen ones (None without test
    pictures), with its interval.
  """
  return {
    'accuracy': {name: _accuracy(found) for name, found in seen.items()},
    'confidence': {name: _confidence(found) for name, found in seen.items()},
    'class_accuracy': _class_accuracy(seen['test'], classes),
    'membership': _attack_membership(seen['forget'], seen['test']),
  }


def _accuracy(found: Any) -> float | None:
  if found is None:
    return None
  logits, label = found
  return float(np.mean(logits.argmax(-1) == label))


def _confidence(found: Any) -> float | None:
  if found is None:
    return None
  return float(np.mean(audits.softmax(*map(jnp.asarray, found))))


def _class_accuracy(found: Any, classes: int) -> list[float | None] | None:
  if found is None:
    return None
  logits, label = found
  counts = metrics.confusion(label, logits.argmax(-1), classes)
  return metrics.class_accuracy(counts)


def _attack_membership(forget: Any, test: Any) -> dict[str, Any] | None:
  """The attack by confidence on forgotten against unseen pictures."""
  if test is None:
    return None
  scores = [
    np.asarray(audits.logit_confidence(*map(jnp.asarray, found)))
    for found in (forget, test)
  ]
  found = audits.evaluate(rng.fold_in(_BOOTSTRAP_SEED, 'membership'), *scores)
  return {
    'auc': found.auroc.value,
    'low': found.auroc.low,
    'high': found.auroc.high,
    'verdict': found.verdict,
    'says': found.says,
  }


SCHEMA = 1
# At most so much of a training is lost.
_SAVE_SECONDS = 20.0


class UnlearnCase(NamedTuple):
  """A network, what it shall forget, and what it shall keep.

  Attributes:
    network: as shipped.
    forget: training pictures with the labels that they were trained with.
    retain: likewise, or None.
    test: pictures that were not trained on, or None.
  """

  network: ShippedNetwork
  forget: Batch
  retain: Batch | None
  test: Batch | None


def run(request: UnlearnRequest) -> Info:
  """Unlearns and writes weights, results, figure and report.

  Continues where an earlier call with the same request was stopped.

  Raises:
    UserError: bad settings, weights or pictures; nothing is written then.
  """
  asked = _read_case(request)
  settings = _settings(request, asked)
  out = pathlib.Path(request.out).expanduser()
  with workdir.open_run(out, settings, '--out'):
    return _unlearn(request, asked, settings, out)


def _read_case(request: UnlearnRequest) -> UnlearnCase:
  said = {
    'mean': request.mean,
    'std': request.std,
    'image_size': request.image_size,
    'class_names': request.classes,
  }
  network = shipped.load(request.weights, request.model, request.forget, said)
  image = jnp.asarray(network.pictures.image)
  label = shipped.label_pictures(
    request.forget, network.pictures, network.class_names
  )
  forget = Batch(image, jnp.asarray(label))
  errors.check(
    request.method != 'trw' or len(np.unique(label)) == 1,
    f'--method=trw forgets one class, but {request.forget} has pictures of '
    f'{len(np.unique(label))}; keep one class folder, or use --method=amun',
  )
  retain, test = (
    None
    if root is None
    else shipped.read_labelled(root, image, network.class_names, network.reader)
    for root in (request.retain, request.test)
  )
  return UnlearnCase(network, forget, retain, test)


def _settings(request: UnlearnRequest, asked: UnlearnCase) -> Info:
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


def _method_inputs(asked: UnlearnCase) -> MethodInputs:
  forget = descent.whole_batch(asked.forget)
  known = jnp.ones(asked.forget.label.shape, bool)
  retain = None if asked.retain is None else descent.whole_batch(asked.retain)
  return MethodInputs(retain, Samples(forget.batch, known, forget.valid))


def _unlearn(
  request: UnlearnRequest, asked: UnlearnCase, settings: Info, out: pathlib.Path
) -> Info:
  network, given = asked.network, _method_inputs(asked)
  key = rng.fold_in(request.seed, 'unlearn')
  method = catalogue.make_method(request, network.model, network.inputs, given)
  prepared = method.prepare(
    rng.fold_in(key, 'prepare'), network.variables, given
  )
  name = config_lib.fingerprint(settings)
  after, info = method.solve(
    rng.fold_in(key, 'solve'),
    network.variables,
    given,
    prepared,
    method.grid[0],
    **_checkpoint_option(request, out, name),
  )
  results = {
    'schema': SCHEMA,
    'finished': True,
    'method': request.method,
    'provenance': provenance.describe_run(settings),
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
      'before': _measure(asked, network.variables),
      'after': _measure(asked, after),
    },
  }
  _write(network, after, results, out)
  store.remove_checkpoint(out, name)
  return results


def _checkpoint_option(
  request: UnlearnRequest, out: pathlib.Path, name: str
) -> Info:
  """Where a method that trains saves its state; SSD is done at once."""
  if request.method == 'ssd':
    return {}
  return {'checkpoint': store.npz_checkpoint(out, name, _SAVE_SECONDS)}


def _measure(asked: UnlearnCase, variables: Variables) -> Info:
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
  return measure_sets(logits, len(network.class_names))


def _write(
  network: ShippedNetwork, after: Variables, results: Info, out: pathlib.Path
) -> None:
  """New weights, side file, results and report."""
  results['weights'] = shipped.write(network, after, out, 'unlearned')
  files.write_json(out / 'results.json', {**results, 'finished': False})
  page.write_page(results, out)
  files.write_json(out / 'results.json', results)
