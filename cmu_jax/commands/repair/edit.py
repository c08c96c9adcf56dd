"""The edit of a network: by CUTS, or by projection if a trigger is located."""

import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from cmu_jax.commands.repair import subject, unlabelled_words
from cmu_jax.commands.repair.subject import RepairCase
from cmu_jax.commands.requests import RepairRequest
from cmu_jax.core import checkpoint, rng, store, tree
from cmu_jax.core.types import (
  Info,
  MethodInputs,
  Network,
  Proxy,
  Training,
  Variables,
)
from cmu_jax.data import input_step, proxy_sets
from cmu_jax.methods.backdoor import distillation, safe_tuning
from cmu_jax.methods.cuts import (
  algorithm,
  alpha_rules,
  alpha_search,
  safe_alpha,
)
from cmu_jax.methods.unlabelled import halves, information_maximization
from cmu_jax.studies.engine import forecast
from cmu_jax.training import early_stopping, metrics, optimizers, train

_FOLDS = 2
_MAX_STEPS = 200
_BATCH_SIZE = 128
# Fine-tuning stops at this share of learnt wrong labels: a task vector of
# memorized labels describes these images, not the corruption.
_MEMORIZED_SHARE = 0.5


class Edit(NamedTuple):
  """An edited network, with the evidence for the edit.

  Attributes:
    method: 'cuts', 'projected' (a trigger was located),
      'information_maximization' or 'self_tuning' (from ordinary pictures).
    variables: the edited network.
    choice: alpha; 0 leaves the network unedited. Repairs from ordinary
      pictures take the whole step, alpha = 1, or none.
    curve: quantities over alpha from which it was chosen, by name.
    evidence: held-out evidence for the edit, or None.
    steps: of the fine-tuning.
    learnt_share: share of the bad samples' labels that the last pass of the
      fine-tuning predicts, or None.
  """

  method: str
  variables: Variables
  choice: alpha_rules.AlphaChoice
  curve: dict[str, np.ndarray]
  evidence: Info | None
  steps: int
  learnt_share: float | None


def edit_network(
  request: RepairRequest,
  case: RepairCase,
  settings: Info,
  folder: pathlib.Path | None,
) -> Edit:
  """Edits by projection if a trigger is located, else by CUTS.

  Args:
    request: the user's flags.
    case: network and samples.
    settings: everything that the result depends on.
    folder: of the checkpoints; None for none.
  """
  key = rng.fold_in(request.seed, 'repair')
  rate = optimizers.constant_schedule(settings['learning_rate'])
  steps, batch_size = request.steps or _MAX_STEPS, choose_batch_size(request)
  count = min(batch_size, len(case.image))
  train.check_length(f'--steps={steps}', steps, count)
  tuning = Training(optimizers.adamw(rate), steps, batch_size)
  # A checkpoint of other settings must not continue this run.
  text = json.dumps(settings, sort_keys=True, default=list)
  fingerprint = hashlib.sha256(text.encode()).hexdigest()

  def make_checkpoint(name: str) -> store.Checkpoint | None:
    if folder is None:
      return None
    path = folder / name
    return store.Checkpoint(
      lambda template: checkpoint.restore(path, template, fingerprint),
      lambda state, step: checkpoint.save(path, step, state, fingerprint),
    )

  with forecast.follow_trainings(_count_images(request, case, tuning)):
    if is_unlabelled(request):
      return _edit_unlabelled(key, request, case, make_checkpoint)
    if is_self_tuned(request, case):
      return _edit_by_tuning(key, request, case, make_checkpoint)
    if case.trigger is not None and request.rule == 'safe':
      return _edit_projected(key, case, make_checkpoint('copies'), tuning)
    return _edit_by_cuts(key, request, case, make_checkpoint, tuning)


def choose_batch_size(request: RepairRequest) -> int:
  """The batch size of a training with labels."""
  return request.batch_size or _BATCH_SIZE


def _count_images(
  request: RepairRequest, case: RepairCase, tuning: Training
) -> float:
  """Counts the images of all trainings; they may learn enough sooner."""
  if is_unlabelled(request):
    training = _half_training(
      information_maximization.make_training, request, case
    )
    return 2.0 * training.steps * training.batch_size
  if is_self_tuned(request, case):
    training = _half_training(safe_tuning.make_training, request, case)
    return 3.0 * training.steps * training.batch_size
  if case.trigger is not None and request.rule == 'safe':
    assert case.ordinary is not None
    # Every picture with and without the trigger.
    return 1.0 * tuning.steps * min(tuning.batch_size, 2 * len(case.ordinary))
  # True labels are replaced twice, at random.
  draws = 2 if request.labels == 'true' and case.target is None else 1
  folds = _FOLDS if request.rule == 'safe' and case.target is None else 0
  # A set that is smaller than a batch is used once a step.
  size, batch = case.bad_batch.label.shape[0], tuning.batch_size
  images = min(batch, size) + folds * min(batch, size - size // _FOLDS)
  return 1.0 * draws * tuning.steps * images


def is_unlabelled(request: RepairRequest) -> bool:
  """True for a repair of wrong labels that reads ordinary pictures."""
  return (
    request.kind == 'label_noise'
    and request.rule == 'safe'
    and request.ordinary is not None
  )


def is_self_tuned(request: RepairRequest, case: RepairCase) -> bool:
  """True for a backdoor and ordinary pictures that locate no trigger."""
  return (
    request.kind == 'poison'
    and request.rule == 'safe'
    and case.ordinary is not None
    and case.trigger is None
  )


def _half_training(
  make_training: Callable[..., Training],
  request: RepairRequest,
  case: RepairCase,
) -> Training:
  """The training of a run, which fits half of the ordinary pictures."""
  assert case.ordinary is not None
  return make_training(
    max(1, len(case.ordinary) // 2),
    learning_rate=request.learning_rate,
    steps=request.steps,
    batch_size=request.batch_size,
  )


def _edit_by_tuning(
  key: jax.Array,
  request: RepairRequest,
  case: RepairCase,
  make_checkpoint: Callable[[str], store.Checkpoint | None],
) -> Edit:
  """Tunes on ordinary pictures, if held-out ones show a small cost."""
  assert case.ordinary is not None
  variables = case.network.variables
  samples = information_maximization.wrap_pictures(case.ordinary)
  network = subject.choose_inputs(rng.fold_in(key, 'crops'), case, samples)
  training = _half_training(safe_tuning.make_training, request, case)
  method = safe_tuning.safe_self_tuning(
    network, training, labelled=case.labelled_batch is not None
  )
  data = MethodInputs(ordinary=samples, clean_proxy=case.labelled_batch)
  _, info = method.solve(key, variables, data, None, {}, make_checkpoint)
  evidence, tuned = info['evidence'], info['tuned']
  # Where the user has triggered pictures, the gain can be shown after all.
  if evidence.repaired and not _frees_samples(case, tuned):
    evidence = evidence._replace(repaired=False, reason='gain')
  curve = safe_tuning.trace(network, variables, tuned, samples)
  return Edit(
    unlabelled_words.TUNING,
    tuned if evidence.repaired else variables,
    _take_whole(evidence.repaired, curve),
    curve,
    evidence.record,
    training.steps,
    None,
  )


def _take_whole(
  repaired: bool, curve: dict[str, np.ndarray]
) -> alpha_rules.AlphaChoice:
  """The whole step or none: the curve is for the figure alone."""
  alpha = float(repaired)
  index = int(np.argmin(np.abs(curve['alpha'] - alpha)))
  return alpha_rules.AlphaChoice(alpha, index, repaired)


def _frees_samples(case: RepairCase, tuned: Variables) -> bool:
  """False if triggered pictures are there and half of them stay fooled."""
  if case.bad is None:
    return True
  original, edited = (
    np.mean(
      metrics.predict(case.network.classifier, v, case.bad, 256) == case.target
    )
    for v in (case.network.variables, tuned)
  )
  return bool(edited < original / 2)


def _edit_unlabelled(
  key: jax.Array,
  request: RepairRequest,
  case: RepairCase,
  make_checkpoint: Callable[[str], store.Checkpoint | None],
) -> Edit:
  """Adapts to unlabelled pictures, if two runs on their halves agree."""
  assert case.ordinary is not None
  variables = case.network.variables
  samples = information_maximization.wrap_pictures(case.ordinary)
  network = subject.choose_inputs(rng.fold_in(key, 'crops'), case, samples)
  training = _half_training(
    information_maximization.make_training, request, case
  )
  method = halves.safe_information_maximization(network, training)
  repaired, info = method.solve(
    key,
    variables,
    MethodInputs(ordinary=samples),
    None,
    {},
    make_checkpoint,
  )
  evidence = info['evidence']
  curve = halves.trace(network, variables, info['runs'], samples)
  return Edit(
    unlabelled_words.METHOD,
    repaired,
    _take_whole(evidence.repaired, curve),
    curve,
    evidence.record,
    training.steps,
    None,
  )


def _edit_projected(
  key: jax.Array,
  case: RepairCase,
  training_checkpoint: store.Checkpoint | None,
  tuning: Training,
) -> Edit:
  """Unlearns the trigger from ordinary pictures with and without it."""
  assert case.ordinary is not None and case.target is not None
  assert case.trigger is not None
  # The copies of the network see pictures with the trigger painted in.
  pixels = input_step.with_trigger(case.network.classifier.inputs, case.trigger)
  # A proxy that sends every picture to the target.
  size = case.ordinary.shape[0]
  pool = proxy_sets.wrap_labels(
    case.ordinary, np.full(size, case.target), np.ones(size, bool)
  )
  repaired, info = distillation.projected_distillation(
    Network(case.network.model, pixels),
    rule=distillation.Rule(target=case.target),
    checkpoint=training_checkpoint,
    training=tuning,
  )(key, case.network.variables, MethodInputs(proxy=pool))
  choice = alpha_rules.AlphaChoice(
    info['alpha'], info['position'], info['selected']
  )
  curve, steps = info['curve'], tuning.steps
  return Edit('projected', repaired, choice, curve, None, steps, None)


def _edit_by_cuts(
  key: jax.Array,
  request: RepairRequest,
  case: RepairCase,
  make_checkpoint: Callable[[str], store.Checkpoint | None],
  tuning: Training,
) -> Edit:
  """Edits by the published method, or with a choice on held-out samples."""
  samples = _make_proxy(rng.fold_in(key, 'proxy'), request, case)
  tau, tuning, learnt = _task_vector(
    key, request, case, samples, make_checkpoint, tuning
  )
  rule = (
    alpha_search.Selection(kind='label_noise')
    if case.target is None
    else alpha_search.Selection(kind='poison', target=case.target)
  )
  choice, curve = alpha_search.select_alpha(
    case.network.classifier,
    case.network.variables,
    tau,
    samples,
    selection=rule,
  )
  record: Info | None = None
  # Held-out evidence exists for label noise alone. The curve of a trigger has
  # no sign of the class that its alpha deletes.
  if request.rule == 'safe' and case.target is not None:
    choice = alpha_rules.ABSTENTION
  if request.rule == 'safe' and case.target is None:
    safe, _ = safe_alpha.choose_from_proxy(
      rng.fold_in(key, 'safe'),
      case.network.classifier,
      case.network.variables,
      samples,
      selection=rule,
      rule=safe_alpha.SafeRule(request.labels == 'true', _FOLDS),
      tuning=lambda _: tuning,
      checkpoint=make_checkpoint('folds'),
    )
    choice, record = safe.choice, safe.record
  params = tree.edit(case.network.variables.params, tau, choice.alpha)
  variables = Variables(params, case.network.variables.batch_stats)
  return Edit('cuts', variables, choice, curve, record, tuning.steps, learnt)


def _task_vector(
  key: jax.Array,
  request: RepairRequest,
  case: RepairCase,
  samples: Proxy,
  make_checkpoint: Callable[[str], store.Checkpoint | None],
  tuning: Training,
) -> tuple[PyTree, Training, float]:
  """Trains the task vector; returns it with its training and learnt share."""
  # The share over an epoch: single batches are too noisy to stop by.
  window = train.steps_per_epoch(samples.label.shape[1], tuning.batch_size)
  learnt = lambda history: float(history[..., -window:, 1].mean())
  stop_rule = early_stopping.StopRule(
    window, lambda history: learnt(history) >= _MEMORIZED_SHARE
  )
  tau, fitted = algorithm.direction(
    rng.fold_in(key, 'tune'),
    case.network.classifier,
    case.network.variables,
    samples,
    checkpoint=make_checkpoint('samples'),
    until=stop_rule if request.steps is None and case.target is None else None,
    training=tuning,
  )
  history = np.asarray(fitted.history)
  return tau, tuning._replace(steps=history.shape[-2]), learnt(history)


def _make_proxy(
  key: jax.Array, request: RepairRequest, case: RepairCase
) -> Proxy:
  """The bad samples as the proxy of CUTS."""
  bad = case.bad_batch
  # True labels are replaced: each image gets two random wrong ones.
  if request.labels == 'true' and request.kind == 'label_noise':
    return proxy_sets.make_proxy(
      key, 'symmetric', bad, 2, len(case.network.class_names)
    )
  return proxy_sets.wrap_labels(bad.image, bad.label)
