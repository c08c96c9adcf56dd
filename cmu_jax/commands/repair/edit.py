"""The edit itself: which method, by what is known, and its outcome."""

import hashlib
import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from cmu_jax.commands.repair.request import RepairRequest
from cmu_jax.commands.repair.subject import RepairCase
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
from cmu_jax.methods.backdoor import projected_distillation
from cmu_jax.methods.cuts import (
  algorithm,
  alpha_rules,
  alpha_search,
  safe_alpha,
)
from cmu_jax.training import early_stopping, metrics, optimizers, train

_FOLDS = 2
# A vector of labels learnt by heart is about these images, not the corruption.
_MAX_STEPS, _MEMORIZED_SHARE = 200, 0.5


class Edit(NamedTuple):
  """What was done.

  Attributes:
    method: 'cuts', or 'projected' (a trigger was located).
    variables: the network afterwards.
    choice: alpha; 0 leaves the model as it is.
    curve: what alpha was chosen from, by name.
    safe: the evidence of `judge`, or None.
    steps: of the fine-tuning.
    learnt: the share of the bad samples' labels in its last pass, or None.
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
  asked: RepairCase,
  settings: Info,
  folder: pathlib.Path,
) -> Edit:
  """Repairs by the projected method where it applies, else by CUTS.

  Args:
    request: what the user asked.
    asked: network and samples.
    settings: everything that the result depends on.
    folder: of the checkpoints.
  """
  key = rng.fold_in(request.seed, 'repair')
  rate = optimizers.constant_schedule(settings['learning_rate'])
  tuning = Training(
    optimizers.adamw(rate), request.steps or _MAX_STEPS, request.batch_size
  )
  text = json.dumps(settings, sort_keys=True, default=list)
  fingerprint = hashlib.sha256(text.encode()).hexdigest()

  def saving(name: str) -> store.Checkpoint:
    place = folder / name
    return store.Checkpoint(
      lambda like: checkpoint.restore(place, like, fingerprint),
      lambda state, step: checkpoint.save(place, step, state, fingerprint),
    )

  if asked.trigger is not None and request.rule == 'safe':
    return _edit_projected(key, asked, saving('copies'), tuning)
  return _edit_by_cuts(key, request, asked, saving, tuning)


def _edit_projected(
  key: jax.Array, asked: RepairCase, saving: store.Checkpoint, tuning: Training
) -> Edit:
  """Ordinary pictures with and without the trigger, see `methods.projected`."""
  assert asked.ordinary is not None and asked.target is not None
  pixels = input_step.make(
    asked.network.mean, asked.network.std, trigger=asked.trigger
  )
  size = asked.ordinary.shape[0]
  pool = Proxy(
    asked.ordinary,
    jnp.arange(size, dtype=jnp.int32)[None, :],
    jnp.full((1, size), asked.target, jnp.int32),
    jnp.ones((1, size), bool),
  )
  repaired, info = projected_distillation.projected_distillation(
    Network(asked.network.model, pixels),
    rule=projected_distillation.Rule(target=asked.target),
    checkpoint=saving,
    training=tuning,
  )(key, asked.network.variables, MethodInputs(proxy=pool))
  choice = alpha_rules.AlphaChoice(
    info['alpha'], info['position'], info['selected']
  )
  curve, steps = info['curve'], tuning.steps
  return Edit('projected', repaired, choice, curve, None, steps, None)


def _edit_by_cuts(
  key: jax.Array,
  request: RepairRequest,
  asked: RepairCase,
  saving: Any,
  tuning: Training,
) -> Edit:
  """The published method; under label noise with a choice out of fold."""
  samples = _make_proxy(rng.fold_in(key, 'proxy'), request, asked)
  tau, tuning, learnt = _task_vector(
    key, request, asked, samples, saving, tuning
  )
  rule = (
    alpha_search.Selection(kind='label_noise')
    if asked.target is None
    else alpha_search.Selection(kind='poison', target=asked.target)
  )
  choice, curve = alpha_search.select_alpha(
    asked.network.classifier,
    asked.network.variables,
    tau,
    samples,
    selection=rule,
  )
  record: Info | None = None
  if request.rule == 'safe' and asked.target is not None:
    choice = _skip_if_disarmed(asked, rule, choice)
  if request.rule == 'safe' and asked.target is None:
    found, _ = safe_alpha.choose_from_proxy(
      rng.fold_in(key, 'safe'),
      asked.network.classifier,
      asked.network.variables,
      samples,
      selection=rule,
      rule=safe_alpha.SafeRule(request.labels == 'true', _FOLDS),
      tuning=lambda _: tuning,
      checkpoint=saving('folds'),
    )
    choice, record = found.choice, found.record
  after = tree.edit(asked.network.variables.params, tau, choice.alpha)
  variables = Variables(after, asked.network.variables.batch_stats)
  return Edit('cuts', variables, choice, curve, record, tuning.steps, learnt)


def _task_vector(
  key: jax.Array,
  request: RepairRequest,
  asked: RepairCase,
  samples: Proxy,
  saving: Any,
  tuning: Training,
) -> tuple[PyTree, Training, float]:
  """The task vector, with how it was tuned and what share was learnt."""
  window = train.steps_per_epoch(samples.label.shape[1], request.batch_size)
  learnt = lambda history: float(history[..., -window:, 1].mean())
  half = early_stopping.StopRule(
    window, lambda history: learnt(history) >= _MEMORIZED_SHARE
  )
  tau, fitted = algorithm.direction(
    rng.fold_in(key, 'tune'),
    asked.network.classifier,
    asked.network.variables,
    samples,
    checkpoint=saving('samples'),
    until=half if request.steps is None and asked.target is None else None,
    training=tuning,
  )
  history = np.asarray(fitted.history)
  return tau, tuning._replace(steps=history.shape[-2]), learnt(history)


def _skip_if_disarmed(
  asked: RepairCase,
  rule: alpha_search.Selection,
  choice: alpha_rules.AlphaChoice,
) -> alpha_rules.AlphaChoice:
  """The choice, or none where the trigger does not work as it is.

  The published grid begins above 0: it would edit such a network, too.
  """
  seen = metrics.predict(
    asked.network.classifier,
    asked.network.variables,
    asked.bad,
    256,
  )
  rate = np.array([np.mean(seen == rule.target)])
  before = alpha_rules.choose_smallest_below(np.zeros(1), rate, rule.threshold)
  return alpha_rules.ABSTENTION if before.selected else choice


def _make_proxy(
  key: jax.Array, request: RepairRequest, asked: RepairCase
) -> Proxy:
  """The bad samples as CUTS takes them: as they are, or made wrong anew."""
  bad = asked.bad
  if request.labels == 'true' and request.kind == 'label_noise':
    return proxy_sets.make_proxy(
      key, 'symmetric', bad, 2, len(asked.network.class_names)
    )
  every = jnp.arange(bad.label.shape[0], dtype=jnp.int32)[None, :]
  return Proxy(bad.image, every, bad.label[None, :])
