r"""AMUN: fine-tuning on near adversarial images of D_F, as theta_o has them.

  D_A     = {(x + delta, argmax f(x + delta; theta_o)) : (x, y) in D_F}
  theta_u = Finetune(theta_o, D_R + D_F + D_A)

theta_o answers D_A correctly: training on it changes little elsewhere, while
confidence falls near D_F, whose true labels contradict it. One epoch is a pass
over the union, shuffled.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from cmu_jax.core import array_checks, errors, rng
from cmu_jax.core.types import Method, Network, Samples, Training, Variables
from cmu_jax.methods import finetuning, relabelling, union_training
from cmu_jax.robustness import adversarial_sets, attacks
from cmu_jax.training import descent, metrics

ALL = ('retain', 'forget', 'adversarial')
NO_FORGET = ('retain', 'adversarial')
ALONE = ('forget', 'adversarial')
ADVERSARIAL = ('adversarial',)


class Prepared(NamedTuple):
  """The union and the mask that all points of a grid share.

  Attributes:
    samples: the union.
    mask: of the weights that move; None for all.
    facts: of D_A, see `adversarial_sets.summarize_pairs`.
    spent: gradients of single images, of the search and of the mask.
  """

  samples: Samples
  mask: PyTree | None
  facts: dict[str, jax.Array]
  spent: jax.Array


def _check(sets: tuple[str, ...], element: str) -> None:
  for name in sets:
    if name not in ALL:
      raise errors.unknown_name('set of AMUN', name, ALL)
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


@finetuning.check_settings
def amun(
  network: Network,
  training: Training,
  *,
  sets: tuple[str, ...] = ALL,
  element: str = 'adv',
  attack: attacks.Attack | None = None,
  share: float | None = None,
  freeze_bn: bool = False,
  augment: bool = False,
) -> Method:
  """Adversarial machine unlearning.

  Args:
    network: the model and its input step; paints the triggers of S_tr.
    training: of the fine-tuning; the batch size is of the union. Published: 10
      epochs of batches of 128; SGD of momentum 0.9 and decay 5e-4, its rate
      tuned from 1e-6 to 1e-1 and divided by 10 after every epoch, or fifth.
    sets: of the union: ALL; NO_FORGET, better if D_F is half of the training
      set; without D_R, ALONE or ADVERSARIAL.
    element: D_A or a control in its place, see `adversarial_sets.build_set`.
    attack: finds D_A; None for `attacks.minimal_pgd(0.04)`, the first radius on
      CIFAR-10.
    share: of the weights that move, as in SalUn; None for all.
    freeze_bn: normalises by running statistics and leaves them. Published
      networks train on the statistics of batches that mix clean and
      adversarial images.
    augment: augments images of D_A as well.

  Returns:
    The method; its info has `adversarial_sets.summarize_pairs` besides.

  Raises:
    UserError: unknown sets, and what `adversarial_sets.find_pairs` refuses.

  References:
    AMUN, arXiv 2503.00917, algorithm 1 and section 4; with SalUn, section 6.
  """
  _check(sets, element)
  if attack is not None:
    array_checks.check_callable(
      'attack', attack, 'an attack, such as attacks.minimal_pgd(0.04)'
    )
  needs = tuple(n for n in ('retain', 'forget') if n in sets or n == 'forget')
  project = None if share is None else relabelling.apply_mask
  recipe = union_training.union_recipe(
    network, training, freeze_bn=freeze_bn, project=project
  )

  # Other weights than theta_o here give a transferred D_A.
  def prepare(key, variables: Variables, data) -> Prepared:
    forget = data.forget
    pairs = adversarial_sets.find_pairs(
      key, network, variables, forget, attack=attack
    )
    classes = metrics.count_classes(network, variables, forget.batch.image)
    # Augmentation would move images of D_A off the boundary: by default they
    # are marked, and D_R and D_F alone are augmented.
    adversarial = adversarial_sets.build_set(
      rng.fold_in(key, 'element'), pairs, element, classes, augment
    )
    parts: dict[str, Any] = {**data._asdict(), 'adversarial': adversarial}
    samples = union_training.join([parts[name] for name in ALL if name in sets])
    _check_not_empty(samples)
    mask = None
    if share is not None:
      mask = relabelling.mask_program(network, share)(variables, forget)
    return Prepared(
      samples,
      mask,
      jax.tree.map(jnp.float32, adversarial_sets.summarize_pairs(pairs)),
      pairs.gradients + (0 if mask is None else forget.valid.sum()),
    )

  def start(key, variables, data, prepared: Prepared) -> descent.Start:
    del key, data
    spent = int(prepared.spent)
    return union_training.start_training(
      variables, prepared.samples, training.steps, prepared.mask, spent
    )

  # D_A is made once from theta_o, so that all learning rates compare the same
  # set.
  method = finetuning.method(
    recipe, training.steps, 'AMUN', needs=needs, prepare=prepare, start=start
  )
  return method._replace(solve=_add_facts(method.solve))


def _add_facts(solve: Callable) -> Callable:
  """Adds the facts of D_A to the info of `solve`."""

  def run(key, variables, data, prepared: Prepared, hyper, **options):
    result, info = solve(key, variables, data, prepared, hyper, **options)
    return result, {**info, **{k: float(v) for k, v in prepared.facts.items()}}

  return run
