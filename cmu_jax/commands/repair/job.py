"""One repair, from the request to the report."""

import pathlib

import numpy as np

from cmu_jax.commands import workdir
from cmu_jax.commands.repair import edit, page
from cmu_jax.commands.repair.request import RepairRequest
from cmu_jax.commands.repair.subject import RepairCase, read_case
from cmu_jax.core import files, provenance, rng
from cmu_jax.core.types import Batch, Info, Variables
from cmu_jax.methods import diagnosis
from cmu_jax.methods.cuts import alpha_rules
from cmu_jax.networks import shipped
from cmu_jax.robustness import attacks, lipschitz
from cmu_jax.training import metrics

SCHEMA = 1
_RATES = {'label_noise': 5e-4, 'poison': 1e-4}


def run(request: RepairRequest) -> Info:
  """Repairs a network and writes weights, results, figure and report.

  Continues where an earlier call with the same request was stopped.

  Raises:
    UserError: bad settings, weights or pictures; nothing is written then.
  """
  asked = read_case(request)
  settings = _settings(request, asked)
  out = pathlib.Path(request.out).expanduser()
  with workdir.open_run(out, settings, '--out'):
    return _repair(request, asked, settings, out)


def _settings(request: RepairRequest, asked: RepairCase) -> Info:
  """The request with what was inferred, and what identifies its inputs."""
  return {
    **request._asdict(),
    'learning_rate': request.learning_rate or _RATES[request.kind],
    'classes': asked.network.class_names,
    'target': asked.target,
    'image_size': asked.bad.image.shape[1:3],
    'weights_sha256': provenance.digest(*asked.network.stored.arrays.values()),
    'samples_sha256': provenance.digest(asked.bad.image, asked.bad.label),
    'ordinary_sha256': (
      None if asked.ordinary is None else provenance.digest(asked.ordinary)
    ),
  }


def _repair(
  request: RepairRequest, asked: RepairCase, settings: Info, out: pathlib.Path
) -> Info:
  done = edit.edit_network(request, asked, settings, out / 'checkpoints')
  results = {
    'schema': SCHEMA,
    'finished': True,
    'kind': request.kind,
    'method': done.method,
    'provenance': provenance.describe_run(settings),
    'settings': settings,
    'notes': list(asked.notes),
    'class_names': list(asked.network.class_names),
    'samples': int(asked.bad.label.shape[0]),
    **_choice_record(done.choice, done.curve),
    'safe': done.evidence,
    'fine_tuning': {'steps': done.steps, 'learnt': done.learnt_share},
    'diagnosis': _diagnose(request, asked),
    'measured': {
      'before': _measure(request, asked, asked.network.variables),
      'after': _measure(request, asked, done.variables),
    },
  }
  _write(asked, done.variables, results, out)
  return results


def _choice_record(
  choice: alpha_rules.AlphaChoice, curve: dict[str, np.ndarray]
) -> Info:
  """The choice; alpha 0 is the choice to leave the model as it is."""
  finite = {name: metrics.json_list(v) for name, v in curve.items()}
  repaired = choice.selected and choice.alpha > 0
  return {'alpha': choice.alpha, 'repaired': repaired, 'curve': finite}


def _diagnose(request: RepairRequest, asked: RepairCase) -> Info | None:
  """Which corruption the bad samples show; None where they have true labels."""
  if request.kind == 'label_noise' and request.labels == 'true':
    return None
  probability = metrics.probabilities(
    asked.network.model,
    asked.network.inputs,
    asked.network.variables,
    asked.bad,
  )
  key = rng.fold_in(request.seed, 'diagnosis')
  label = np.asarray(asked.bad.label)
  return diagnosis.diagnose(key, probability, label).record


def _measure(
  request: RepairRequest, asked: RepairCase, variables: Variables
) -> Info:
  """What a network makes of the bad samples, and of the test pictures."""

  def seen(batch: Batch) -> np.ndarray:
    return metrics.predict(
      asked.network.model, asked.network.inputs, variables, batch, 256
    )

  classes = len(asked.network.class_names)
  bad = seen(asked.bad)
  found: Info = {
    'bad_label_rate': float(np.mean(bad == np.asarray(asked.bad.label))),
    'predicted': np.bincount(bad, minlength=classes).tolist(),
    'test_accuracy': None,
    'class_accuracy': None,
    'lipschitz': _lipschitz_bound(asked, variables)
    if request.lipschitz
    else None,
  }
  if asked.test is not None:
    counts = metrics.confusion(
      np.asarray(asked.test.label), seen(asked.test), classes
    )
    found['test_accuracy'] = metrics.accuracy(counts)
    found['class_accuracy'] = metrics.class_accuracy(counts)
  return found


def _lipschitz_bound(asked: RepairCase, variables: Variables) -> Info:
  """The Lipschitz bound, of pixels from 0 to 1."""
  network = asked.network
  found = lipschitz.bound(
    rng.fold_in(0, 'lipschitz'),
    attacks.logits_of(network.model, network.inputs, variables),
    asked.bad.image.shape[1:],
  )
  return {'value': found.value, 'upper': found.upper, 'why': found.reason}


def _write(
  asked: RepairCase,
  after: Variables,
  results: Info,
  out: pathlib.Path,
) -> None:
  """Repaired weights, side file, results and report."""
  results['weights'] = shipped.write(asked.network, after, out, 'repaired')
  files.write_json(out / 'results.json', {**results, 'finished': False})
  page.write_page(results, out)
  files.write_json(out / 'results.json', results)
