"""Importances beside loops of gradients; what is additive, what is ignored."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ssd_case import AUGMENTED, MODELS, assert_close, batch, samples, variables

from cmu_jax.core import errors, jit, rng
from cmu_jax.core.types import Batch, Network, Samples
from cmu_jax.methods.dampening import importance
from cmu_jax.training import metrics

KEY = jax.random.key(7)


def _measure(kind, name='fc', size=4, augment=False):
  return importance.ImportanceConfig(
    Network(MODELS[name], AUGMENTED), kind, size, augment
  )


def _score(kind, logits, label):
  return {
    'xlf': lambda: jnp.sqrt(jnp.square(logits).sum(-1)),
    'lfssd': lambda: jnp.square(logits).sum(-1),
  }.get(kind, lambda: metrics.cross_entropy(logits, label))()


@functools.lru_cache
def _gradient(kind, name):
  """(state, batch) -> the gradient of the batch's mean score, plainly."""

  def gradient(state, part):
    image = AUGMENTED.eval(part.image, part.has_trigger)

    def mean(params):
      logits = MODELS[name].apply(state._replace(params=params), image)
      return _score(kind, logits, part.label).mean()

    return jax.grad(mean)(state.params)

  return jit.compile_cheaply(gradient)


def _loop(kind, name, state, parts):
  """The mean over parts of squares or absolute values, in NumPy."""
  power = np.abs if kind in ('xlf', 'lfssd') else np.square
  gradient = _gradient(kind, name)
  found = [jax.tree.map(np.asarray, gradient(state, part)) for part in parts]
  return jax.tree.map(lambda *x: sum(map(power, x)) / len(parts), *found)


def _take(whole, rows):
  return Batch(*(x[np.asarray(rows)] for x in whole))


@pytest.mark.parametrize(
  ('kind', 'name', 'rows'),
  [
    ('batch', 'fc', 11),
    ('per_sample', 'fc', 11),
    ('per_sample', 'convnet', 8),
    ('xlf', 'fc', 11),
    ('lfssd', 'fc', 11),
  ],
)
def test_importance_is_a_loop_of_gradients(kind, name, rows):
  state, some = variables(name), samples(rows)
  found = importance.compute(KEY, _measure(kind, name), state, some)
  order = np.asarray(
    importance.shuffle_rows(rng.fold_in(KEY, 'order'), some.valid)
  )
  size = 1 if kind == 'per_sample' else 4
  parts = [_take(some.batch, order[i : i + size]) for i in range(0, rows, size)]
  assert_close(found, _loop(kind, name, state, parts))


def test_it_is_the_same_inside_a_program():
  measure, state, some = _measure('batch'), variables(), samples(11)
  outside = importance.compute(KEY, measure, state, some)
  inside = jax.jit(
    lambda key, state, some: importance.compute(key, measure, state, some)
  )(KEY, state, some)
  assert_close(inside, outside)


@pytest.mark.parametrize(
  ('kind', 'augment'), [('batch', False), ('per_sample', True)]
)
def test_rows_that_are_not_valid_do_not_matter(kind, augment):
  measure, state = _measure(kind, augment=augment), variables()
  valid = np.arange(11) % 3 != 1
  one, two = samples(11, valid), samples(11, valid, seed=5)
  keep = lambda a, b: jnp.asarray(
    np.where(valid.reshape(-1, *(1,) * (a.ndim - 1)), a, b)
  )
  other = one._replace(batch=jax.tree.map(keep, one.batch, two.batch))
  first = importance.compute(KEY, measure, state, one)
  second = importance.compute(KEY, measure, state, other)
  jax.tree.map(np.testing.assert_array_equal, first, second)


def test_nothing_valid_has_no_importance():
  found = importance.compute(
    KEY, _measure('batch'), variables(), samples(11, np.zeros(11, bool))
  )
  assert all(float(jnp.abs(x).max()) == 0 for x in jax.tree.leaves(found))


def test_an_order_starts_with_what_is_valid():
  valid = jnp.arange(40) % 4 == 1
  found = np.asarray(jax.jit(importance.shuffle_rows)(KEY, valid))
  assert sorted(found) == list(range(40))
  assert set(found[:10]) == set(np.flatnonzero(valid))
  again = np.asarray(importance.shuffle_rows(jax.random.key(8), valid))
  assert (found[:10] != again[:10]).any()


def test_augmentation_can_be_switched_off():
  state, some = variables(), samples(11)

  def bias(key, augment):
    measure = _measure('per_sample', augment=augment)
    found = importance.compute(key, measure, state, some)
    return np.asarray(found['head']['bias'])

  other = jax.random.key(8)
  assert (bias(KEY, True) != bias(other, True)).any()
  np.testing.assert_array_equal(bias(KEY, False), bias(other, False))


def test_per_sample_sums_add_up_when_augmented():
  measure, state = _measure('per_sample', augment=True), variables('fc')
  some, first = samples(11), np.arange(11) % 5 == 2
  part = lambda valid: importance.sum_terms(
    KEY, measure, state, some._replace(valid=jnp.asarray(valid))
  )
  whole, one, rest = part(np.ones(11, bool)), part(first), part(~first)
  assert int(whole[1]) == 11
  assert int(one[1]) == first.sum()
  assert_close(jax.tree.map(jnp.add, one[0], rest[0]), whole[0])


def test_one_pass_serves_all_fractions():
  measure, state = _measure('per_sample', augment=True), variables()
  size, bad = 11, 9
  state_of = np.random.default_rng(3)
  rank = np.full(size, -1)
  rank[state_of.permutation(size)[:bad]] = state_of.permutation(bad)
  counts = np.array([2, 5, 9])
  whole = batch(size)
  pair = importance.compute_nested(KEY, measure, state, whole, rank, counts)
  assert int(pair.cost) == size
  for position, count in enumerate(counts):
    known = (rank >= 0) & (rank < count)
    for found, rows in ((pair.forget, known), (pair.retain, ~known)):
      seen = Samples(whole, jnp.zeros(size, bool), jnp.asarray(rows))
      wanted = importance.compute(KEY, measure, state, seen)
      one = jax.tree.map(lambda x, p=position: x[p], found)
      assert_close(one, wanted)


def test_squared_batch_means_are_not_nested():
  with pytest.raises(errors.UserError, match='not additive'):
    importance.compute_nested(
      KEY,
      _measure('batch'),
      variables(),
      batch(4),
      np.arange(4),
      np.array([2]),
    )


def test_unknown_kinds_are_named():
  with pytest.raises(errors.UserError, match="'per_sampel': did you mean"):
    importance.compute(KEY, _measure('per_sampel'), variables(), samples(3))


def test_label_free_importance_ignores_labels():
  measure, state, some = _measure('xlf'), variables(), samples(11)
  other = some._replace(batch=some.batch._replace(label=some.batch.label * 0))
  first = importance.compute(KEY, measure, state, some)
  second = importance.compute(KEY, measure, state, other)
  jax.tree.map(np.testing.assert_array_equal, first, second)


def test_logits_of_zero_have_a_label_free_importance():
  state = jax.tree.map(jnp.zeros_like, variables())
  found = importance.compute(KEY, _measure('xlf'), state, samples(11))
  assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(found))
