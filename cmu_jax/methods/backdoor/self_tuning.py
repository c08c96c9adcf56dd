r"""Backdoors forgotten by training on ordinary pictures, without a trigger.

The labels are the network's own predictions, or true ones if they are given.
W is the matrix of the head and W_0 the matrix before:

  own_labels   CE
  d3           10 max(0, CE - .1) - |W - W_0|, with |W| <= |W_0|
  fst          CE + s <W, W_0> / |W_0|^2, W drawn anew, with |W| = |W_0|

Ordinary pictures hold what the network should know; nothing on them asks for
the trigger. A method only differs in how far it leaves the old weights.

References:
  D3: Divergence Driven Defence, arXiv 2411.09585.
  FST: Towards Stable Backdoor Purification through Feature Shift Tuning, arXiv
  2310.01875.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from cmu_jax.core import rng
from cmu_jax.core.types import (
  Method,
  Model,
  Network,
  PRNGKey,
  Samples,
  Training,
  Variables,
)
from cmu_jax.methods import finetuning, objectives
from cmu_jax.methods.unlabelled import information_maximization
from cmu_jax.training import descent, metrics

# (CE of the batch, variables, context) -> the loss.
Penalty = Callable[[jax.Array, Variables, Any], jax.Array]
# (key, context) -> the variables at the start.
Begin = Callable[[PRNGKey, Any], Variables]
# Below this share of |W_0| a distance has no direction.
_NUDGE = 1e-3
# Of FST, see `fst_penalty`.
STRENGTH = 0.5


class Context(NamedTuple):
  """Arrays of the objectives.

  Attributes:
    head: marks the matrices of the head; a tree like the parameters.
    original: the network before.
  """

  head: PyTree
  original: Variables


class Form(NamedTuple):
  """A method, as functions.

  Attributes:
    title: of the progress bar.
    objective: of a `descent.Phase` on the stream 'ordinary'.
    begin: see `Begin`; None to start at the network before.
    constrain: see `descent.Recipe`.
  """

  title: str
  objective: objectives.Objective
  begin: Begin | None = None
  constrain: Callable[[PyTree, Any], PyTree] | None = None


def mark_head(
  network: Network, variables: Variables, samples: Samples
) -> PyTree:
  """Marks the matrices of the head, by any names of parameters."""
  # Biases have no direction that a trigger could use alone.
  features = information_maximization.mask_features(network, variables, samples)
  return jax.tree.map(lambda mask: ~mask & (mask.ndim >= 2), features)


def head_norm(params: PyTree, head: PyTree) -> Float[Array, '']:
  """|W|, the Frobenius norm of the head."""
  return jnp.sqrt(head_product(params, params, head))


def head_product(a: PyTree, b: PyTree, head: PyTree) -> Float[Array, '']:
  """<W_a, W_b>, summed over the head."""
  # The mask is 0 elsewhere: a sum over all leaves has no branches.
  parts = jax.tree.map(lambda x, y, mask: jnp.sum(x * y * mask), a, b, head)
  return jax.tree.reduce(jnp.add, parts)


def _scale_head(params: PyTree, head: PyTree, factor: jax.Array) -> PyTree:
  return jax.tree.map(
    lambda x, mask: jnp.where(mask, factor.astype(x.dtype) * x, x), params, head
  )


def cap_norm(params: PyTree, context: Context) -> PyTree:
  """Projects W onto |W| <= |W_0|."""
  limit = head_norm(context.original.params, context.head)
  norm = head_norm(params, context.head)
  return _scale_head(params, context.head, jnp.minimum(1, limit / norm))


def keep_norm(params: PyTree, context: Context) -> PyTree:
  """Projects W onto |W| = |W_0|."""
  limit = head_norm(context.original.params, context.head)
  norm = head_norm(params, context.head)
  return _scale_head(params, context.head, limit / norm)


def nudge_head(key: PRNGKey, context: Context) -> Variables:
  """The network before with a head that is off by |W_0| / 1000.

  |W - W_0| has no gradient at W_0.
  """
  params = context.original.params
  # So short that no prediction changes, and long enough for float32.
  noise = _draw_head(key, params, context.head)
  scale = _NUDGE * head_norm(params, context.head)
  moved = jax.tree.map(lambda x, e: x + scale * e, params, noise)
  return Variables(cap_norm(moved, context), context.original.batch_stats)


def redraw_head(key: PRNGKey, context: Context) -> Variables:
  """The network before with a head of random direction and the same norm."""
  params = context.original.params
  noise = _draw_head(key, params, context.head)
  drawn = jax.tree.map(
    lambda x, e, mask: jnp.where(mask, e.astype(x.dtype), x),
    params,
    noise,
    context.head,
  )
  return Variables(keep_norm(drawn, context), context.original.batch_stats)


def _draw_head(key: PRNGKey, params: PyTree, head: PyTree) -> PyTree:
  """Noise of norm 1 on the head, and 0 elsewhere."""
  # A key a leaf: leaves of one shape must not get the same numbers.
  leaves, treedef = jax.tree.flatten(params)
  keys = jax.random.split(key, len(leaves))
  drawn = jax.tree.unflatten(
    treedef,
    [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)],
  )
  masked = jax.tree.map(lambda e, mask: e * mask, drawn, head)
  norm = head_norm(masked, head)
  return jax.tree.map(lambda e: e / norm, masked)


def penalize_weights(model: Model, penalty: Penalty) -> objectives.Objective:
  """An objective of the cross-entropy and of the weights."""

  def objective(variables, draws, context, hyper, time):
    del hyper, time
    draw = draws['ordinary']
    # Training mode: statistics of triggered images are forgotten as well.
    logits, stats = model.update(variables, draw.image)
    loss = metrics.cross_entropy(logits, draw.label).mean()
    return penalty(loss, variables, context), stats

  return objective


def d3_penalty(
  loss: jax.Array,
  variables: Variables,
  context: Context,
  weight: float = 10.0,
  margin: float = 0.1,
) -> Float[Array, '']:
  """weight max(0, CE - margin) - |W - W_0|."""
  difference = jax.tree.map(
    jnp.subtract, variables.params, context.original.params
  )
  # Rounding may bring W back to W_0, where the norm has no gradient.
  square = head_product(difference, difference, context.head)
  distance = jnp.sqrt(jnp.maximum(square, 1e-12))
  return weight * jnp.maximum(0.0, loss - margin) - distance


def fst_penalty(
  loss: jax.Array,
  variables: Variables,
  context: Context,
  strength: float = STRENGTH,
) -> Float[Array, '']:
  """CE + strength <W, W_0> / |W_0|^2.

  The paper has a weight alpha = strength / |W_0|^2. |W_0| was 14 on a ResNet-20
  and differs between networks, which asks for another alpha on each.
  """
  head, original = context.head, context.original.params
  square = head_product(original, original, head)
  return (
    loss + strength * head_product(variables.params, original, head) / square
  )


# One object a network and form, so that compilations are shared.
@functools.lru_cache(maxsize=32)
def make_form(name: str, model: Model, **options: Any) -> Form:
  """The functions of a method.

  Args:
    name: in FORMS.
    model: the network, updated in training mode.
    **options: numbers of its penalty.
  """
  if name == 'd3':
    penalty = functools.partial(d3_penalty, **options)
    return Form('D3', penalize_weights(model, penalty), nudge_head, cap_norm)
  if name == 'fst':
    penalty = functools.partial(fst_penalty, **options)
    return Form('FST', penalize_weights(model, penalty), redraw_head, keep_norm)
  plain = penalize_weights(model, lambda loss, variables, context: loss)
  return Form('tuning on own labels', plain)


FORMS = ('own_labels', 'd3', 'fst')


def self_tuning(
  network: Network,
  training: Training,
  *,
  form: str = 'own_labels',
  labelled: bool = False,
  **options: float,
) -> Method:
  """Trains on ordinary pictures under the network's own labels.

  Args:
    network: the model and its input step.
    training: optimizer, steps and batch size.
    form: a name in FORMS.
    labelled: reads true labels, those of the clean proxy.
    **options: numbers of the form.
  """
  chosen = make_form(form, network.model, **options)
  phase = descent.Phase(chosen.objective, (('ordinary', training.batch_size),))
  recipe = descent.Recipe(
    (phase,), training.optimizer, network.inputs, constrain=chosen.constrain
  )

  def samples_of(data) -> Samples:
    if labelled:
      return descent.whole_batch(data.clean_proxy)
    return data.ordinary

  def prepare(key, variables: Variables, data) -> Context:
    del key
    return Context(mark_head(network, variables, samples_of(data)), variables)

  def start(key, variables: Variables, data, prepared) -> descent.Start:
    del key
    samples = samples_of(data)
    if not labelled:
      # Of the network before: labels that follow the run could drift.
      label = jnp.asarray(
        metrics.predict(network, variables, samples.batch, 256), jnp.int32
      )
      samples = samples._replace(batch=samples.batch._replace(label=label))
    if chosen.begin is not None:
      # The same head in every run: evidence from halves is of the same repair.
      variables = chosen.begin(rng.fold_in(0, 'head'), prepared)
    return descent.Start(
      variables, {'ordinary': samples}, training.steps, prepared
    )

  needs = ('clean_proxy',) if labelled else ('ordinary',)
  return finetuning.method(
    recipe,
    training.steps,
    chosen.title,
    needs=needs,
    prepare=prepare,
    start=start,
  )
