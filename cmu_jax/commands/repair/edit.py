"""The edit itself: which method, by what is known, and its outcome."""

import hashlib
import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from cmu_jax.commands.repair.request import Request
from cmu_jax.commands.repair.subject import Subject
from cmu_jax.core import checkpoint, rng, tree
from cmu_jax.core.types import Info, Proxy, Variables
from cmu_jax.data import inputs, proxy
from cmu_jax.methods.backdoor import projected
from cmu_jax.methods.cuts import direction, rules, safe
from cmu_jax.training import metrics, optimizers, schedules, stopping, train

_FOLDS = 2
# A vector of labels learnt by heart is about these images, not the corruption.
_STEPS, _LEARNT = 200, 0.5


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
  choice: rules.Choice
  curve: dict[str, np.ndarray]
  safe: Info | None
  steps: int
  learnt: float | None


def edit(
  request: Request, asked: Subject, settings: Info, folder: pathlib.Path
) -> Edit:
  """Repairs by the projected method where it applies, else by CUTS.

  Args:
    request: what the user asked.
    asked: network and samples.
    settings: everything that the result depends on.
    folder: of the checkpoints.
  """
  key = rng.named(request.seed, 'repair')
  rate = schedules.constant(settings['learning_rate'])
  tuning: Info = {
    'optimizer': optimizers.adamw(rate),
    'steps': request.steps or _STEPS,
    'batch_size': request.batch_size,
  }
  text = json.dumps(settings, sort_keys=True, default=list)
  fingerprint = hashlib.sha256(text.encode()).hexdigest()

  def saving(name: str) -> train.Checkpoint:
    place = folder / name
    return train.Checkpoint(
      lambda like: checkpoint.restore(place, like, fingerprint),
      lambda state, step: checkpoint.save(place, step, state, fingerprint),
    )

  if asked.trigger is not None and request.rule == 'safe':
    return _projected(key, asked, saving('copies'), tuning)
  return _cuts(key, request, asked, saving, tuning)


def _projected(
  key: jax.Array, asked: Subject, saving: train.Checkpoint, tuning: Info
) -> Edit:
  """Ordinary pictures with and without the trigger, see `methods.projected`."""
  assert asked.ordinary is not None and asked.target is not None
  pixels = inputs.make(
    asked.network.mean, asked.network.std, trigger=asked.trigger
  )
  size = asked.ordinary.shape[0]
  pool = Proxy(
    asked.ordinary,
    jnp.arange(size, dtype=jnp.int32)[None, :],
    jnp.full((1, size), asked.target, jnp.int32),
    jnp.ones((1, size), bool),
  )
  repaired, info = projected.projected(
    asked.network.model,
    pixels,
    rule=projected.Rule(target=asked.target),
    checkpoint=saving,
    **tuning,
  )(key, asked.network.variables, pool)
  choice = rules.Choice(info['alpha'], info['position'], info['selected'])
  steps = tuning['steps']
  return Edit('projected', repaired, choice, info['curve'], None, steps, None)


def _cuts(
  key: jax.Array, request: Request, asked: Subject, saving: Any, tuning: Info
) -> Edit:
  """The published method; under label noise with a choice out of fold."""
  samples = _proxy(rng.named(key, 'proxy'), request, asked)
  tau, tuning, learnt = _vector(key, request, asked, samples, saving, tuning)
  rule = (
    direction.Selection(kind='label_noise')
    if asked.target is None
    else direction.Selection(kind='poison', target=asked.target)
  )
  choice, curve = direction.select_alpha(
    asked.network.model,
    asked.network.variables,
    tau,
    samples,
    inputs=asked.network.inputs,
    selection=rule,
  )
  record: Info | None = None
  if request.rule == 'safe' and asked.target is not None:
    choice = _unless_disarmed(asked, rule, choice)
  if request.rule == 'safe' and asked.target is None:
    found, _ = safe.judged(
      rng.named(key, 'safe'),
      asked.network.model,
      asked.network.variables,
      samples,
      folds=_FOLDS,
      inputs=asked.network.inputs,
      selection=rule,
      tuning=lambda _: tuning,
      symmetric=request.labels == 'true',
      checkpoint=saving('folds'),
    )
    choice, record = found.choice, found.record
  after = tree.edit(asked.network.variables.params, tau, choice.alpha)
  variables = Variables(after, asked.network.variables.batch_stats)
  return Edit('cuts', variables, choice, curve, record, tuning['steps'], learnt)


def _vector(
  key: jax.Array,
  request: Request,
  asked: Subject,
  samples: Proxy,
  saving: Any,
  tuning: Info,
) -> tuple[PyTree, Info, float]:
  """The task vector, with how it was tuned and what share was learnt."""
  window = train.steps_per_epoch(samples.label.shape[1], request.batch_size)
  learnt = lambda history: float(history[..., -window:, 1].mean())
  half = stopping.Until(window, lambda history: learnt(history) >= _LEARNT)
  tau, fitted = direction.direction(
    rng.named(key, 'tune'),
    asked.network.model,
    asked.network.variables,
    samples,
    inputs=asked.network.inputs,
    checkpoint=saving('samples'),
    until=half if request.steps is None and asked.target is None else None,
    **tuning,
  )
  history = np.asarray(fitted.history)
  return tau, {**tuning, 'steps': history.shape[-2]}, learnt(history)


def _unless_disarmed(
  asked: Subject, rule: direction.Selection, choice: rules.Choice
) -> rules.Choice:
  """The choice, or none where the trigger does not work as it is.

  The published grid begins above 0: it would edit such a network, too.
  """
  seen = metrics.predict(
    asked.network.model,
    asked.network.inputs,
    asked.network.variables,
    asked.bad,
    256,
  )
  rate = np.array([np.mean(seen == rule.target)])
  before = rules.smallest_below(np.zeros(1), rate, rule.threshold)
  return rules.Choice(0.0, None, False) if before.selected else choice


def _proxy(key: jax.Array, request: Request, asked: Subject) -> Proxy:
  """The bad samples as CUTS takes them: as they are, or made wrong anew."""
  bad = asked.bad
  if request.labels == 'true' and request.kind == 'label_noise':
    return proxy.make_proxy(
      key, 'symmetric', bad, 2, len(asked.network.class_names)
    )
  every = jnp.arange(bad.label.shape[0], dtype=jnp.int32)[None, :]
  return Proxy(bad.image, every, bad.label[None, :])
