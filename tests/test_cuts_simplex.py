"""CUTS as the mean over a simplex: members, pooled predictions, the row."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from close import assert_close

from cmu_jax import networks
from cmu_jax.core import tree
from cmu_jax.core.types import Batch, Network, Variables
from cmu_jax.data import input_step
from cmu_jax.methods import simplex
from cmu_jax.methods.cuts import task_simplex
from cmu_jax.training import metrics


@functools.cache
def case():
  """A network, three fine-tuned ones, and images."""
  model = networks.make('fc', 3, (2, 2, 1), width=5)
  image = jax.random.normal(jax.random.key(1), (6, 2, 2, 1))
  start = model.init(jax.random.key(0), image)
  move = lambda x: (
    x[None] + jax.random.normal(jax.random.key(x.size), (3, *x.shape))
  )
  return model, start, Variables(jax.tree.map(move, start.params), {}), image


def test_members_lie_between_corners_and_the_answer_of_cuts():
  _, start, tuned, _ = case()
  found = task_simplex.members(start, tuned, 0.4)
  mean = tree.mean(found.params)
  tau = tree.task_vector(start.params, tree.mean(tuned.params))
  assert_close(mean, tree.edit(start.params, tau, 0.4), 1e-5)
  corner = jax.tree.map(lambda x, e: x - 0.4 * (e[0] - x), start.params,
                        tuned.params)  # fmt: skip
  shrunk = jax.tree.map(lambda m, c: m + (c - m) / 2, mean, corner)
  assert_close(tree.index(found.params, 0), shrunk, 1e-5)
  spared = task_simplex.members(start, tuned, 0.4, ('head',))
  for leaf, kept in zip(
    jax.tree.leaves(spared.params['head']),
    jax.tree.leaves(start.params['head']),
    strict=True,
  ):
    assert_close(leaf, jnp.stack([kept] * 3), 1e-6)


def test_pooled_predictions_are_the_ensemble_of_probabilities():
  model, start, tuned, image = case()
  taus = jax.tree.map(lambda e, x: e - x[None], tuned.params, start.params)
  spanned = simplex.TaskSimplex(start.params, taus, 0.4)
  chances = lambda params, x: jax.nn.softmax(
    model.apply(Variables(params, {}), x)
  )
  expected = simplex.simplex_ensemble(chances, spanned, image).value
  members = task_simplex.members(start, tuned, 0.4)
  pool = task_simplex.ensemble_model(model)
  assert_close(jnp.exp(pool.apply(members, image)), expected, 1e-5)
  pixels = input_step.make((0.5,), (0.5,))
  raw = jnp.arange(24, dtype=jnp.uint8).reshape(6, 2, 2, 1) * 10
  seen = metrics.predict(
    Network(pool, pixels), members, Batch(raw, jnp.zeros(6, jnp.int32))
  )
  fine = simplex.simplex_ensemble(chances, spanned, pixels.eval(raw)).value
  assert seen.tolist() == np.asarray(fine.argmax(1)).tolist()
