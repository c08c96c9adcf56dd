"""Rates at which adversarial images of one network fool another.

Rates are NumPy on predicted classes. F is the network that was attacked, A(x)
its adversarial image of x, G another network:

  T_rate = P(G(A(x)) != y | F(x) = y, G(x) = y, F(A(x)) != y)

Only attacks that succeed on F count, so that rates of ensembles of different
robustness are of different images; the joint failure rate, P(F(A(x)) != y and
G(A(x)) != y) over all images, is free of that.

Source: LOTOS (ICLR 2025), section 3.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from cmu_jax.core import errors, jit, progress
from cmu_jax.core.types import (
  Batch,
  InputStep,
  Model,
  Network,
  PRNGKey,
  Variables,
)
from cmu_jax.robustness import attacks
from cmu_jax.training import metrics

Classes = Int[np.ndarray, 'n']


def _share(hit: Bool[np.ndarray, 'n'], among: Bool[np.ndarray, 'n']) -> float:
  """Computes P(hit | among); NaN over no images."""
  return float(hit[among].mean()) if among.any() else math.nan


def transfer_rate(
  label: Classes,
  source: Classes,
  target: Classes,
  source_attacked: Classes,
  target_attacked: Classes,
) -> float:
  """Computes T_rate from F to G; NaN where no image meets the conditions.

  Args:
    label: true classes.
    source: what F predicts on clean images.
    target: what G predicts on them.
    source_attacked: what F predicts on its adversarial images.
    target_attacked: what G predicts on these.
  """
  eligible = (source == label) & (target == label) & (source_attacked != label)
  return _share(target_attacked != label, eligible)


def joint_failure(
  label: Classes, source_attacked: Classes, target_attacked: Classes
) -> float:
  """Computes the share of images on which both fail after the attack."""
  return float(np.mean((source_attacked != label) & (target_attacked != label)))


def robust_accuracy(label: Classes, clean: Classes, attacked: Classes) -> float:
  """Computes P(right after the attack | right before)."""
  return _share(attacked == label, clean == label)


def over_pairs(
  label: Classes,
  clean: Int[np.ndarray, 'm n'],
  attacked: Int[np.ndarray, 'm m n'],
) -> dict[str, float]:
  """Averages rates over ordered pairs of members, and over members.

  Args:
    label: true classes.
    clean: predictions of each member.
    attacked: [i, j], what j predicts on the adversarial images of i.

  Returns:
    't_rate' (over the pairs that have one; NaN if none has),
    'joint_failure_rate' and 'member_robust_accuracy'.
  """
  count = len(clean)
  pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
  rates = [
    transfer_rate(label, clean[i], clean[j], attacked[i, i], attacked[i, j])
    for i, j in pairs
  ]
  # A pair without an image that meets the conditions has no rate.
  defined = [rate for rate in rates if not math.isnan(rate)]
  failures = [
    joint_failure(label, attacked[i, i], attacked[i, j]) for i, j in pairs
  ]
  robust = [
    robust_accuracy(label, clean[i], attacked[i, i]) for i in range(count)
  ]
  return {
    't_rate': float(np.mean(defined)) if defined else math.nan,
    'joint_failure_rate': float(np.mean(failures)) if failures else math.nan,
    'member_robust_accuracy': float(np.mean(robust)),
  }


class Threat(NamedTuple):
  """A threat model: how attacks are crafted, and how images are predicted."""

  name: str
  # (key, attack, model, variables, batch) -> a batch of attacked images.
  craft: Callable[..., Batch]
  # (model, variables, batch of attacked images) -> classes [n].
  predict: Callable[..., Any]
  # Batch -> the images that an attack of radius 0 would make.
  start: Callable[[Batch], Batch]


def make_correct(inputs: InputStep, size: int) -> Threat:
  """Creates the threat that papers describe: images in [0, 1]."""

  def craft(key, attack, model, variables, batch):
    adversarial = attacks.attack_split(
      key, attack, Network(model, inputs), variables, batch, size
    )
    # Not rounded to bytes: the attack is on the network, not on a file.
    return batch._replace(image=255 * adversarial.image)

  def predict(model, variables, batch):
    return metrics.predict(Network(model, inputs), variables, batch, size)

  return Threat('correct', craft, predict, lambda batch: batch)


# Attacked images are network input already.
_AS_IS = InputStep(
  lambda key, image, stamp=None: image, lambda image, stamp=None: image
)


@functools.lru_cache(maxsize=32)
def _compile_attack(attack: Any, network: Network) -> Callable:
  def run(key, variables, image, label):
    logits = functools.partial(network.model.apply, variables)
    return attack(key, logits, network.inputs.eval(image, None), label).image

  return jit.compile_loop(run)


def make_paper_compat_clamp(inputs: InputStep, size: int) -> Threat:
  """Creates the threat of the released code of LOTOS, for comparison only.

  The attack runs on normalised images but clips them to [0, 1]. A pixel below
  the mean becomes the mean; a pixel more than a standard deviation above it
  becomes that value, whatever the radius. The robust accuracy is then mostly
  the accuracy on images of cut contrast.
  """

  def craft(key, attack, model, variables, batch):
    run = _compile_attack(attack, Network(model, inputs))
    total = len(batch.label)
    block, images = min(size, total), []
    with progress.bar('attack, clamped', total, 'images') as advance:
      for start in range(0, total, block):
        # The last block repeats the last image: one shape, one compilation.
        rows = jnp.minimum(start + jnp.arange(block), total - 1)
        block_key = jax.random.fold_in(key, start)
        images.append(
          run(block_key, variables, batch.image[rows], batch.label[rows])
        )
        advance(min(block, total - start))
    return batch._replace(image=jnp.concatenate(images)[:total])

  def predict(model, variables, batch):
    return metrics.predict(Network(model, _AS_IS), variables, batch, size)

  def start(batch):
    return batch._replace(image=jnp.clip(inputs.eval(batch.image, None), 0, 1))

  return Threat('paper_compat_clamp', craft, predict, start)


THREATS = {
  'correct': make_correct,
  'paper_compat_clamp': make_paper_compat_clamp,
}


def make_threat(name: str, inputs: InputStep, size: int) -> Threat:
  """Creates a threat model by name.

  Raises:
    UserError: an unknown name.
  """
  if name not in THREATS:
    raise errors.unknown_name('threat', name, THREATS)
  return THREATS[name](inputs, size)


class Targets(NamedTuple):
  """The networks of one measurement, each with its variables."""

  members: list[tuple[Model, Variables]]
  # The mean of the members as one network.
  ensemble: tuple[Model, Variables]
  # Trained separately: a black-box attacker has it in place of the ensemble.
  surrogate: tuple[Model, Variables]


def measure_transfer(
  key: PRNGKey,
  targets: Targets,
  batch: Batch,
  attack: Any,
  threat_model: Threat,
  predict_clean: Callable[[Model, Variables], Classes],
) -> dict[str, float]:
  """Measures all rates of an ensemble under a threat model.

  Args:
    key: of the attacks; the same for every network that is attacked.
    targets: the networks.
    batch: images under attack.
    attack: see `attacks`.
    threat_model: how attacks are crafted and predicted.
    predict_clean: predictions on the images without attack.

  Returns:
    `over_pairs`, and 'robust_accuracy' (attacks on the ensemble itself),
    'black_box_accuracy' (attacks on the surrogate), both among images that the
    ensemble classifies correctly, and 'untouched_accuracy': of all images, as
    the threat model changes them without any attack.
  """
  label, ensemble = np.asarray(batch.label), targets.ensemble
  clean = np.stack([predict_clean(*network) for network in targets.members])
  attacked = []
  for model, variables in targets.members:
    # One key for all members: their attacks start from the same noise.
    images = threat_model.craft(key, attack, model, variables, batch)
    attacked.append(
      [threat_model.predict(*network, images) for network in targets.members]
    )
  rates = over_pairs(label, clean, np.asarray(attacked))
  ensemble_clean = predict_clean(*ensemble)
  for name, (model, variables) in (
    ('robust_accuracy', ensemble),
    ('black_box_accuracy', targets.surrogate),
  ):
    images = threat_model.craft(key, attack, model, variables, batch)
    predicted = threat_model.predict(*ensemble, images)
    rates[name] = robust_accuracy(label, ensemble_clean, predicted)
  # The clamp alone may cost accuracy, without any attack.
  untouched = threat_model.predict(*ensemble, threat_model.start(batch))
  return {**rates, 'untouched_accuracy': float(np.mean(untouched == label))}


def replace_nan(values: dict[str, float]) -> dict[str, float | None]:
  """Replaces NaN, which JSON lacks, by None."""
  return {k: None if math.isnan(v) else float(v) for k, v in values.items()}
