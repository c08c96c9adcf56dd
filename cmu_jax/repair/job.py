"""One repair, from the request to the report."""

import hashlib
import json
import pathlib
from typing import Any

import jax
import numpy as np

from cmu_jax import (
  checkpoint,
  files,
  judge,
  metrics,
  optimizers,
  provenance,
  proxy,
  rng,
  safe,
  schedules,
  select,
  train,
  tree,
  weights,
  workdir,
)
from cmu_jax.methods import cuts, cuts_safe
from cmu_jax.repair import page
from cmu_jax.repair.request import Request
from cmu_jax.repair.subject import Subject, subject
from cmu_jax.types import Batch, Info, Proxy, Variables

SCHEMA = 1
_FOLDS = 2
_RATES = {'label_noise': 5e-4, 'poison': 1e-4}


def run(request: Request) -> Info:
  """Repairs a network and writes weights, results, figure and report.

  Continues where an earlier call with the same request was stopped.

  Raises:
    UserError: bad settings, weights or pictures; nothing is written then.
  """
  asked = subject(request)
  settings = _settings(request, asked)
  out = pathlib.Path(request.out).expanduser()
  with workdir.opened(out, settings, '--out'):
    return _repaired(request, asked, settings, out)


def _settings(request: Request, asked: Subject) -> Info:
  """The request with what was inferred, and what identifies its inputs."""
  return {
    **request._asdict(),
    'learning_rate': request.learning_rate or _RATES[request.kind],
    'classes': asked.class_names,
    'target': asked.target,
    'image_size': asked.bad.image.shape[1:3],
    'weights_sha256': _digest(*asked.stored.arrays.values()),
    'samples_sha256': _digest(asked.bad.image, asked.bad.label),
  }


def _digest(*arrays: Any) -> str:
  total = hashlib.sha256()
  for array in arrays:
    total.update(np.ascontiguousarray(array).tobytes())
  return total.hexdigest()


def _repaired(
  request: Request, asked: Subject, settings: Info, out: pathlib.Path
) -> Info:
  key = rng.named(request.seed, 'repair')
  samples = _proxy(request, asked, key)
  tuning = {
    'optimizer': optimizers.adamw(
      schedules.constant(settings['learning_rate'])
    ),
    'steps': request.steps,
    'batch_size': request.batch_size,
  }
  tau, _ = cuts.direction(
    rng.named(key, 'tune'),
    asked.model,
    asked.variables,
    samples,
    inputs=asked.inputs,
    checkpoint=_saving(out / 'checkpoints' / 'samples', settings),
    **tuning,
  )
  choice, curve = cuts.select_alpha(
    asked.model,
    asked.variables,
    tau,
    samples,
    inputs=asked.inputs,
    selection=_selection(asked),
  )
  safe_record: Info | None = None
  if request.rule == 'safe' and request.kind == 'label_noise':
    saving = _saving(out / 'checkpoints' / 'folds', settings)
    found = _safe(
      rng.named(key, 'safe'), request, asked, samples, saving, tuning
    )
    choice, safe_record = found.choice, found.record
  after = Variables(
    tree.edit(asked.variables.params, tau, choice.alpha),
    asked.variables.batch_stats,
  )
  results = {
    'schema': SCHEMA,
    'finished': True,
    'kind': request.kind,
    'provenance': provenance.provenance(settings),
    'settings': settings,
    'notes': list(asked.notes),
    'class_names': list(asked.class_names),
    'samples': int(asked.bad.label.shape[0]),
    **_chosen(choice, curve),
    'safe': safe_record,
    'measured': {
      'before': _measured(asked, asked.variables),
      'after': _measured(asked, after),
    },
  }
  _write(asked, after, results, out, pathlib.Path(request.weights))
  return results


def _saving(folder: pathlib.Path, settings: Info) -> train.Checkpoint:
  """Checkpoints of a fine-tuning, of these settings alone."""
  text = json.dumps(settings, sort_keys=True, default=list)
  fingerprint = hashlib.sha256(text.encode()).hexdigest()
  return train.Checkpoint(
    lambda like: checkpoint.restore(folder, like, fingerprint),
    lambda state, step: checkpoint.save(folder, step, state, fingerprint),
  )


def _safe(
  key: jax.Array,
  request: Request,
  asked: Subject,
  samples: Proxy,
  saving: train.Checkpoint,
  tuning: Info,
) -> judge.Safe:
  """The choice on samples that its vector did not see."""
  count, least = samples.image.shape[0], 2 * _FOLDS * len(asked.class_names)
  if count < least:
    return judge.abstain(
      f'{count} bad samples are too few to judge by: {least} are needed'
    )
  folds = safe.split(rng.named(key, 'folds'), samples, _FOLDS)
  return cuts_safe.choose(
    key,
    asked.model,
    asked.variables,
    folds,
    safe.given(samples, folds.held),
    inputs=asked.inputs,
    selection=_selection(asked),
    symmetric=request.labels == 'true',
    checkpoint=saving,
    **tuning,
  )[0]


def _selection(asked: Subject) -> cuts.Selection:
  if asked.target is None:
    return cuts.Selection(kind='label_noise')
  return cuts.Selection(kind='poison', target=asked.target)


def _proxy(request: Request, asked: Subject, key: jax.Array) -> Proxy:
  """The bad samples as CUTS takes them: as they are, or made wrong anew."""
  if request.labels == 'true' and request.kind == 'label_noise':
    return proxy.make_proxy(
      rng.named(key, 'proxy'),
      'symmetric',
      asked.bad,
      2,
      len(asked.class_names),
    )
  every = np.arange(asked.bad.label.shape[0], dtype=np.int32)[None]
  return Proxy(
    asked.bad.image, jax.numpy.asarray(every), asked.bad.label[None, :]
  )


def _chosen(choice: select.Choice, curve: dict[str, np.ndarray]) -> Info:
  """The choice; alpha 0 is the choice to leave the model as it is."""
  finite = {
    name: [v if np.isfinite(v) else None for v in values.tolist()]
    for name, values in curve.items()
  }
  repaired = choice.selected and choice.alpha > 0
  return {'alpha': choice.alpha, 'repaired': repaired, 'curve': finite}


def _measured(asked: Subject, variables: Variables) -> Info:
  """What a network makes of the bad samples, and of the test pictures."""

  def seen(batch: Batch) -> np.ndarray:
    return metrics.predict(asked.model, asked.inputs, variables, batch, 256)

  classes = len(asked.class_names)
  bad = seen(asked.bad)
  found: Info = {
    'bad_label_rate': float(np.mean(bad == np.asarray(asked.bad.label))),
    'predicted': np.bincount(bad, minlength=classes).tolist(),
    'test_accuracy': None,
    'class_accuracy': None,
  }
  if asked.test is not None:
    counts = metrics.confusion(
      np.asarray(asked.test.label), seen(asked.test), classes
    )
    found['test_accuracy'] = metrics.accuracy(counts)
    found['class_accuracy'] = metrics.class_accuracy(counts)
  return found


def _write(
  asked: Subject,
  after: Variables,
  results: Info,
  out: pathlib.Path,
  source: pathlib.Path,
) -> None:
  """Repaired weights, side file, results and report."""
  arrays = weights.put_back(after, asked.stored.arrays, asked.layout)
  name = f'repaired{asked.stored.suffix}'
  weights.write(out / name, asked.stored._replace(arrays=arrays))
  results['weights'] = name
  side = weights.side_file(source)
  if side:
    files.write_json(out / f'{name}.json', side)
  files.write_json(out / 'results.json', {**results, 'finished': False})
  page.build(results, out)
  files.write_json(out / 'results.json', results)
