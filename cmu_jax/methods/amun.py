r"""AMUN: fine-tuning on near adversarial images of D_F, as theta_o has them.

  D_A     = {(x + delta, argmax f(x + delta; theta_o)) : (x, y) in D_F}
  theta_u = Finetune(theta_o, D_R + D_F + D_A)

D_A is correct for theta_o already: what training on it changes is little
elsewhere, while confidence falls near D_F, whose true labels contradict it.
Images of D_A are not augmented, as that would move them off the boundary; D_R
and D_F are. One epoch is a pass over the union, shuffled.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from cmu_jax.core import errors, rng
from cmu_jax.core.types import (
  Method,
  MethodInputs,
  Network,
  Samples,
  Training,
  Variables,
)
from cmu_jax.methods import finetuning, relabelling, union_training
from cmu_jax.robustness import adversarial_sets, attacks
from cmu_jax.robustness.attacks import split_attack

PARTS = ('retain', 'forget', 'adversarial')
ALL = PARTS
NO_FORGET = ('retain', 'adversarial')
ALONE = ('forget', 'adversarial')
ADVERSARIAL = ('adversarial',)


class Prepared(NamedTuple):
  """What all points of a grid share.

  Attributes:
    samples: what is trained on.
    mask: which weights move; None for all.
    facts: of D_A, see `adversarial_sets.summarize_pairs`.
    spent: gradients of single images, of the search and of the mask.
  """

  samples: Samples
  mask: PyTree | None
  facts: dict[str, jax.Array]
  spent: jax.Array


def _check(sets: tuple[str, ...], element: str) -> None:
  for name in sets:
    if name not in PARTS:
      raise errors.unknown_name('set of AMUN', name, PARTS)
  errors.check(
    'adversarial' in sets and len(set(sets)) == len(sets),
    f'sets {sets} of AMUN must have "adversarial", and each part once',
  )
  if element not in adversarial_sets.SET_NAMES:
    raise errors.unknown_name('set', element, adversarial_sets.SET_NAMES)


def _check_not_empty(samples: Samples) -> None:
  errors.check(
    np.asarray(samples.valid).any(),
    'no image of the set to be forgotten has an adversarial image, and '
    'there is nothing else to train on; add D_F or D_R, or attack further',
  )


def amun(
  network: Network,
  training: Training,
  *,
  sets: tuple[str, ...] = ALL,
  element: str = 'adv',
  attack: attacks.Attack | None = None,
  failures: str = 'drop',
  share: float | None = None,
  freeze_bn: bool = False,
  augment: bool = False,
  size: int = 256,
) -> Method:
  """Adversarial machine unlearning.

  What is prepared from other weights is a transferred D_A:
  `method.solve(key, theta_o, given, method.prepare(key, other, given), hyper)`.

  Args:
    network: the model and its input step.
    training: optimizer, steps and batch size.
    sets: what is trained on: ALL; NO_FORGET, better where D_F is half of the
      training set; without D_R, ALONE or ADVERSARIAL.
    element: what stands for D_A, see `adversarial_sets.elements`.
    attack: None for `attacks.minimal_pgd(0.04)`, the first radius for CIFAR-10.
    failures: of the attack, see `adversarial_sets.find_pairs`.
    share: of the weights that move, as in SalUn; None for all.
    freeze_bn: normalise by running statistics and leave them. Published
      networks train on the statistics of batches that mix clean and
      adversarial images.
    augment: whether images of D_A are augmented as well.
    size: images of the attack at once.

  Returns:
    The method; its info has `adversarial_sets.summarize_pairs` besides.

  Raises:
    UserError: unknown sets, and what `adversarial_sets.find_pairs` refuses.

  References:
    AMUN, arXiv 2503.00917, algorithm 1 and section 4; with SalUn, section 6.
  """
  _check(sets, element)
  needs = tuple(n for n in ('retain', 'forget') if n in sets or n == 'forget')
  project = None if share is None else relabelling.apply_mask
  recipe = union_training.union_recipe(
    network, training, freeze_bn=freeze_bn, project=project
  )

  def prepare(key, variables: Variables, given: MethodInputs) -> Prepared:
    forget = given.forget
    assert forget is not None
    found = adversarial_sets.find_pairs(
      key, network, variables, forget,
      attack=attack, failures=failures, size=size,
    )  # fmt: skip
    classes = split_attack.count_classes(network, variables, forget.batch)
    named = rng.fold_in(key, 'element')
    made = adversarial_sets.build_set(named, found, element, classes, augment)
    parts: dict[str, Any] = {**given._asdict(), 'adversarial': made}
    samples = union_training.join(
      [parts[name] for name in PARTS if name in sets]
    )
    _check_not_empty(samples)
    mask = None
    if share is not None:
      mask = relabelling.mask_program(network, share)(variables, forget)
    return Prepared(
      samples,
      mask,
      jax.tree.map(jnp.float32, adversarial_sets.summarize_pairs(found)),
      found.gradients + (0 if mask is None else forget.valid.sum()),
    )

  def start(key, variables, given, prepared: Prepared) -> finetuning.Start:
    del key, given
    samples, mask, _, spent = prepared
    return union_training.start_training(
      variables, samples, training.steps, mask, int(spent)
    )

  plain = finetuning.method(
    recipe, training.steps, 'AMUN', needs=needs, prepare=prepare, start=start
  )
  return plain._replace(solve=_with_facts(plain.solve))


def _with_facts(solve: Callable) -> Callable:
  """`solve`, whose info has the facts of D_A."""

  def run(key, variables, given, prepared: Prepared, hyper, **options):
    found, info = solve(key, variables, given, prepared, hyper, **options)
    return found, {**info, **{k: float(v) for k, v in prepared.facts.items()}}

  return run


def amun_forget(network: Network, training: Training, **options: Any) -> Method:
  """AMUN for whoever has D_F alone: D_F + D_A, see `amun`.

  Args:
    network: the model and its input step.
    training: optimizer, steps and batch size.
    **options: other options of `amun`.
  """
  return amun(network, training, **{'sets': ALONE, **options})
