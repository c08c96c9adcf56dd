"""The edit of a network: by CUTS, or by projection if a trigger is located."""

import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

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
from cmu_jax.methods.backdoor import distillation
from cmu_jax.methods.cuts import (
  algorithm,
  alpha_rules,
  alpha_search,
  safe_alpha,
)
from cmu_jax.studies.engine import forecast
from cmu_jax.training import early_stopping, metrics, optimizers, train

_FOLDS = 2
_MAX_STEPS = 200
# Fine-tuning stops at this share of learnt wrong labels: a task vector of
# memorized labels describes these images, not the corruption.
_MEMORIZED_SHARE = 0.5


class Edit(NamedTuple):
  """An edited network, with the evidence for the edit.

  Attributes:
    method: 'cuts', or 'projected' (a trigger was located).
    variables: the edited network.
    choice: alpha; 0 leaves the network unedited.
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
  steps = request.steps or _MAX_STEPS
  count = min(request.batch_size, len(case.bad.label))
  train.check_length(f'--steps={steps}', steps, count)
  tuning = Training(optimizers.adamw(rate), steps, request.batch_size)
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
    if case.trigger is not None and request.rule == 'safe':
      return _edit_projected(key, case, make_checkpoint('copies'), tuning)
    return _edit_by_cuts(key, request, case, make_checkpoint, tuning)


def _count_images(
  request: RepairRequest, case: RepairCase, tuning: Training
) -> float:
  """Counts the images of all trainings; they may learn enough sooner."""
  if case.trigger is not None and request.rule == 'safe':
    assert case.ordinary is not None
    # Every picture with and without the trigger.
    return 1.0 * tuning.steps * min(tuning.batch_size, 2 * len(case.ordinary))
  # True labels are replaced twice, at random.
  draws = 2 if request.labels == 'true' and case.target is None else 1
  folds = _FOLDS if request.rule == 'safe' and case.target is None else 0
  # A set that is smaller than a batch is used once a step.
  size, batch = case.bad.label.shape[0], tuning.batch_size
  images = min(batch, size) + folds * min(batch, size - size // _FOLDS)
  return 1.0 * draws * tuning.steps * images


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
  # Held-out evidence exists for label noise alone; a trigger is checked on the
  # unedited network.
  if request.rule == 'safe' and case.target is not None:
    choice = _skip_if_disarmed(case, rule, choice)
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
  window = train.steps_per_epoch(samples.label.shape[1], request.batch_size)
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


def _skip_if_disarmed(
  case: RepairCase,
  rule: alpha_search.Selection,
  choice: alpha_rules.AlphaChoice,
) -> alpha_rules.AlphaChoice:
  """The choice, or none if the trigger does not fool the unedited network."""
  # The published grid begins above 0: it would edit such a network too.
  predicted = metrics.predict(
    case.network.classifier,
    case.network.variables,
    case.bad,
    256,
  )
  rate = np.array([np.mean(predicted == rule.target)])
  unedited = alpha_rules.choose_smallest_below(
    np.zeros(1), rate, rule.threshold
  )
  return alpha_rules.ABSTENTION if unedited.selected else choice


def _make_proxy(
  key: jax.Array, request: RepairRequest, case: RepairCase
) -> Proxy:
  """The bad samples as the proxy of CUTS."""
  bad = case.bad
  # True labels are replaced: each image gets two random wrong ones.
  if request.labels == 'true' and request.kind == 'label_noise':
    return proxy_sets.make_proxy(
      key, 'symmetric', bad, 2, len(case.network.class_names)
    )
  return proxy_sets.wrap_labels(bad.image, bad.label)
