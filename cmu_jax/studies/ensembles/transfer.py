"""Do adversarial images of one network fool another? Rates, and the looking.

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
  """P(hit | among); NaN where there is nothing."""
  return float(hit[among].mean()) if among.any() else math.nan


def transfer_rate(
  label: Classes,
  source: Classes,
  target: Classes,
  source_attacked: Classes,
  target_attacked: Classes,
) -> float:
  """T_rate from F to G; NaN where no image meets the conditions.

  Args:
    label: true classes.
    source: what F predicts on clean images.
    target: what G predicts on them.
    source_attacked: what F predicts on its adversarial images.
    target_attacked: what G predicts on these.
  """
  meant = (source == label) & (target == label) & (source_attacked != label)
  return _share(target_attacked != label, meant)


def joint_failure(
  label: Classes, source_attacked: Classes, target_attacked: Classes
) -> float:
  """The share of all images on which both are wrong after the attack."""
  return float(np.mean((source_attacked != label) & (target_attacked != label)))


def robust_accuracy(label: Classes, clean: Classes, attacked: Classes) -> float:
  """P(right after the attack | right before); NaN if never right before."""
  return _share(attacked == label, clean == label)


def over_pairs(
  label: Classes,
  clean: Int[np.ndarray, 'm n'],
  attacked: Int[np.ndarray, 'm m n'],
) -> dict[str, float]:
  """Means over all ordered pairs of members, and over members.

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
  known = [rate for rate in rates if not math.isnan(rate)]
  both = [
    joint_failure(label, attacked[i, i], attacked[i, j]) for i, j in pairs
  ]
  alone = [
    robust_accuracy(label, clean[i], attacked[i, i]) for i in range(count)
  ]
  return {
    't_rate': float(np.mean(known)) if known else math.nan,
    'joint_failure_rate': float(np.mean(both)) if both else math.nan,
    'member_robust_accuracy': float(np.mean(alone)),
  }


class Threat(NamedTuple):
  """How attacks are made, and how what they made is looked at.

  Attributes:
    name: for tables.
    craft: (key, attack, model, variables, batch) -> a batch of attacked images.
    predict: (model, variables, batch of attacked images) -> classes [n].
    start: batch -> the images that an attack of radius 0 would make.
  """

  name: str
  craft: Callable[..., Batch]
  predict: Callable[..., Any]
  start: Callable[[Batch], Batch]


def correct(inputs: InputStep, size: int) -> Threat:
  """Images in [0, 1] before normalisation: the threat that papers describe.

  Args:
    inputs: raw pixels to network input.
    size: images in memory at once.
  """

  def craft(key, attack, model, variables, batch):
    found = attacks.attack_split(
      key, attack, Network(model, inputs), variables, batch, size
    )
    return batch._replace(image=255 * found.image)

  def predict(model, variables, batch):
    return metrics.predict(Network(model, inputs), variables, batch, size)

  return Threat('correct', craft, predict, lambda batch: batch)


# Network input as it is.
_AS_IS = InputStep(
  lambda key, image, stamp=None: image, lambda image, stamp=None: image
)


@functools.lru_cache(maxsize=32)
def _in_network_space(attack: Any, network: Network) -> Callable:
  def run(key, variables, image, label):
    logits = functools.partial(network.model.apply, variables)
    return attack(key, logits, network.inputs.eval(image, None), label).image

  return jit.compile_loop(run)


def paper_compat_clamp(inputs: InputStep, size: int) -> Threat:
  """What the released code of LOTOS does; for comparison only.

  The attack runs on normalised images but puts them back into [0, 1]: pixels
  below the mean become the mean, and those more than a standard deviation
  above it that, whatever the radius. What is measured as robustness is then
  mostly the accuracy on images whose contrast was cut.

  Args:
    inputs: raw pixels to network input.
    size: images in memory at once.
  """

  def craft(key, attack, model, variables, batch):
    run, total = (
      _in_network_space(attack, Network(model, inputs)),
      len(batch.label),
    )
    block, made = min(size, total), []
    with progress.bar('attack, clamped', total, 'images') as advance:
      for first in range(0, total, block):
        rows = jnp.minimum(first + jnp.arange(block), total - 1)
        each = jax.random.fold_in(key, first)
        made.append(run(each, variables, batch.image[rows], batch.label[rows]))
        advance(min(block, total - first))
    return batch._replace(image=jnp.concatenate(made)[:total])

  def predict(model, variables, batch):
    return metrics.predict(Network(model, _AS_IS), variables, batch, size)

  def start(batch):
    return batch._replace(image=jnp.clip(inputs.eval(batch.image, None), 0, 1))

  return Threat('paper_compat_clamp', craft, predict, start)


THREATS = {'correct': correct, 'paper_compat_clamp': paper_compat_clamp}


def threat(name: str, inputs: InputStep, size: int) -> Threat:
  """A threat model by name.

  Raises:
    UserError: an unknown name.
  """
  if name not in THREATS:
    raise errors.unknown_name('threat', name, THREATS)
  return THREATS[name](inputs, size)


def weighed(
  key: PRNGKey,
  networks: list[tuple[Model, Variables]],
  ensemble: tuple[Model, Variables],
  surrogate: tuple[Model, Variables],
  batch: Batch,
  attack: Any,
  one: Threat,
  clean: Callable[[Model, Variables], Classes],
) -> dict[str, float]:
  """Everything that a threat model says of an ensemble.

  Args:
    key: of the attacks; the same for every network that is attacked.
    networks: the members.
    ensemble: their mean as one network.
    surrogate: trained apart; the attacker of the black-box setting has it.
    batch: images under attack.
    attack: see `attacks`.
    one: the threat model.
    clean: predictions on the images as they are.

  Returns:
    `over_pairs`, and 'robust_accuracy' (attacks on the ensemble itself),
    'black_box_accuracy' (attacks on the surrogate), both among images that the
    ensemble has right, and 'untouched_accuracy': of all images, with what the
    threat model does to them without any attack.
  """
  label = np.asarray(batch.label)
  before = np.stack([clean(*network) for network in networks])
  after = []
  for model, variables in networks:
    made = one.craft(key, attack, model, variables, batch)
    after.append([one.predict(*network, made) for network in networks])
  found = over_pairs(label, before, np.asarray(after))
  right = clean(*ensemble)
  for name, (model, variables) in (
    ('robust_accuracy', ensemble),
    ('black_box_accuracy', surrogate),
  ):
    made = one.craft(key, attack, model, variables, batch)
    hit = one.predict(*ensemble, made)
    found[name] = robust_accuracy(label, right, hit)
  untouched = one.predict(*ensemble, one.start(batch))
  return {**found, 'untouched_accuracy': float(np.mean(untouched == label))}


def finite(values: dict[str, float]) -> dict[str, float | None]:
  """NaN, which JSON has not, as None."""
  return {k: None if math.isnan(v) else float(v) for k, v in values.items()}
