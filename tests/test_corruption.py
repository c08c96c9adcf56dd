"""Corruptions: exact counts, labels that really flip, nested sets."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmu_jax.core import errors, rng
from cmu_jax.core.types import Batch
from cmu_jax.data import corruption
from cmu_jax.data.corruption import class_maps, triggers

N, K = 120, 6
KEY = rng.fold_in(8)
CIFAR = np.repeat(np.arange(10), 4900)
labels = st.lists(st.integers(0, K - 1), min_size=N, max_size=N).map(np.array)
rates = st.floats(0, 1)


def patch():
  return triggers.badnet(8, 8, margin=(0, 0))


@settings(max_examples=25, deadline=None)
@given(labels, rates, st.integers(0, 50))
def test_symmetric_flips_exactly_the_floor_and_always_really(label, rate, seed):
  done = corruption.symmetric(rng.fold_in(seed), label, rate, K)
  assert int(done.mask.sum()) == int(np.floor(rate * N + 1e-9))
  assert np.array_equal(np.asarray(done.label) != label, done.mask)
  assert done.label.min() >= 0 and done.label.max() < K


@settings(max_examples=25, deadline=None)
@given(labels, rates, st.integers(0, 50))
def test_asymmetric_flips_a_share_of_each_source(label, rate, seed):
  pairs = {0: 3, 3: 0, 2: 5}
  done = corruption.asymmetric(rng.fold_in(seed), label, rate, pairs)
  for c in range(K):
    flipped = np.asarray(done.mask) & (label == c)
    share = int(np.floor(rate * (label == c).sum() + 1e-9))
    assert flipped.sum() == (share if c in pairs else 0)
    assert (np.asarray(done.label)[flipped] == pairs.get(c, c)).all()
  assert np.array_equal(np.asarray(done.label) != label, done.mask)


@settings(max_examples=25, deadline=None)
@given(labels, st.integers(0, N), st.booleans())
def test_poison_hits_the_asked_number_of_eligible_samples(label, count, every):
  eligible = N if every else int((label != 0).sum())
  count = min(count, eligible)
  done = corruption.poison(
    KEY, label, None, patch(), include_target=every, count=count
  )
  mask = np.asarray(done.mask)
  assert mask.sum() == count
  assert (np.asarray(done.label)[mask] == 0).all()
  assert np.array_equal(np.asarray(done.label)[~mask], label[~mask])
  assert every or (label[mask] != 0).all()


@settings(max_examples=20, deadline=None)
@given(labels, rates, rates)
def test_one_key_gives_nested_corruptions(label, one, other):
  draws = [
    lambda rate: corruption.symmetric(KEY, label, rate, K),
    lambda rate: corruption.asymmetric(KEY, label, rate, {1: 2, 4: 0}),
    lambda rate: corruption.poison(
      KEY, label, rate, patch(), include_target=True
    ),
  ]
  for draw in draws:
    inner, outer = draw(min(one, other)), draw(max(one, other))
    assert not (inner.mask & ~outer.mask).any()
    same = jnp.where(inner.mask, inner.label == outer.label, True)
    assert same.all()


@pytest.mark.parametrize(
  'rate,flips', [(0.1, 4900), (0.2, 9800), (0.4, 19600), (0.6, 29400)]
)
def test_published_symmetric_counts(rate, flips):
  assert int(corruption.symmetric(KEY, CIFAR, rate, 10).mask.sum()) == flips


@pytest.mark.parametrize('rate,count', [(0.02, 980), (0.1, 4900), (0.2, 9800)])
def test_published_poison_counts(rate, count):
  done = corruption.poison(KEY, CIFAR, rate, patch())
  assert int(done.mask.sum()) == count
  assert not (np.asarray(done.mask) & (CIFAR == 0)).any()


@pytest.mark.parametrize(
  'rate,count', [(0.02, 1176), (0.1, 5880), (0.2, 11761)]
)
def test_poison_rate_is_of_the_whole_set_rounded(rate, count):
  label = np.arange(58805) % 10
  assert int(corruption.poison(KEY, label, rate, patch()).mask.sum()) == count


def test_symmetric_targets_are_uniform_over_the_other_classes():
  label = np.full(49000, 3)
  moved = corruption.symmetric(KEY, label, 1.0, 10).label
  counts = np.bincount(np.asarray(moved), minlength=10)
  assert counts[3] == 0
  # Each of 9 classes: mean 5444, deviation 70.
  assert abs(np.delete(counts, 3) - 49000 / 9).max() < 350


def test_legacy_indices_are_the_published_ones():
  drawn = corruption.legacy_indices(0, 50000, 500)
  assert drawn[:10].tolist() == [
    *(11841, 19602, 45519, 25747, 42642),
    *(31902, 30346, 12363, 32490, 26128),
  ]
  assert np.array_equal(corruption.legacy_indices(0, 50000, 100), drawn[:100])


def test_given_indices_are_used_exactly():
  label = np.arange(N) % K
  index = np.array([5, 17, 60])
  sources = np.array([3, 9, 11])
  two_way = {3: 5, 5: 3}
  for chosen, done in (
    (index, corruption.symmetric(KEY, label, 0.9, K, indices=index)),
    (sources, corruption.asymmetric(KEY, label, 0.0, two_way, indices=sources)),
    (
      index,
      corruption.poison(
        KEY, label, None, patch(), include_target=True, indices=index
      ),
    ),
  ):
    assert np.flatnonzero(done.mask).tolist() == chosen.tolist()
  swapped = corruption.asymmetric(KEY, label, 0.0, two_way, indices=sources)
  assert swapped.label[sources].tolist() == [5, 5, 3]


def test_class_maps_are_the_published_ones():
  maps = corruption.CLASS_MAPS
  assert maps['mnist'] == {7: 1, 2: 7, 5: 6, 6: 5, 3: 8} == maps['digits']
  assert maps['cifar10'] == {9: 1, 2: 0, 3: 5, 5: 3, 4: 7}
  assert 'fashion_mnist' not in maps


def test_cifar100_map_is_a_five_cycle_in_every_superclass():
  pairs = corruption.CLASS_MAPS['cifar100']
  group = np.array(class_maps.CIFAR100_SUPERCLASS)
  assert (np.bincount(group) == 5).all() and group.size == 100
  assert sorted(pairs) == sorted(pairs.values()) == list(range(100))
  for source, target in pairs.items():
    assert group[source] == group[target]
    later = [c for c in np.flatnonzero(group == group[source]) if c > source]
    assert target == (
      later[0] if later else min(np.flatnonzero(group == group[source]))
    )
  # Aquatic mammals: beaver, dolphin, otter, seal, whale.
  assert [pairs[c] for c in (4, 30, 55, 72, 95)] == [30, 55, 72, 95, 4]


def test_class_map_reads_names_numbers_and_text():
  names = ('cat', 'dog', 'cow')
  assert corruption.resolve_class_map({'cat': 'dog', 2: '0'}, names) == {
    0: 1,
    2: 0,
  }
  assert (
    corruption.resolve_class_map('cifar10') == corruption.CLASS_MAPS['cifar10']
  )


def test_apply_relabels_and_stamps_without_touching_pixels():
  image = jnp.zeros((N, 8, 8, 1), jnp.uint8)
  batch = Batch(image, jnp.arange(N) % K)
  poisoned = corruption.poison(KEY, batch.label, 0.2, patch())
  seen = corruption.apply(poisoned, batch)
  assert np.array_equal(seen.has_trigger, poisoned.mask)
  assert np.array_equal(seen.label, poisoned.label)
  assert not seen.image.any()
  noisy = corruption.symmetric(KEY, batch.label, 0.2, K)
  assert corruption.apply(noisy, batch).has_trigger is None
  with pytest.raises(errors.UserError, match='of 120 samples, the batch has 9'):
    corruption.apply(noisy, Batch(image[:9], batch.label[:9]))


LABEL = np.arange(N) % K
MISTAKES = {
  'rate': lambda: corruption.symmetric(KEY, LABEL, 40.0, K),
  'label 5 of sample 5': lambda: corruption.symmetric(KEY, LABEL, 0.1, 5),
  'at least 2 classes': lambda: corruption.symmetric(KEY, LABEL, 0.1, 1),
  'indices run outside': lambda: corruption.symmetric(
    KEY, LABEL, 0.0, K, indices=np.array([N])
  ),
  'duplicates': lambda: corruption.symmetric(
    KEY, LABEL, 0.0, K, indices=np.array([1, 1])
  ),
  'names class 9, but classes are 0..5': lambda: corruption.asymmetric(
    KEY, LABEL, 0.1, {0: 9}, num_classes=K
  ),
  'does not move': lambda: corruption.asymmetric(
    KEY, LABEL, 0.0, {0: 1}, indices=np.array([1])
  ),
  'class_map is empty': lambda: corruption.resolve_class_map({}),
  'to itself': lambda: corruption.resolve_class_map({2: 2}),
  "did you mean 'mnist'": lambda: corruption.resolve_class_map('mnis'),
  "did you mean 'cat'": lambda: corruption.resolve_class_map(
    {'caat': 1}, ('cat', 'd')
  ),
  'cannot poison 120 samples: 100': lambda: corruption.poison(
    KEY, LABEL, 1.0, patch()
  ),
  'exactly one of': lambda: corruption.poison(KEY, LABEL, None, patch()),
  'target class 0': lambda: corruption.poison(
    KEY, LABEL, None, patch(), indices=np.array([0])
  ),
  'cannot choose 5 of 4': lambda: corruption.legacy_indices(0, 4, 5),
}


@pytest.mark.parametrize('message', MISTAKES)
def test_mistakes_are_one_clear_line(message):
  with pytest.raises(errors.UserError, match=message) as caught:
    MISTAKES[message]()
  assert '\n' not in str(caught.value)
