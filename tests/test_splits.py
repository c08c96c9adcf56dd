"""Stratified pools: exact counts, nothing lost, nested."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmu_jax.core import errors, rng
from cmu_jax.core.types import Batch
from cmu_jax.data import splits

MNIST = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
N = 96
# One size for all examples, so that the draw compiles once.
labels = st.lists(st.integers(0, 4), min_size=N, max_size=N).map(np.array)


def test_mnist_pool_has_the_published_counts():
  label = np.repeat(np.arange(10), MNIST)
  held, rest = splits.stratified_split(rng.fold_in(11), label, 0.02, 10)
  counts = np.bincount(label[held]).tolist()
  assert counts == [118, 134, 119, 122, 116, 108, 118, 125, 117, 118]
  assert (held.size, rest.size) == (1195, 58805)
  assert (
    splits.stratified_split(rng.fold_in(11), label, 0.1, 10)[0].size == 5996
  )


@pytest.mark.parametrize(
  'rate,count,share',
  [(0.29, 100, 29), (0.3, 10, 3), (0.02, 49, 0), (1.0, 7, 7)],
)
def test_floor_share_survives_rounding(rate, count, share):
  assert splits.floor_share(rate, count) == share


@settings(max_examples=30, deadline=None)
@given(labels, st.floats(0, 1), st.integers(0, 99))
def test_pool_and_rest_are_a_stratified_partition(label, fraction, seed):
  held, rest = splits.stratified_split(rng.fold_in(seed), label, fraction, 5)
  both = np.sort(np.concatenate([held, rest]))
  assert np.array_equal(both, np.arange(N))
  assert (np.diff(held) > 0).all() and (np.diff(rest) > 0).all()
  for c in range(5):
    of_class = int((label == c).sum())
    taken = int((label[held] == c).sum())
    assert taken == splits.floor_share(fraction, of_class)


@settings(max_examples=20, deadline=None)
@given(labels, st.floats(0, 1), st.floats(0, 1))
def test_a_smaller_pool_is_inside_a_larger_one(label, one, other):
  small, large = sorted((one, other))
  key = rng.fold_in(3)
  inner = splits.stratified_split(key, label, small, 5)[0]
  outer = splits.stratified_split(key, label, large, 5)[0]
  assert np.isin(inner, outer).all()


def test_every_item_of_a_class_is_as_likely():
  label = np.tile(np.arange(2), 10)
  hits = np.zeros(20)
  for seed in range(300):
    hits[splits.stratified_split(rng.fold_in(seed), label, 0.3, 2)[0]] += 1
  # Binomial(300, 0.3): mean 90, deviation 8.
  assert hits.min() > 55 and hits.max() < 125


def test_the_key_decides():
  label = np.tile(np.arange(4), N // 4)
  pools = [
    splits.stratified_split(rng.fold_in(s), label, 0.5, 4)[0] for s in (0, 0, 1)
  ]
  assert np.array_equal(pools[0], pools[1])
  assert not np.array_equal(pools[0], pools[2])


def test_hold_out_keeps_images_labels_and_stamps_together():
  label = jnp.arange(12) % 3
  image = jnp.broadcast_to(
    jnp.arange(12, dtype=jnp.uint8)[:, None, None, None], (12, 2, 2, 1)
  )
  batch = Batch(image, label, jnp.arange(12) < 6)
  pool, rest = splits.hold_out(rng.fold_in(0), batch, 0.5, 3)
  assert pool.label.shape == rest.label.shape == (6,)
  for part in (pool, rest):
    index = part.image[:, 0, 0, 0].astype(int)
    assert np.array_equal(index % 3, part.label)
    assert np.array_equal(index < 6, part.has_trigger)
  assert (
    splits.take(batch._replace(has_trigger=None), jnp.array([3])).has_trigger
    is None
  )


@pytest.mark.parametrize('fraction', [-0.1, 1.5, float('nan')])
def test_a_fraction_outside_0_to_1_is_refused(fraction):
  with pytest.raises(errors.UserError, match=r'fraction .* not a number'):
    splits.stratified_split(jax.random.key(0), np.zeros(4, int), fraction, 2)


@pytest.mark.parametrize('bad', [-1, 2])
def test_a_label_out_of_range_is_named(bad):
  label = np.array([0, 1, bad, 1])
  with pytest.raises(errors.UserError, match=f'label {bad} of sample 2'):
    splits.stratified_split(jax.random.key(0), label, 0.5, 2)
