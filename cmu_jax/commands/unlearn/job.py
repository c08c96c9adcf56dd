"""An unlearning from the request to the report."""

import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from cmu_jax import audits
from cmu_jax.commands import finished, frame, intake, readings
from cmu_jax.commands.requests import UNLEARN, UnlearnRequest
from cmu_jax.commands.unlearn import page
from cmu_jax.core import config as config_lib
from cmu_jax.core import errors, files, provenance, rng, store
from cmu_jax.core.types import (
  Batch,
  Info,
  Method,
  MethodInputs,
  Network,
  Samples,
  Training,
  Variables,
)
from cmu_jax.methods import amun, factories
from cmu_jax.networks import shipped
from cmu_jax.networks.shipped import ShippedNetwork
from cmu_jax.training import descent, metrics, optimizers, train

# A kill loses at most so much of a training.
_SAVE_SECONDS = 20.0
# An ascent has no minimum at which to stop, so its steps are smaller.
_RATE, _ASCENT_RATE = 1e-2, 1e-3
# Methods that weigh the loss of the forget set against that of the retain set.
_WEIGHTED = ('random_label', 'salun', 'relabel_second')
# The bootstrap belongs to the measurement: --seed must not change intervals.
_BOOTSTRAP_SEED = 0


class UnlearnCase(NamedTuple):
  """A network, the pictures to forget, and the pictures to keep.

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

  def sets(self) -> dict[str, Batch | None]:
    """The sets of pictures by name."""
    return {'forget': self.forget, 'retain': self.retain, 'test': self.test}


def run(request: UnlearnRequest) -> Info:
  """Unlearns and writes weights, results, figure and report.

  Continues where an earlier call with the same request was stopped.

  Raises:
    UserError: settings, weights or pictures that do not fit; then nothing is
      written.
  """
  case = _read_case(request)

  def solve(settings: Info, out: pathlib.Path) -> tuple[Variables, Info]:
    return _unlearn(request, case, settings, out)

  def measure(variables: Variables) -> Info:
    return {
      'pictures': {
        name: None if batch is None else int(batch.label.shape[0])
        for name, batch in case.sets().items()
      },
      'measured': {
        'before': _measure(case, case.network.variables),
        'after': _measure(case, variables),
      },
    }

  work = finished.Edit(
    UNLEARN, case.network, 'unlearned', solve, measure, page.REPORT
  )
  results = finished.run(request, _settings(request, case), work)
  # Only now: until the report is written, a kill may repeat the whole job.
  address = config_lib.fingerprint(results['settings'])
  store.remove_checkpoint(files.expand(request.out), address)
  return results


def _read_case(request: UnlearnRequest) -> UnlearnCase:
  network = frame.load_network(
    request, request.forget, ('forget', 'retain', 'test')
  )
  image = jnp.asarray(network.pictures.image)
  label = shipped.label_pictures(
    request.forget, network.pictures, network.class_names
  )
  forget = Batch(image, jnp.asarray(label))
  # TRW removes a single class from the answers of the network.
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
  roots = {
    '--forget': (request.forget, forget),
    '--retain': (request.retain, retain),
    '--test': (request.test, test),
  }
  intake.warn_of_near_copies(
    {
      flag: None if batch is None else intake.PictureSet(str(root), batch.image)
      for flag, (root, batch) in roots.items()
    }
  )
  retain = intake.drop_copies('--retain', retain, {'--forget': forget})
  test = intake.drop_copies(
    '--test', test, {'--forget': forget, '--retain': retain}
  )
  case = UnlearnCase(network, forget, retain, test)
  answers = intake.check_classes(
    network, {f'--{name}': batch for name, batch in case.sets().items()}
  )
  # The labels of pictures to forget may be wrong, and the network right.
  for flag, root, batch, sure in (
    ('retain', request.retain, retain, True),
    ('test', request.test, test, True),
    ('forget', request.forget, forget, False),
  ):
    if batch is not None:
      readings.check_labelled(
        network, batch, f'--{flag}={root}', sure, answers.get(f'--{flag}')
      )
  return case


def _settings(request: UnlearnRequest, case: UnlearnCase) -> Info:
  """Inferred settings, and digests of the inputs."""
  digests = {
    f'{name}_sha256': provenance.digest(batch.image, batch.label)
    for name, batch in case.sets().items()
    # Test pictures measure a result; they do not change it.
    if batch is not None and name != 'test'
  }
  return {
    **frame.network_settings(case.network, case.forget.image),
    'learning_rate': learning_rate(request),
    **digests,
  }


def learning_rate(request: UnlearnRequest) -> float:
  """The learning rate of a request, or the default of its method."""
  if request.learning_rate is not None:
    return request.learning_rate
  return _ASCENT_RATE if request.method == 'gradient_ascent' else _RATE


def make_method(
  request: UnlearnRequest, network: Network, data: MethodInputs
) -> Method:
  """The method of a request.

  Args:
    request: name and settings.
    network: the model and its input step.
    data: the pictures; their number is the length of an epoch.
  """
  retain, forget = _count(data.retain), _count(data.forget)
  # Without pictures to keep, an epoch is a pass over those to forget.
  size = min(request.batch_size, retain or forget)
  make = factories.factory(request.method)
  if request.method == 'ssd':
    return make(network, batch_size=min(size, forget))
  optimizer = optimizers.sgd(
    optimizers.constant_schedule(learning_rate(request)), request.weight_decay
  )
  steps = request.epochs * math.ceil((retain or forget) / size)
  train.check_length(f'--epochs={request.epochs}', steps, size)
  return make(
    network,
    Training(optimizer, steps, size),
    **_options(request.method, retain, forget),
  )


def _count(samples: Samples | None) -> int:
  return 0 if samples is None else samples.valid.shape[0]


def _options(name: str, retain: int, forget: int) -> Info:
  """Further options of a method, from the numbers of pictures."""
  if name == 'amun':
    return {'sets': amun.ALL if retain else amun.ALONE}
  if name in ('boundary_shrink', 'trw'):
    return {'retain': bool(retain)}
  # Each picture counts once, as if both sets were a single set.
  return {'weights': (forget / retain,)} if name in _WEIGHTED else {}


def _method_inputs(case: UnlearnCase) -> MethodInputs:
  # The sets are unpadded: a user has a single request, hence no second shape to
  # compile for.
  forget = descent.whole_batch(case.forget)
  fixed = jnp.ones(case.forget.label.shape, bool)
  retain = None if case.retain is None else descent.whole_batch(case.retain)
  return MethodInputs(retain, Samples(forget.batch, fixed, forget.valid))


def _unlearn(
  request: UnlearnRequest, case: UnlearnCase, settings: Info, out: pathlib.Path
) -> tuple[Variables, Info]:
  network, data = case.network, _method_inputs(case)
  # Separate keys: a change of `prepare` must not move the draws of `solve`.
  key = rng.fold_in(request.seed, 'unlearn')
  method = make_method(request, network.classifier, data)
  prepared = method.prepare(
    rng.fold_in(key, 'prepare'), network.variables, data
  )
  edited, facts = method.solve(
    rng.fold_in(key, 'solve'),
    network.variables,
    data,
    prepared,
    method.grid[0],
    **_checkpoint_option(request, out, config_lib.fingerprint(settings)),
  )
  return edited, {
    'method': request.method,
    'notes': list(network.notes),
    'class_names': list(network.class_names),
    # A user has no tuning cells, so the first value of the grid is used.
    'hyper': method.grid[0],
    'facts': {
      # JSON knows no scalars of JAX.
      name: value if isinstance(value, str) else float(value)
      for name, value in facts.items()
    },
  }


def _checkpoint_option(
  request: UnlearnRequest, out: pathlib.Path, address: str
) -> Info:
  """A checkpoint for a method that trains; SSD needs none."""
  if request.method == 'ssd':
    return {}
  return {'checkpoint': store.npz_checkpoint(out, address, _SAVE_SECONDS)}


def _measure(case: UnlearnCase, variables: Variables) -> Info:
  """Measures a network on each set of pictures."""
  network = case.network
  answers = {
    name: None
    if batch is None
    else (
      metrics.logits(network.classifier, variables, batch, 256),
      np.asarray(batch.label),
    )
    for name, batch in case.sets().items()
  }
  return measure_sets(answers, len(network.class_names))


def measure_sets(
  answers: Mapping[
    str, tuple[Float[np.ndarray, 'n k'], Int[np.ndarray, 'n']] | None
  ],
  classes: int,
) -> dict[str, Any]:
  """Measures each set of pictures, and attacks the membership of the first.

  Args:
    answers: logits and labels of 'forget', 'retain' and 'test'; None for a set
      without pictures.
    classes: k.

  Returns:
    'accuracy' and 'confidence' (mean probability of the label) by set,
    'class_accuracy' of the test set, and 'membership': two attacks on forgotten
    against unseen pictures, by the confidence in the label and, under
    'correctness', by a right prediction (None without test pictures).
  """
  return {
    'accuracy': {name: _accuracy(pair) for name, pair in answers.items()},
    'confidence': {name: _confidence(pair) for name, pair in answers.items()},
    'class_accuracy': _class_accuracy(answers['test'], classes),
    'membership': _attack_membership(answers['forget'], answers['test']),
  }


def _accuracy(pair: Any) -> float | None:
  if pair is None:
    return None
  logits, label = pair
  return float(np.mean(logits.argmax(-1) == label))


def _confidence(pair: Any) -> float | None:
  if pair is None:
    return None
  return float(np.mean(audits.softmax(*map(jnp.asarray, pair))))


def _class_accuracy(pair: Any, classes: int) -> list[float | None] | None:
  if pair is None:
    return None
  logits, label = pair
  counts = metrics.confusion(label, logits.argmax(-1), classes)
  return metrics.class_accuracy(counts)


def _attack_membership(forget: Any, test: Any) -> dict[str, Any] | None:
  """Attacks forgotten against unseen pictures, by confidence and correctness.

  The confidence of a network may hide what its accuracy gives away.
  """
  # Without unseen pictures there is nothing to compare with.
  if test is None:
    return None
  confidence, correctness = (
    _audit_scores(name, [signal(*pair) for pair in (forget, test)])
    for name, signal in (
      ('membership', _confidence_scores),
      ('correctness', lambda logits, label: logits.argmax(-1) == label),
    )
  )
  return {**confidence, 'correctness': correctness}


def _confidence_scores(logits: Any, label: Any) -> np.ndarray:
  return np.asarray(audits.logit_confidence(*map(jnp.asarray, (logits, label))))


def _audit_scores(name: str, scores: list[np.ndarray]) -> dict[str, Any]:
  """The audit of one of two attacks, as JSON."""
  audit = audits.evaluate(
    rng.fold_in(_BOOTSTRAP_SEED, name),
    *(side.astype(np.float64) for side in scores),
    rule=audits.DecisionRule(attacks=2),
  )
  low, high = audit.interval
  return {
    'auc': audit.auroc.value,
    'low': low,
    'high': high,
    'verdict': audit.verdict,
    'says': audit.says,
  }
