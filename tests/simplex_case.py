"""A small smooth network with task vectors, and polynomials of weights."""

import functools
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from cmu_jax.methods import simplex

Q = 4
X = np.random.default_rng(9).normal(size=(5, 3))


def network(params, x):
  """Logits of two layers; the counter takes part but cannot move."""
  hidden = jnp.tanh(x @ params['body']['kernel'] + params['body']['bias'][None])
  return params['steps'] * (hidden @ params['head']) / 2


def chances(params, x):
  return jax.nn.softmax(network(params, x), axis=-1)


@functools.cache
def case(q=Q, dtype='float64', size=0.4, seed=0):
  """A simplex of q vertices, in float64 unless told otherwise."""
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
  base = {
    'body': {'kernel': draw(3, 4), 'bias': draw(4)},
    'head': draw(4, 3),
    'steps': jnp.asarray(2),
  }
  taus = {
    'body': {'kernel': size * draw(q, 3, 4), 'bias': size * draw(q, 4)},
    'head': size * draw(q, 4, 3),
    'steps': jnp.zeros(q, int),
  }
  return simplex.TaskSimplex(base, taus, 0.7)


def homogeneous(a, degree):
  """h_k of the entries of a: the complete homogeneous symmetric polynomial."""
  row = np.ones_like(a)
  for _ in range(degree):
    row = np.cumsum(a * row)
  return row[-1]


def moment(a, degree):
  """E (w.a)^k for w uniform on the simplex."""
  q = len(a)
  return (
    math.factorial(degree)
    * math.factorial(q - 1)
    / math.factorial(q - 1 + degree)
    * homogeneous(a, degree)
  )


OPTIONS = {'mc': {'n': 64}, 'mc_cv': {'n': 64}}


def mean(fn, found, *args, method='cubature2', **options):
  """The ensemble; what is warned of is tested on its own."""
  given = {**OPTIONS.get(method, {}), **options}
  if method.startswith('mc'):
    given.setdefault('key', jax.random.key(0))
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', simplex.SimplexWarning)
    return simplex.simplex_ensemble(fn, found, *args, method=method, **given)


def values(fn, found, *args, methods=simplex.METHODS):
  return {m: mean(fn, found, *args, method=m).value for m in methods}


def rows():
  """Three affine functions of six parameters."""
  rng = np.random.default_rng(3)
  return rng.normal(size=(3, 6)), rng.normal(size=3)


def polynomials(params):
  """Products of one, two and three affine functions of the parameters."""
  slopes, shifts = rows()
  return jnp.cumprod(slopes @ params['w'] + shifts)


def points(q=4, seed=5):
  rng = np.random.default_rng(seed)
  base, taus = rng.normal(size=6), rng.normal(size=(q, 6))
  return simplex.TaskSimplex({'w': jnp.asarray(base)}, {'w': jnp.asarray(taus)})


def corners_of(found):
  taus = np.asarray(found.taus['w'])
  return np.asarray(found.base['w'])[None] - found.scale * taus


def at(w):
  slopes, shifts = rows()
  return np.cumprod(slopes @ w + shifts)
