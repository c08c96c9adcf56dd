"""TRW: forgetting a class towards what retraining without it would answer.

For the class f to be forgotten, with z the logits of theta_o and s_k the
similarity of class k to f,

  q*_k(x) = softmax over k != f of (z_k(x) + beta s_k),   q*_f = 0
  theta_u = argmin over theta from theta_o of CE(R) + E_f CE(q*(x), p(x; theta))

q* is the distribution nearest (in KL) to theta_o's own, renormalised without
f, among those of its mean similarity: retrained networks give pictures of f to
the classes that look like it. beta = 0 only renormalises (RWFT).

Masking the logit: the network is forbidden to answer the class.

  W_f <- 0,   b_f <- -10^4      so that p_f = 0 and p_k <- p_k / (1 - p_f)

Nothing is forgotten: features and all other logits stay as they were. It is
the cheapest baseline of class unlearning, and what an audit must not pass.
"""

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from cmu_jax.core import errors, rng
from cmu_jax.core.types import (
  Info,
  Method,
  MethodInputs,
  Model,
  Network,
  Samples,
  Training,
  Variables,
)
from cmu_jax.methods import finetuning, objectives
from cmu_jax.training import descent

BETAS, DIMENSIONS = (10.0, 0.0, 1.0, 3.0, 30.0), (8,)
_TEMPERATURE = 0.1


class PrincipalAxes(NamedTuple):
  """The last layer in the principal axes of its rows.

  Attributes:
    places: the rows in these axes, one a class.
    axes: the axes as columns, in the space of features.
  """

  coordinates: Float[Array, 'k r']
  axes: Float[Array, 'h r']


def principal_axes(
  rows: Float[Array, 'k h'], centre: bool = True
) -> PrincipalAxes:
  """The classes' rows of the last layer in their principal axes.

  Args:
    rows: one row a class.
    centre: whether the mean row is taken off first.
  """
  placed = rows - rows.mean(0, keepdims=True) if centre else rows
  left, size, right = jnp.linalg.svd(placed, full_matrices=False)
  return PrincipalAxes(left * size[None, :], right.T)


def coordinates(
  rows: Float[Array, 'k h'], centre: bool = True
) -> Float[Array, 'k r']:
  """The places of `principal`."""
  return principal_axes(rows, centre).coordinates


def _unit_directions(
  points: Float[Array, 'n r'], dimension: Any
) -> Float[Array, 'n r']:
  """Directions in the first axes; 0 where there is none."""
  axis = jnp.arange(points.shape[1])[None, :]
  kept = jnp.where(axis < dimension, points, 0)
  size = jnp.sqrt(jnp.sum(kept**2, axis=1, keepdims=True))
  return kept / jnp.maximum(size, 1e-12)


def similarity(
  places: Float[Array, 'k r'],
  forget: Int[Array, ''] | int,
  dimension: Any,
  temperature: float = _TEMPERATURE,
  noise: Float[Array, 'k'] | None = None,
) -> Float[Array, 'k']:
  """How like the class to be forgotten the others are; sums to 1, 0 at f.

  Args:
    places: of `principal`.
    forget: f.
    dimension: how many principal axes count; may be traced.
    temperature: of the softmax over cosines.
    noise: added to the cosines; None for none.
  """
  point = places[jnp.asarray(forget)[None]]
  return similarities(places, point, forget, dimension, temperature, noise)[0]


def similarities(
  coordinates: Float[Array, 'k r'],
  points: Float[Array, 'n r'],
  forget: Int[Array, ''] | int,
  dimension: Any,
  temperature: float = _TEMPERATURE,
  noise: Float[Array, 'k'] | None = None,
) -> Float[Array, 'n k']:
  """How like each point the other classes are; rows sum to 1 and are 0 at f.

  Of the row of f it is `similarity`. Of the features of an image in the same
  axes it is a similarity of that image: one image of f looks like a truck,
  another like a ship. This is not in the paper, whose open question it is.

  Args:
    coordinates: of `principal`.
    points: in the same axes.
    forget: f.
    dimension: how many principal axes count; may be traced.
    temperature: of the softmax over cosines.
    noise: added to the cosines, the same for all points; None for none.
  """
  cosine = (
    _unit_directions(points, dimension)
    @ _unit_directions(coordinates, dimension).T
  )
  moved = cosine if noise is None else cosine + noise[None, :]
  other = jnp.arange(coordinates.shape[0]) != forget
  cold = jnp.where(other[None, :], moved / temperature, -jnp.inf)
  return jax.nn.softmax(cold)


def tilt_answers(
  logits: Float[Array, 'n k'],
  forget: Int[Array, ''] | int,
  similarity: Float[Array, 'k'] | Float[Array, '#n k'],
  beta: Any,
) -> Float[Array, 'n k']:
  """q*: the answers of theta_o without f, tilted towards classes like it.

  The logit of f is never exponentiated: on pictures of f its probability is
  nearly 1, and dividing by what is left would be 0 / 0 in float32.

  Args:
    logits: of theta_o.
    forget: f.
    similarity: of `similarity`, or of each image; adding a constant changes
      nothing.
    beta: strength of the tilt; may be traced.

  References:
    On the Necessity of Output Distribution Reweighting for Effective Class
    Unlearning, arXiv 2506.20893.
  """
  other = jnp.arange(logits.shape[-1]) != forget
  wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
  tilt = beta * jnp.broadcast_to(similarity, logits.shape)
  return jax.nn.softmax(jnp.where(other[None, :], wide + tilt, -jnp.inf))


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


def trw(
  network: Network,
  training: Training,
  *,
  betas: tuple[float, ...] = BETAS,
  dimensions: tuple[int, ...] = DIMENSIONS,
  weights: tuple[float, ...] = (1.0,),
  noises: tuple[float, ...] = (),
  temperature: float = _TEMPERATURE,
  centre: bool = True,
  retain: bool = True,
  by_sample: bool = False,
) -> Method:
  """Unlearns a class; all of S_f must be of it.

  The paper's PCA dimension, temperature and weight are not public: 8 axes
  (at most k - 1 matter), 0.1 and 1 are ours, as is the centring. With s of
  raw cosines beta and the temperature could not be told apart.

  Args:
    network: the model and its input step.
    training: optimizer, steps and batch size.
    betas: the grid of 'beta'; 0 is RWFT.
    dimensions: the grid of 'dimension', principal axes that count.
    weights: the grid of 'forget_weight'.
    noises: the grid of 'noise', the standard deviation of a Gaussian that is
      drawn once for each class and added to the cosines; empty for none.
    temperature: of the similarities.
    centre: whether the mean row of the head is taken off.
    retain: whether R is trained on; False for S_f alone.
    by_sample: whether similarities are those of each image of S_f to the
      classes instead of those of f.

  References:
    arXiv 2506.20893; the default beta is its own.
  """

  def term(logits, draw, context, hyper):
    start, (places, axes), forget, bell = context
    features = network.model.features(start, draw.image)
    points = features @ axes if by_sample else places[forget][None]
    noise = hyper['noise'] * bell if 'noise' in hyper else None
    similar = similarities(
      places, points, forget, hyper['dimension'], temperature, noise
    )
    answer = network.model.head(start, features)
    wanted = tilt_answers(answer, forget, similar, hyper['beta'])
    found = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -hyper['forget_weight'] * jnp.sum(wanted * found, -1).mean()

  phase = descent.Phase(
    objectives.retain_plus_term(network.model, term),
    objectives.paired_streams(training.batch_size),
  )
  if not retain:
    alone = objectives.single_term(network.model, 'forget', term)
    phase = descent.Phase(alone, (('forget', training.batch_size),))
  recipe = descent.Recipe((phase,), training.optimizer, network.inputs)

  def prepare(key, variables: Variables, given: MethodInputs):
    assert given.forget is not None
    image = network.inputs.eval(given.forget.batch.image[:1], None)
    rows = head_rows(
      network.model, variables, network.model.features(variables, image)
    )
    bell = jax.random.normal(rng.fold_in(key, 'noise'), rows.shape[:1])
    forget = forget_class(given.forget)
    return variables, principal_axes(rows, centre), forget, bell

  points = itertools.product(betas, dimensions, weights, noises or (0.0,))
  return finetuning.method(
    recipe,
    training.steps,
    'tilted reweighting',
    grid=tuple(
      {'beta': float(b), 'dimension': float(d), 'forget_weight': float(w)}
      | ({'noise': float(s)} if noises else {})
      for b, d, w, s in points
    ),
    prepare=prepare,
  )


# Beyond any logit, and finite where losses of the class are asked for.
MASKED_LOGIT = -1e4


def forget_class(samples: Samples) -> Int[Array, '']:
  """The class to be forgotten: that of the first row that counts."""
  return samples.batch.label[jnp.argmax(samples.valid)]


def mask_head(params: PyTree, forget: Int[Array, ''] | int) -> PyTree:
  """Parameters whose head never answers a class.

  Args:
    params: with the linear layer 'head', as those of `networks.make`.
    forget: the class.

  Raises:
    UserError: there is no such layer, or it has no bias.
  """
  head: Any = params.get('head') if isinstance(params, Mapping) else None
  known = set(head) if isinstance(head, Mapping) else set()
  errors.check(
    {'kernel', 'bias'} <= known,
    "logit_mask: the network has no layer 'head' with a kernel and a bias; "
    "use a network of networks.make, or leave 'mask' out",
  )
  chosen = jnp.arange(head['bias'].shape[0]) == forget
  kernel = jnp.where(chosen[None, :], 0, head['kernel'])
  bias: Float[Array, 'k'] = jnp.where(chosen, MASKED_LOGIT, head['bias'])
  return {**params, 'head': {**head, 'kernel': kernel, 'bias': bias}}


def logit_mask(network: Network) -> Method:
  """Forbids the class of S_f; all of S_f must be of it.

  Args:
    network: unused.

  References:
    On the Necessity of Output Distribution Reweighting for Effective Class
    Unlearning, arXiv 2506.20893, argues that it leaks.
  """
  del network

  def prepare(key: Any, variables: Variables, given: MethodInputs) -> jax.Array:
    del key, variables
    assert given.forget is not None
    return forget_class(given.forget)

  def solve(
    key: Any, variables: Variables, given: Any, prepared: Any, hyper: Any
  ) -> tuple[Variables, Info]:
    del key, given, hyper
    found = variables._replace(params=mask_head(variables.params, prepared))
    return found, {'gradient_evaluations': 0}

  return Method(('forget',), prepare, solve, elementwise=True)
