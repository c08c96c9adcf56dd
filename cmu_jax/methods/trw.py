r"""Class unlearning: answers of retraining as targets (TRW), and a logit mask.

For the class f to be forgotten, with z the logits of theta_o and s_k the
similarity of class k to f,

  q*_k(x) = softmax over k != f of (z_k(x) + beta s_k),   q*_f = 0
  theta_u = argmin over theta from theta_o of CE(R) + E_f CE(q*(x), p(x; theta))

q* is the distribution nearest (in KL) to theta_o's own, renormalised without
f, among those of its mean similarity: retrained networks give pictures of f to
the classes that look like it. beta = 0 only renormalises (RWFT).

`logit_mask` forbids the answer instead: W_f <- 0, b_f <- -10^4.
"""

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from cmu_jax.core import errors, rng
from cmu_jax.core.types import (
  Method,
  Model,
  Network,
  Result,
  Samples,
  Training,
  Variables,
)
from cmu_jax.methods import finetuning, objectives
from cmu_jax.training import descent

# The paper's PCA dimension, temperature and weight are not public. Of k classes
# at most k - 1 axes matter; 8, 0.1 and 1 are ours, as is the centring.
BETAS, DIMENSIONS = (10.0, 0.0, 1.0, 3.0, 30.0), (8,)
_TEMPERATURE = 0.1
# Below any logit, and finite, so that losses of the class stay finite.
MASKED_LOGIT = -1e4


class PrincipalAxes(NamedTuple):
  """The last layer in the principal axes of its rows.

  Attributes:
    coordinates: the rows in these axes, one a class.
    axes: the axes as columns, in the space of features.
  """

  coordinates: Float[Array, 'k r']
  axes: Float[Array, 'h r']


def principal_axes(rows: Float[Array, 'k h']) -> PrincipalAxes:
  """Finds the principal axes of the classes' rows, after their centring."""
  centred = rows - rows.mean(0, keepdims=True)
  vectors, scale, axes = jnp.linalg.svd(centred, full_matrices=False)
  return PrincipalAxes(vectors * scale[None, :], axes.T)


def _unit_directions(
  points: Float[Array, 'n r'], dimension: Any
) -> Float[Array, 'n r']:
  """Directions in the leading axes; 0 for a point without any."""
  # The dimension may be traced, so that a grid of them is one compilation.
  axis = jnp.arange(points.shape[1])[None, :]
  leading = jnp.where(axis < dimension, points, 0)
  norm = jnp.sqrt(jnp.sum(leading**2, axis=1, keepdims=True))
  return leading / jnp.maximum(norm, 1e-12)


def similarities(
  coordinates: Float[Array, 'k r'],
  points: Float[Array, 'n r'],
  forget: Int[Array, ''] | int,
  dimension: Any,
  temperature: float = _TEMPERATURE,
  noise: Float[Array, 'k'] | None = None,
) -> Float[Array, 'n k']:
  """Similarities of the other classes to points; rows sum to 1 and are 0 at f.

  The coordinates of f as the point give the similarity s of the paper. Features
  of an image in the same axes give a similarity of that image: one image of f
  looks like a truck, another like a ship. This is the paper's open question.

  Args:
    coordinates: of `principal_axes`.
    points: in the same axes.
    forget: f.
    dimension: number of principal axes that count; may be traced.
    temperature: of the softmax over cosines.
    noise: added to the cosines, the same for all points; None for none.
  """
  directions = _unit_directions(coordinates, dimension)
  cosine = _unit_directions(points, dimension) @ directions.T
  if noise is not None:
    cosine = cosine + noise[None, :]
  # Softmax of raw cosines would not tell beta and the temperature apart.
  retained = jnp.arange(coordinates.shape[0]) != forget
  logits = jnp.where(retained[None, :], cosine / temperature, -jnp.inf)
  return jax.nn.softmax(logits)


def tilt_answers(
  logits: Float[Array, 'n k'],
  forget: Int[Array, ''] | int,
  similarity: Float[Array, 'k'] | Float[Array, '#n k'],
  beta: Any,
) -> Float[Array, 'n k']:
  """q*: the answers of theta_o without f, tilted towards similar classes.

  Args:
    logits: of theta_o.
    forget: f.
    similarity: of f, or of each image; an added constant changes nothing.
    beta: strength of the tilt; may be traced.

  References:
    On the Necessity of Output Distribution Reweighting for Effective Class
    Unlearning, arXiv 2506.20893.
  """
  retained = jnp.arange(logits.shape[-1]) != forget
  wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
  tilt = beta * jnp.broadcast_to(similarity, logits.shape)
  # The logit of f is never exponentiated: on pictures of f its probability is
  # nearly 1, and a division by the remainder would be 0 / 0 in float32.
  return jax.nn.softmax(jnp.where(retained[None, :], wide + tilt, -jnp.inf))


def head_rows(
  model: Model, variables: Variables, features: Float[Array, 'n d']
) -> Float[Array, 'k d']:
  """The derivative of the logits by the features: the rows of a linear head.

  Args:
    features: of any images; one row is used.
  """
  return jax.jacobian(lambda x: model.head(variables, x[None])[0])(features[0])


class _Context(NamedTuple):
  """Constants of the objective: theta_o, its head, f, and noise by class."""

  original: Variables
  principal: PrincipalAxes
  forget: Int[Array, '']
  noise: Float[Array, 'k']


@finetuning.check_settings
def trw(
  network: Network,
  training: Training,
  *,
  betas: tuple[float, ...] = BETAS,
  dimensions: tuple[int, ...] = DIMENSIONS,
  noises: tuple[float, ...] = (),
  retain: bool = True,
  by_sample: bool = False,
) -> Method:
  """Teaches the answers of retraining; all of S_f must be of one class.

  Args:
    training: of the fine-tuning; the batch size is of either set.
    betas: the grid of 'beta'; 0 is RWFT.
    dimensions: the grid of 'dimension', principal axes that count.
    noises: the grid of 'noise', the standard deviation of a Gaussian that is
      drawn once for each class and added to the cosines; empty for none.
    retain: False trains on S_f alone.
    by_sample: takes the similarities of each image of S_f to the classes
      instead of those of f.

  References:
    arXiv 2506.20893; the default beta is its own.
  """
  model, inputs = network

  def term(logits, draw, context: _Context, hyper):
    features = model.features(context.original, draw.image)
    coordinates, axes = context.principal
    points = features @ axes
    if not by_sample:
      points = coordinates[context.forget][None]
    noise = hyper['noise'] * context.noise if 'noise' in hyper else None
    similarity = similarities(
      coordinates, points, context.forget, hyper['dimension'], noise=noise
    )
    answer = model.head(context.original, features)
    target = tilt_answers(answer, context.forget, similarity, hyper['beta'])
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -hyper['forget_weight'] * jnp.sum(target * log_p, -1).mean()

  def prepare(key, variables: Variables, data) -> _Context:
    image = inputs.eval(data.forget.batch.image[:1], None)
    rows = head_rows(model, variables, model.features(variables, image))
    # The noise is drawn once, so that a grid of its scales compares the same
    # direction.
    return _Context(
      variables,
      principal_axes(rows),
      forget_class(data.forget),
      jax.random.normal(rng.fold_in(key, 'noise'), rows.shape[:1], jnp.float32),
    )

  phase = objectives.forget_phase(
    model, term, training.batch_size, retain=retain
  )
  return finetuning.method(
    descent.Recipe((phase,), training.optimizer, inputs),
    training.steps,
    'tilted reweighting',
    grid=tuple(
      {'beta': float(b), 'dimension': float(d), 'forget_weight': 1.0}
      | ({'noise': float(s)} if noises else {})
      for b, d, s in itertools.product(betas, dimensions, noises or (0.0,))
    ),
    prepare=prepare,
  )


def forget_class(samples: Samples) -> Int[Array, '']:
  """The class to be forgotten, from the label of the first valid row."""
  return samples.batch.label[jnp.argmax(samples.valid)]


def mask_head(params: PyTree, forget: Int[Array, ''] | int) -> PyTree:
  """Changes the head so that it never answers a class.

  Args:
    params: with the linear layer 'head', as those of `networks.make`.
    forget: the class.

  Raises:
    UserError: there is no such layer, or it has no bias.
  """
  head: Any = params.get('head') if isinstance(params, Mapping) else None
  names = set(head) if isinstance(head, Mapping) else set()
  errors.check(
    {'kernel', 'bias'} <= names,
    "logit_mask: the network has no layer 'head' with a kernel and a bias; "
    "use a network of networks.make, or leave 'mask' out",
  )
  masked = jnp.arange(head['bias'].shape[0]) == forget
  kernel = jnp.where(masked[None, :], 0, head['kernel'])
  bias: Float[Array, 'k'] = jnp.where(masked, MASKED_LOGIT, head['bias'])
  return {**params, 'head': {**head, 'kernel': kernel, 'bias': bias}}


@finetuning.check_settings
def logit_mask(network: Network) -> Method:
  """Forbids the class of S_f, so that p_f = 0 and p_k <- p_k / (1 - p_f).

  Nothing is forgotten: features and all other logits stay. It is the cheapest
  baseline of class unlearning, and no audit must pass it.

  Args:
    network: unused; all methods take it. Its last layer is called 'head'.

  References:
    On the Necessity of Output Distribution Reweighting for Effective Class
    Unlearning, arXiv 2506.20893, argues that it leaks.
  """
  del network

  def prepare(key, variables: Variables, data) -> jax.Array:
    del key, variables
    return forget_class(data.forget)

  def solve(key, variables: Variables, data, prepared, hyper) -> Result:
    del key, data, hyper
    params = mask_head(variables.params, prepared)
    return variables._replace(params=params), {'gradient_evaluations': 0}

  return Method(('forget',), prepare, solve, elementwise=True)
