"""What methods share that fine-tune on one set: parts joined, then shuffled.

Random labels as AMUN compares with them: drawn anew at every access.

  theta_u = argmin over theta from theta_o of CE(D_R + {(x, y') : x in D_F}),
  y' ~ uniform on the classes other than y, whenever x is seen

One epoch is a pass over the union, so that D_F has the share of a batch that it
has of the data; `random_label` sees as much of it as of D_R, under labels that
stay. SalUn is the same in the weights that D_F depends on.

Boundary shrink: D_F under the classes that one step of FGSM leads to.

  y'      = argmax f(x + eps sign(d CE / dx); theta_o)
  theta_u = Finetune(theta_o, D_R + {(x, y')})

The images stay where they are: the region of y shrinks away from them.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PyTree

from cmu_jax.core import rng
from cmu_jax.core.types import (
  Method,
  MethodInputs,
  Model,
  Network,
  Samples,
  Training,
  Variables,
)
from cmu_jax.methods import finetuning, objectives, relabelling
from cmu_jax.robustness import adversarial_sets, attacks
from cmu_jax.training import descent, metrics

_STREAM = 'union'


def freeze_statistics(model: Model) -> Model:
  """The network whose BatchNorm keeps its running statistics in training."""

  def update(variables: Variables, image: jax.Array):
    return model.apply(variables, image), variables.batch_stats

  return model._replace(update=update)


def union_recipe(
  network: Network,
  training: Training,
  *,
  freeze_bn: bool = False,
  project: Callable[[PyTree, Any], PyTree] | None = None,
) -> descent.Recipe:
  """Cross-entropy on one stream.

  Args:
    network: the model and its input step.
    training: optimizer, steps and batch size.
    freeze_bn: normalise by the running statistics, and leave them.
    project: see `descent.Recipe`.
  """
  trained = freeze_statistics(network.model) if freeze_bn else network.model
  objective = objectives.cross_entropy(trained, _STREAM)
  phase = descent.Phase(objective, ((_STREAM, training.batch_size),))
  return descent.Recipe((phase,), training.optimizer, network.inputs, project)


def join(parts: Sequence[Any]) -> Samples:
  """All parts as one set."""
  whole = parts[0]
  for part in parts[1:]:
    whole = descent.join_samples(whole, part)
  return whole


def start_training(
  variables: Variables,
  samples: Samples,
  steps: int,
  context: Any = None,
  spent: int = 0,
) -> finetuning.Start:
  """From these weights on this set, see `finetuning.Start`."""
  return finetuning.Start(variables, {_STREAM: samples}, steps, context, spent)


class _RedrawContext(NamedTuple):
  """What the objective needs: the key of labels, and a mask or None."""

  key: Key[Array, '']
  mask: PyTree | None


def _mask_gradient(tree: PyTree, context: _RedrawContext) -> PyTree:
  return relabelling.apply_mask(tree, context.mask)


def _redrawn_recipe(
  network: Network, training: Training, mask: bool
) -> descent.Recipe:
  """Cross-entropy on the union; labels of D_F are drawn in the step."""

  def objective(variables, draws, context, hyper, time):
    del hyper
    draw = draws['union']
    logits, stats = network.model.update(variables, draw.image)
    step = jnp.round(time * training.steps).astype(jnp.int32)
    other = relabelling.draw_wrong_labels(
      jax.random.fold_in(context.key, step), draw.label, logits.shape[-1]
    )
    label = jnp.where(draw.identified, other, draw.label)
    return metrics.cross_entropy(logits, label).mean(), stats

  phase = descent.Phase(objective, (('union', training.batch_size),))
  return descent.Recipe(
    (phase,),
    training.optimizer,
    network.inputs,
    _mask_gradient if mask else None,
  )


def redrawn_label(
  network: Network,
  training: Training,
  *,
  share: float | None = None,
  retain: bool = True,
) -> Method:
  """Overwrites what was learned of D_F with noise, other noise each epoch.

  Args:
    network: the model and its input step.
    training: optimizer, steps and batch size.
    share: of the weights that move, as in SalUn; None for all.
    retain: whether D_R is trained on; False for D_F alone.

  References:
    RL and SalUn in AMUN, arXiv 2503.00917, section 5 and its code.
  """
  recipe = _redrawn_recipe(network, training, share is not None)

  def prepare(key, variables: Variables, given: MethodInputs) -> Any:
    del key
    assert given.forget is not None
    parts: list[Any] = [given.retain] if retain else []
    known = jnp.ones_like(given.forget.identified)
    whole: Samples = join([*parts, given.forget._replace(identified=known)])
    if share is None:
      return whole, None
    mask = relabelling.mask_program(network, share)(variables, given.forget)
    return whole, mask

  def start(key, variables, given, prepared) -> finetuning.Start:
    whole, mask = prepared
    spent = 0 if mask is None else int(np.asarray(given.forget.valid).sum())
    context = _RedrawContext(rng.fold_in(key, 'labels'), mask)
    return start_training(variables, whole, training.steps, context, spent)

  return finetuning.method(
    recipe,
    training.steps,
    'random labels, drawn anew',
    needs=('retain', 'forget') if retain else ('forget',),
    prepare=prepare,
    start=start,
  )


def boundary_shrink(
  network: Network,
  training: Training,
  *,
  radius: float = 0.1,
  retain: bool = True,
  size: int = 256,
) -> Method:
  """Overwrites D_F with its nearest classes, as FGSM sees them.

  Args:
    network: the model and its input step.
    training: optimizer, steps and batch size.
    radius: eps, of pixels in [0, 1].
    retain: whether D_R is trained on; False for D_F alone.
    size: images of the attack at once.

  Raises:
    UserError: a radius that is not above 0, and what
      `adversarial_sets.find_pairs` refuses.

  References:
    Boundary Unlearning, arXiv 2303.11570, section 4.1; with D_R and a radius
    of 0.1 as the baseline of AMUN, arXiv 2503.00917.
  """
  attack = attacks.fgsm(radius)
  recipe = union_recipe(network, training)

  def prepare(key, variables: Variables, given: MethodInputs) -> tuple:
    forget = given.forget
    assert forget is not None
    found = adversarial_sets.find_pairs(
      key, network, variables, forget, attack=attack, size=size
    )
    # Also the images that FGSM does not flip: they are taught their own class.
    label = found.label.astype(found.clean.label.dtype)
    shrunk = Samples(
      found.clean._replace(label=label),
      forget.identified,
      found.flags['valid'],
    )
    whole: Any = join([given.retain, shrunk]) if retain else shrunk
    return whole, found.flags['valid'].sum()

  def start(key, variables, given, prepared) -> finetuning.Start:
    del key, given
    samples, spent = prepared
    return start_training(variables, samples, training.steps, spent=int(spent))

  return finetuning.method(
    recipe,
    training.steps,
    'boundary shrink',
    needs=('retain', 'forget') if retain else ('forget',),
    prepare=prepare,
    start=start,
  )
