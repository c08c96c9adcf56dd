r"""Random labels as AMUN compares with them: drawn anew at every access.

  theta_u = argmin over theta from theta_o of CE(D_R + {(x, y') : x in D_F}),
  y' ~ uniform on the classes other than y, whenever x is seen

One epoch is a pass over the union, so that D_F has the share of a batch that it
has of the data; `random_label` sees as much of it as of D_R, under labels that
stay. SalUn is the same in the weights that D_F depends on.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Key, PyTree

from cmu_jax.core import rng
from cmu_jax.core.types import (
  Given,
  InputStep,
  Method,
  Model,
  Samples,
  Variables,
)
from cmu_jax.methods import finetuning, relabelling, salun, union
from cmu_jax.training import descent, losses


class _Context(NamedTuple):
  """What the objective needs: the key of labels, and a mask or None."""

  key: Key[Array, '']
  mask: PyTree | None


def _masked(tree: PyTree, context: _Context) -> PyTree:
  return salun.masked(tree, context.mask)


def _recipe(
  model: Model,
  inputs: InputStep,
  optimizer: optax.GradientTransformation,
  batch_size: int,
  steps: int,
  mask: bool,
) -> descent.Recipe:
  """Cross-entropy on the union; labels of D_F are drawn in the step."""

  def objective(variables, draws, context, hyper, time):
    del hyper
    draw = draws['union']
    logits, stats = model.update(variables, draw.image)
    step = jnp.round(time * steps).astype(jnp.int32)
    other = relabelling.wrong(
      jax.random.fold_in(context.key, step), draw.label, logits.shape[-1]
    )
    label = jnp.where(draw.identified, other, draw.label)
    return losses.cross_entropy(logits, label).mean(), stats

  phase = descent.Phase(objective, (('union', batch_size),))
  return descent.Recipe((phase,), optimizer, inputs, _masked if mask else None)


def redrawn_label(
  model: Model,
  inputs: InputStep,
  *,
  optimizer: optax.GradientTransformation,
  steps: int,
  batch_size: int,
  share: float | None = None,
  retain: bool = True,
) -> Method:
  """Overwrites what was learned of D_F with noise, other noise each epoch.

  Args:
    model: the network.
    inputs: raw pixels to network input; paints the triggers of S_tr.
    optimizer: of the fine-tuning, schedule included.
    steps: of the fine-tuning.
    batch_size: of the union.
    share: of the weights that move, as in SalUn; None for all.
    retain: whether D_R is trained on; False for D_F alone.

  References:
    RL and SalUn in AMUN, arXiv 2503.00917, section 5 and its code.
  """
  recipe = _recipe(
    model, inputs, optimizer, batch_size, steps, share is not None
  )

  def prepare(key, variables: Variables, given: Given) -> Any:
    del key
    assert given.forget is not None
    parts: list[Any] = [given.retain] if retain else []
    known = jnp.ones_like(given.forget.identified)
    whole: Samples = union.joined(
      [*parts, given.forget._replace(identified=known)]
    )
    if share is None:
      return whole, None
    mask = salun.mask_of(model, inputs, share)(variables, given.forget)
    return whole, mask

  def start(key, variables, given, prepared) -> finetuning.Start:
    whole, mask = prepared
    spent = 0 if mask is None else int(np.asarray(given.forget.valid).sum())
    context = _Context(rng.named(key, 'labels'), mask)
    return union.begin(variables, whole, steps, context, spent)

  return finetuning.fine_tuning(
    recipe,
    steps,
    'random labels, drawn anew',
    needs=('retain', 'forget') if retain else ('forget',),
    prepare=prepare,
    start=start,
  )
