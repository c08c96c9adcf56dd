r"""Boundary shrink: D_F under the classes that one step of FGSM leads to.

  y'      = argmax f(x + eps sign(d CE / dx); theta_o)
  theta_u = Finetune(theta_o, D_R + {(x, y')})

The images stay where they are: the region of y shrinks away from them.
"""

from typing import Any

import optax

from cmu_jax.core.types import (
  Given,
  InputStep,
  Method,
  Model,
  Samples,
  Variables,
)
from cmu_jax.methods import finetuning, union
from cmu_jax.robustness import adversarial_sets, attacks


def boundary_shrink(
  model: Model,
  inputs: InputStep,
  *,
  optimizer: optax.GradientTransformation,
  steps: int,
  batch_size: int,
  radius: float = 0.1,
  retain: bool = True,
  size: int = 256,
) -> Method:
  """Overwrites D_F with its nearest classes, as FGSM sees them.

  Args:
    model: the network.
    inputs: raw pixels to network input; paints the triggers of S_tr.
    optimizer: of the fine-tuning, schedule included.
    steps: of the fine-tuning.
    batch_size: of the union.
    radius: eps, of pixels in [0, 1].
    retain: whether D_R is trained on; False for D_F alone.
    size: images of the attack at once.

  Raises:
    UserError: a radius that is not above 0, and what `adversarial_sets.pairs`
      refuses.

  References:
    Boundary Unlearning, arXiv 2303.11570, section 4.1; with D_R and a radius
    of 0.1 as the baseline of AMUN, arXiv 2503.00917.
  """
  attack = attacks.fgsm(radius)
  recipe = union.recipe(model, inputs, optimizer, batch_size)

  def prepare(key, variables: Variables, given: Given) -> tuple:
    forget = given.forget
    assert forget is not None
    found = adversarial_sets.pairs(
      key, model, inputs, variables, forget, attack=attack, size=size
    )
    # Also the images that FGSM does not flip: they are taught their own class.
    label = found.label.astype(found.clean.label.dtype)
    shrunk = Samples(
      found.clean._replace(label=label),
      forget.identified,
      found.flags['valid'],
    )
    whole: Any = union.joined([given.retain, shrunk]) if retain else shrunk
    return whole, found.flags['valid'].sum()

  def start(key, variables, given, prepared) -> finetuning.Start:
    del key, given
    samples, spent = prepared
    return union.begin(variables, samples, steps, spent=int(spent))

  return finetuning.fine_tuning(
    recipe,
    steps,
    'boundary shrink',
    needs=('retain', 'forget') if retain else ('forget',),
    prepare=prepare,
    start=start,
  )
