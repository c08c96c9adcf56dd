r"""TRW: forgetting a class towards what retraining without it would answer.

For the class f to be forgotten, with z the logits of theta_o and s_k the
similarity of class k to f,

  q*_k(x) = softmax over k != f of (z_k(x) + beta s_k),   q*_f = 0
  theta_u = argmin over theta from theta_o of CE(R) + E_f CE(q*(x), p(x; theta))

q* is the distribution nearest (in KL) to theta_o's own, renormalised without
f, among those of its mean similarity: retrained networks give pictures of f to
the classes that look like it. beta = 0 only renormalises (RWFT).
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from cmu_jax import descent
from cmu_jax.methods import finetuning, objectives
from cmu_jax.types import Given, InputStep, Method, Model, Samples, Variables

BETAS, DIMENSIONS = (10.0, 0.0, 1.0, 3.0, 30.0), (8,)
_TEMPERATURE = 0.1


def coordinates(
  rows: Float[Array, 'k h'], centre: bool = True
) -> Float[Array, 'k r']:
  """The classes' rows of the last layer in their principal axes.

  Args:
    rows: one row a class.
    centre: whether the mean row is taken off first.
  """
  placed = rows - rows.mean(0, keepdims=True) if centre else rows
  left, size, _ = jnp.linalg.svd(placed, full_matrices=False)
  return left * size[None, :]


def similarity(
  places: Float[Array, 'k r'],
  forget: Int[Array, ''] | int,
  dimension: Any,
  temperature: float = _TEMPERATURE,
) -> Float[Array, 'k']:
  """How like the class to be forgotten the others are; sums to 1, 0 at f.

  Args:
    places: of `coordinates`.
    forget: f.
    dimension: how many principal axes count; may be traced.
    temperature: of the softmax over cosines.
  """
  kept = jnp.where(jnp.arange(places.shape[1])[None, :] < dimension, places, 0)
  size = jnp.sqrt(jnp.sum(kept**2, axis=1, keepdims=True))
  unit = kept / jnp.maximum(size, 1e-12)
  cosine = unit @ unit[forget]
  other = jnp.arange(places.shape[0]) != forget
  return jax.nn.softmax(jnp.where(other, cosine / temperature, -jnp.inf))


def tilted(
  logits: Float[Array, 'n k'],
  forget: Int[Array, ''] | int,
  similar: Float[Array, 'k'],
  beta: Any,
) -> Float[Array, 'n k']:
  """q*: the answers of theta_o without f, tilted towards classes like it.

  The logit of f is never exponentiated: on pictures of f its probability is
  nearly 1, and dividing by what is left would be 0 / 0 in float32.

  Args:
    logits: of theta_o.
    forget: f.
    similar: of `similarity`; adding a constant changes nothing.
    beta: strength of the tilt; may be traced.

  References:
    On the Necessity of Output Distribution Reweighting for Effective Class
    Unlearning, arXiv 2506.20893.
  """
  other = jnp.arange(logits.shape[-1]) != forget
  wide = logits.astype(jnp.float32) + (beta * similar)[None, :]
  return jax.nn.softmax(jnp.where(other[None, :], wide, -jnp.inf))


def head_rows(
  model: Model, variables: Variables, features: Float[Array, 'n d']
) -> Float[Array, 'k d']:
  """The derivative of the logits by the features: of a linear head, its rows.

  Args:
    model: the network.
    variables: its weights.
    features: of any images; one row is used.
  """
  return jax.jacobian(lambda x: model.head(variables, x[None])[0])(features[0])


def _class_of(samples: Samples) -> Int[Array, '']:
  """The class to be forgotten: that of the first row that counts."""
  return samples.batch.label[jnp.argmax(samples.valid)]


def trw(
  model: Model,
  inputs: InputStep,
  *,
  optimizer: optax.GradientTransformation,
  steps: int,
  batch_size: int,
  betas: tuple[float, ...] = BETAS,
  dimensions: tuple[int, ...] = DIMENSIONS,
  weights: tuple[float, ...] = (1.0,),
  temperature: float = _TEMPERATURE,
  centre: bool = True,
  retain: bool = True,
) -> Method:
  """Unlearns a class; all of S_f must be of it.

  The paper's PCA dimension, temperature and weight are not public: 8 axes
  (at most k - 1 matter), 0.1 and 1 are ours, as is the centring. With s of
  raw cosines beta and the temperature could not be told apart.

  Args:
    model: the network.
    inputs: raw pixels to network input; paints the triggers of S_tr.
    optimizer: of the fine-tuning, schedule included.
    steps: of the fine-tuning.
    batch_size: of R and as much of S_f.
    betas: the grid of 'beta'; 0 is RWFT.
    dimensions: the grid of 'dimension', principal axes that count.
    weights: the grid of 'forget_weight'.
    temperature: of the similarities.
    centre: whether the mean row of the head is taken off.
    retain: whether R is trained on; False for S_f alone.

  References:
    arXiv 2506.20893; the default beta is its own.
  """

  def term(logits, draw, context, hyper):
    start, places, forget = context
    similar = similarity(places, forget, hyper['dimension'], temperature)
    answer = model.apply(start, draw.image)
    wanted = tilted(answer, forget, similar, hyper['beta'])
    found = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -hyper['forget_weight'] * jnp.sum(wanted * found, -1).mean()

  phase = descent.Phase(
    objectives.with_retain(model, term), objectives.both(batch_size)
  )
  if not retain:
    alone = objectives.on(model, 'forget', term)
    phase = descent.Phase(alone, (('forget', batch_size),))
  recipe = descent.Recipe((phase,), optimizer, inputs)

  def prepare(key, variables: Variables, given: Given):
    del key
    assert given.forget is not None
    image = inputs.eval(given.forget.batch.image[:1], None)
    rows = head_rows(model, variables, model.features(variables, image))
    return variables, coordinates(rows, centre), _class_of(given.forget)

  return finetuning.fine_tuning(
    recipe,
    steps,
    'tilted reweighting',
    grid=tuple(
      {'beta': float(b), 'dimension': float(d), 'forget_weight': float(w)}
      for b, d, w in itertools.product(betas, dimensions, weights)
    ),
    prepare=prepare,
  )
