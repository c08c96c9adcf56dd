"""A curve that takes long is looked at in pieces, with the same numbers."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmu_jax import networks
from cmu_jax.core import jit, progress
from cmu_jax.methods.cuts import alpha_search

SHAPE = (8, 8, 1)
MEASURE = lambda features, logits: (features, logits)


@functools.lru_cache(maxsize=2)
def network(name):
  """A model, its variables, a direction and images."""
  model = networks.make(name, 4, SHAPE)
  image = np.random.default_rng(0).normal(size=(12, *SHAPE)).astype(np.float32)
  init = jit.compile_cheaply(model.init)
  variables = init(jax.random.key(1), jnp.asarray(image[:1]))
  tau = jax.tree.map(
    lambda x: jnp.asarray(np.cos(7 * np.asarray(x))), variables
  )
  return model, variables, tau.params, jnp.asarray(image)


@pytest.fixture
def told(monkeypatch):
  """What the progress bar is told, with every curve taken for a long one."""
  seen = []

  @contextlib.contextmanager
  def bar(title, total, unit):
    seen.append((title, total, unit))
    yield lambda count: seen.append(count)

  monkeypatch.setattr(progress, 'bar', bar)
  monkeypatch.setattr(alpha_search, '_SECOND', 0)
  return seen


@pytest.mark.parametrize(
  'name, how, chunk', [('convnet', 'map', None), ('fc', 'vmap', 3)]
)
def test_pieces_give_the_whole_curve_and_tell_how_far_it_is(
  told, monkeypatch, name, how, chunk
):
  grid = jnp.linspace(0, 2, 23)
  run = functools.partial(
    alpha_search.curve,
    *network(name),
    grid,
    MEASURE,
    drive=alpha_search.Drive(how, chunk, 't'),
  )
  pieces = run()
  assert told[0] == ('t', 23, 'alphas')
  assert sum(told[1:]) == 23 and len(told) > 6
  count = len(told)
  monkeypatch.setattr(alpha_search, '_SECOND', np.inf)
  for a, b in zip(pieces, run(), strict=True):
    np.testing.assert_array_equal(a, b)
  assert len(told) == count  # a short one tells nothing


def test_a_curve_inside_another_program_stays_whole(told):
  model, variables, tau, image = network('fc')
  grid = jnp.asarray([0.0, 1.0])

  @jax.jit
  def score(x):
    return alpha_search.curve(model, variables, tau, x, grid, MEASURE)[1]

  assert score(image).shape == (2, 12, 4) and not told


@pytest.mark.parametrize('points', [1, 2, 7, 41, 81, 100, 1000])
def test_pieces_are_a_tenth_of_the_grid_and_waste_little(points):
  size = alpha_search._piece_size(points, None)
  pieces = -(-points // size)
  assert min(points, 5) <= pieces <= 10
  assert pieces * size - points <= points / 10
  assert alpha_search._piece_size(points, 27) == min(points, 27)
