"""A repair from the request to the report."""

import pathlib

import numpy as np

from cmu_jax.commands import finished, frame, readings
from cmu_jax.commands.repair import advice, edit, page, unlabelled_words
from cmu_jax.commands.repair.subject import RepairCase, read_case
from cmu_jax.commands.requests import REPAIR, RepairRequest
from cmu_jax.core import errors, provenance, rng
from cmu_jax.core.types import Batch, Info, Variables
from cmu_jax.methods import diagnosis
from cmu_jax.methods.backdoor import safe_tuning
from cmu_jax.methods.cuts import alpha_rules
from cmu_jax.methods.unlabelled import information_maximization
from cmu_jax.robustness import attacks, lipschitz
from cmu_jax.training import descent, metrics

_RATES = {
  'label_noise': 5e-4,
  'poison': 1e-4,
  'unlabelled': information_maximization.LEARNING_RATE,
  'self_tuned': safe_tuning.LEARNING_RATE,
}


def run(request: RepairRequest) -> Info:
  """Repairs a network and writes weights, results, figure and report.

  Continues where an earlier call with the same request was stopped.

  Raises:
    UserError: settings, weights or pictures that do not fit; then nothing is
      written.
  """
  case = read_case(request)
  check_reading(request, case)

  def edit_case(settings: Info, out: pathlib.Path) -> tuple[Variables, Info]:
    return solve(request, case, settings, out / 'checkpoints')

  def measure(variables: Variables) -> Info:
    return measure_both(request, case, variables)

  work = finished.Edit(
    REPAIR, case.network, 'repaired', edit_case, measure, page.REPORT
  )
  return finished.run(request, case_settings(request, case), work)


def check_reading(request: RepairRequest, case: RepairCase) -> None:
  """Refuses a network that does not read its pictures as in its training."""
  network = case.network
  if case.test is not None:
    readings.check_labelled(
      network,
      case.test,
      f'--test={request.test}',
      predicted=case.answers.get('--test'),
    )
  if request.kind == 'poison':
    # Pictures with a trigger all go to one class: they cannot show it.
    if case.bad is None and case.ordinary is not None:
      source = f'--ordinary={request.ordinary}'
      if case.labelled_batch is not None:
        readings.check_labelled(network, case.labelled_batch, source)
      readings.check_unlabelled(network, case.ordinary, source)
    if case.test is None and case.ordinary is None:
      errors.remark(
        'Warning: nothing here shows whether the network reads its pictures as '
        'in its training; --test or --ordinary would.'
      )
      readings.check_triggered(
        network, np.asarray(case.image), f'--proxy={request.proxy}'
      )
    return
  if case.ordinary is not None:
    source = f'--ordinary={request.ordinary}'
    readings.check_unlabelled(network, case.ordinary, source)
  if case.bad is None:
    return
  source = f'--proxy={request.proxy}'
  if request.labels == 'true':
    readings.check_labelled(
      network, case.bad, source, predicted=case.answers.get('--proxy')
    )
  readings.check_unlabelled(network, case.bad.image, source)


def case_settings(request: RepairRequest, case: RepairCase) -> Info:
  """Inferred settings, and digests of the inputs."""
  return {
    **frame.network_settings(case.network, case.image),
    'learning_rate': request.learning_rate
    or _RATES[_method_kind(request, case)],
    'target': case.target,
    'samples_sha256': (
      None
      if case.bad is None
      else provenance.digest(case.bad.image, case.bad.label)
    ),
    'ordinary_sha256': (
      None
      if case.ordinary is None
      else provenance.digest(case.ordinary)
      if case.labelled_batch is None
      else provenance.digest(*case.labelled_batch[:2])
    ),
  }


def _method_kind(request: RepairRequest, case: RepairCase) -> str:
  """The kind of corruption, or of a repair from ordinary pictures."""
  # A located trigger has the rate of the other repairs of a backdoor.
  if edit.is_self_tuned(request, case):
    return 'self_tuned'
  return 'unlabelled' if edit.is_unlabelled(request) else request.kind


def solve(
  request: RepairRequest,
  case: RepairCase,
  settings: Info,
  folder: pathlib.Path | None,
) -> tuple[Variables, Info]:
  """Edits a network; returns it with the record of the edit.

  Args:
    request: the user's flags.
    case: network and samples.
    settings: see `case_settings`.
    folder: of the checkpoints; None to keep none.
  """
  edited = edit.edit_network(request, case, settings, folder)
  return edited.variables, {
    'kind': request.kind,
    'method': edited.method,
    'notes': list(case.notes),
    'class_names': list(case.network.class_names),
    'samples': 0 if case.bad is None else int(case.bad.label.shape[0]),
    'ordinary': None if case.ordinary is None else len(case.ordinary),
    **_choice_record(edited.choice, edited.curve),
    'safe': edited.evidence if edited.method == 'cuts' else None,
    'label_free': (
      edited.evidence if edited.method == unlabelled_words.METHOD else None
    ),
    'cost': (
      edited.evidence if edited.method == unlabelled_words.TUNING else None
    ),
    'rule': request.rule,
    'fine_tuning': {'steps': edited.steps, 'learnt': edited.learnt_share},
    'diagnosis': _diagnose(request, case),
  }


def _choice_record(
  choice: alpha_rules.AlphaChoice, curve: dict[str, np.ndarray]
) -> Info:
  """The choice as JSON; alpha = 0 leaves the model unedited."""
  # JSON has no NaN: it becomes null.
  finite = {name: metrics.json_list(v) for name, v in curve.items()}
  repaired = choice.selected and choice.alpha > 0
  return {'alpha': choice.alpha, 'repaired': repaired, 'curve': finite}


def _diagnose(request: RepairRequest, case: RepairCase) -> Info | None:
  """Diagnoses the corruption; None if the samples have true labels."""
  # True labels carry no trace of the corruption.
  if case.bad is None or (
    request.kind == 'label_noise' and request.labels == 'true'
  ):
    return None
  probability = metrics.probabilities(
    case.network.classifier,
    case.network.variables,
    case.bad,
  )
  # The unedited network: the edit removes the traces that are diagnosed.
  key = rng.fold_in(request.seed, 'diagnosis')
  label = np.asarray(case.bad.label)
  return diagnosis.diagnose(key, probability, label).record


def _target_floor(case: RepairCase) -> Info | None:
  """Rate of the target class without a trigger, with its source.

  Bad samples may truly be of the target class. No repair frees these.
  """
  if case.target is None:
    return None
  if case.test is not None:
    rate = np.mean(np.asarray(case.test.label) == case.target)
    return {'rate': float(rate), 'source': 'test'}
  if case.ordinary is not None:
    batch = descent.blank_batch(case.ordinary)
    predicted = metrics.predict(
      case.network.classifier, case.network.variables, batch, 256
    )
    rate = np.mean(predicted == case.target)
    return {'rate': float(rate), 'source': 'ordinary'}
  return {'rate': 1 / len(case.network.class_names), 'source': 'classes'}


def measure_both(
  request: RepairRequest, case: RepairCase, edited: Variables
) -> Info:
  """Measures the network before and after an edit."""
  both = {'before': case.network.variables, 'after': edited}
  return {
    'target_floor': _target_floor(case),
    'clean_estimate': advice.estimate_clean(request, case, edited),
    'measured': {
      when: _measure(request, case, variables)
      for when, variables in both.items()
    },
  }


def _measure(
  request: RepairRequest, case: RepairCase, variables: Variables
) -> Info:
  """Measures predictions on the bad samples, and accuracy on test pictures."""

  def predict(batch: Batch) -> np.ndarray:
    return metrics.predict(case.network.classifier, variables, batch, 256)

  classes = len(case.network.class_names)
  batch = case.bad or descent.blank_batch(case.image)
  predicted = predict(batch)
  agreement = None
  if case.bad is not None:
    agreement = float(np.mean(predicted == np.asarray(case.bad.label)))
  # True labels are no bad labels: to predict them is right.
  is_true = request.kind == 'label_noise' and request.labels == 'true'
  measured: Info = {
    'bad_label_rate': None if is_true else agreement,
    'true_label_rate': agreement if is_true else None,
    'predicted': np.bincount(predicted, minlength=classes).tolist(),
    'test_accuracy': None,
    'class_accuracy': None,
    'lipschitz': _lipschitz_bound(case, variables)
    if request.lipschitz
    else None,
  }
  if case.test is not None:
    counts = metrics.confusion(
      np.asarray(case.test.label), predict(case.test), classes
    )
    measured['test_accuracy'] = metrics.accuracy(counts)
    measured['class_accuracy'] = metrics.class_accuracy(counts)
  return measured


def _lipschitz_bound(case: RepairCase, variables: Variables) -> Info:
  """Bounds the Lipschitz constant, for pixels from 0 to 1."""
  network = case.network
  bound = lipschitz.bound(
    # A fixed key: bounds of two repairs are comparable.
    rng.fold_in(0, 'lipschitz'),
    attacks.logits_of(network.classifier, variables),
    case.image.shape[1:],
  )
  return {'value': bound.value, 'upper': bound.upper, 'why': bound.reason}
