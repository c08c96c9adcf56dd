r"""Fine-tuning on the union of D_R and a changed D_F, shuffled together.

One epoch is a pass over the union, so that D_F has the share of a batch that it
has of the data.

  redrawn_label    theta_u = argmin over theta from theta_o of
                   CE(D_R + {(x, y') : x in D_F}), with y' ~ uniform on the
                   classes other than y, drawn whenever x is seen
  boundary_shrink  y' = argmax f(x + eps sign(d CE / dx); theta_o)
                   theta_u = Finetune(theta_o, D_R + {(x, y')})
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from cmu_jax.core import rng
from cmu_jax.core.types import Method, Network, Samples, Training, Variables
from cmu_jax.methods import finetuning, objectives, relabelling
from cmu_jax.robustness import adversarial_sets, attacks
from cmu_jax.training import descent, metrics

_STREAM = 'union'
_NEEDS = {True: ('retain', 'forget'), False: ('forget',)}


def union_recipe(
  network: Network,
  training: Training,
  *,
  freeze_bn: bool = False,
  project: Callable[[PyTree, Any], PyTree] | None = None,
) -> descent.Recipe:
  """Cross-entropy on the union.

  Args:
    network: the model, updated in training mode, and its input step.
    training: the batch size is of the union.
    freeze_bn: normalises by the running statistics, and leaves them.
    project: see `descent.Recipe`.
  """
  model = network.model
  if freeze_bn:
    model = finetuning.freeze_statistics(model)
  phase = objectives.training_phase(model, _STREAM, training.batch_size)
  return descent.Recipe((phase,), training.optimizer, network.inputs, project)


def join(parts: Sequence[Any]) -> Samples:
  """Joins all parts to one set."""
  union = parts[0]
  for samples in parts[1:]:
    union = descent.join_samples(union, samples)
  return union


def start_training(
  variables: Variables,
  samples: Samples,
  steps: int,
  context: Any = None,
  spent: int = 0,
) -> descent.Start:
  """Starts on the union, see `descent.Start`."""
  return descent.Start(variables, {_STREAM: samples}, steps, context, spent)


class _RedrawContext(NamedTuple):
  """The key of the labels, and a mask or None."""

  key: Key[Array, '']
  mask: PyTree | None


def _mask_gradient(tree: PyTree, context: _RedrawContext) -> PyTree:
  return relabelling.apply_mask(tree, context.mask)


def _redrawn_recipe(
  network: Network, training: Training, mask: bool
) -> descent.Recipe:
  """Cross-entropy on the union; labels of D_F are drawn in the step."""

  # Labels come from the step and not from the data, which lie on the device and
  # do not change during a training.
  def objective(variables, draws, context, hyper, time):
    del hyper
    draw = draws[_STREAM]
    logits, stats = network.model.update(variables, draw.image)
    # An objective knows the time, from 0 to 1, and not the step.
    step = jnp.round(time * training.steps).astype(jnp.int32)
    wrong_label = relabelling.draw_wrong_labels(
      jax.random.fold_in(context.key, step), draw.label, logits.shape[-1]
    )
    label = jnp.where(draw.identified, wrong_label, draw.label)
    return metrics.cross_entropy(logits, label).mean(), stats

  phase = descent.Phase(objective, ((_STREAM, training.batch_size),))
  project = _mask_gradient if mask else None
  return descent.Recipe((phase,), training.optimizer, network.inputs, project)


@finetuning.check_settings
def redrawn_label(
  network: Network,
  training: Training,
  *,
  share: float | None = None,
  retain: bool = True,
) -> Method:
  """Trains D_F under random labels, other labels at every access.

  `relabelling.random_label` sees as much of D_F as of D_R, under labels that
  stay.

  Args:
    training: of the fine-tuning; the batch size is of the union.
    share: of the weights that move, as in SalUn; None for all.
    retain: False trains on D_F alone.

  References:
    RL and SalUn in AMUN, arXiv 2503.00917, section 5 and its code.
  """

  def prepare(key, variables: Variables, data) -> Any:
    del key
    # The objective redraws the labels of identified rows.
    identified = jnp.ones_like(data.forget.identified)
    forget: Samples = data.forget._replace(identified=identified)
    union = join([data.retain, forget]) if retain else forget
    if share is None:
      return union, None
    return union, relabelling.mask_program(network, share)(
      variables, data.forget
    )

  def start(key, variables, data, prepared) -> descent.Start:
    union, mask = prepared
    spent = 0 if mask is None else int(data.forget.valid.sum())
    context = _RedrawContext(rng.fold_in(key, 'labels'), mask)
    return start_training(variables, union, training.steps, context, spent)

  return finetuning.method(
    _redrawn_recipe(network, training, share is not None),
    training.steps,
    'random labels, drawn anew',
    needs=_NEEDS[retain],
    prepare=prepare,
    start=start,
  )


@finetuning.check_settings
def boundary_shrink(
  network: Network,
  training: Training,
  *,
  radius: float = 0.1,
  retain: bool = True,
) -> Method:
  """Trains D_F under its nearest classes, as FGSM finds them.

  Args:
    training: of the fine-tuning; the batch size is of the union.
    radius: eps, of pixels in [0, 1].
    retain: False trains on D_F alone.

  Raises:
    UserError: a radius that is not above 0, and what
      `adversarial_sets.find_pairs` refuses.

  References:
    Boundary Unlearning, arXiv 2303.11570, section 4.1; with D_R and a radius
    of 0.1 as the baseline of AMUN, arXiv 2503.00917.
  """
  # A single step of the attack: its class is the nearest in the direction of
  # the gradient, whether or not the image is flipped.
  attack = attacks.fgsm(radius)

  def prepare(key, variables: Variables, data) -> tuple:
    forget = data.forget
    pairs = adversarial_sets.find_pairs(
      key, network, variables, forget, attack=attack
    )
    # Images that FGSM does not flip stay in: they keep their own class. The
    # images do not move, so that the region of y shrinks away from them.
    label = pairs.label.astype(pairs.clean.label.dtype)
    valid = pairs.flags['valid']
    shrunk = Samples(
      pairs.clean._replace(label=label), forget.identified, valid
    )
    union: Any = join([data.retain, shrunk]) if retain else shrunk
    return union, valid.sum()

  def start(key, variables, data, prepared) -> descent.Start:
    del key, data
    union, spent = prepared
    return start_training(variables, union, training.steps, spent=int(spent))

  return finetuning.method(
    union_recipe(network, training),
    training.steps,
    'boundary shrink',
    needs=_NEEDS[retain],
    prepare=prepare,
    start=start,
  )
