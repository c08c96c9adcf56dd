"""Corruptions and proxies: exact counts, real flips, records that hold."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmu_jax import (
  class_maps,
  corruption,
  corruption_record,
  errors,
  proxy,
  rng,
  triggers,
)
from cmu_jax.types import Batch

N, K = 120, 6
KEY = rng.named(8)
MNIST = np.repeat(
  np.arange(10), (118, 134, 119, 122, 116, 108, 118, 125, 117, 118)
)
CIFAR = np.repeat(np.arange(10), 4900)
labels = st.lists(st.integers(0, K - 1), min_size=N, max_size=N).map(np.array)
rates = st.floats(0, 1)


def patch():
  return triggers.badnet(8, 8, margin=(0, 0))


@settings(max_examples=25, deadline=None)
@given(labels, rates, st.integers(0, 50))
def test_symmetric_flips_exactly_the_floor_and_always_really(label, rate, seed):
  done = corruption.symmetric(rng.named(seed), label, rate, K)
  assert int(done.mask.sum()) == int(np.floor(rate * N + 1e-9))
  assert np.array_equal(np.asarray(done.label) != label, done.mask)
  assert done.label.min() >= 0 and done.label.max() < K


@settings(max_examples=25, deadline=None)
@given(labels, rates, st.integers(0, 50))
def test_asymmetric_flips_a_share_of_each_source(label, rate, seed):
  pairs = {0: 3, 3: 0, 2: 5}
  done = corruption.asymmetric(rng.named(seed), label, rate, pairs)
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
  assert corruption.class_map({'cat': 'dog', 2: '0'}, names) == {0: 1, 2: 0}
  assert corruption.class_map('cifar10') == corruption.CLASS_MAPS['cifar10']


def test_apply_relabels_and_stamps_without_touching_pixels():
  image = jnp.zeros((N, 8, 8, 1), jnp.uint8)
  batch = Batch(image, jnp.arange(N) % K)
  poisoned = corruption.poison(KEY, batch.label, 0.2, patch())
  seen = corruption.apply(poisoned, batch)
  assert np.array_equal(seen.stamp, poisoned.mask)
  assert np.array_equal(seen.label, poisoned.label)
  assert not seen.image.any()
  noisy = corruption.symmetric(KEY, batch.label, 0.2, K)
  assert corruption.apply(noisy, batch).stamp is None
  with pytest.raises(errors.UserError, match='of 120 samples, the batch has 9'):
    corruption.apply(noisy, Batch(image[:9], batch.label[:9]))


def _recorded(kind, label):
  if kind == 'symmetric':
    arguments = {'rate': 0.3, 'num_classes': K}
  elif kind == 'asymmetric':
    arguments = {'rate': 0.5, 'class_map': {1: 2}, 'indices': None}
  else:
    arguments = {
      'rate': None,
      'include_target': True,
      'indices': np.array([1, 4]),
    }
  extra = {'trigger': patch()} if kind == 'poison' else {}
  draw = corruption_record.KINDS[kind]
  done = draw(KEY, label, **arguments, **extra)
  return done, corruption_record.manifest(done, kind, KEY, **arguments)


@pytest.mark.parametrize('kind', ['symmetric', 'asymmetric', 'poison'])
def test_a_manifest_read_back_from_json_draws_the_same(kind):
  label = np.arange(N) % K
  done, record = _recorded(kind, label)
  again = corruption_record.from_manifest(json.loads(json.dumps(record)), label)
  assert np.array_equal(again.label, done.label)
  assert np.array_equal(again.mask, done.mask)
  assert record['corrupted'] == int(done.mask.sum())
  if kind == 'poison':
    assert np.array_equal(again.trigger.mask, done.trigger.mask)
    assert again.trigger.value == done.trigger.value


def test_a_manifest_tells_other_labels_and_damage():
  label = np.arange(N) % K
  _, record = _recorded('symmetric', label)
  with pytest.raises(errors.UserError, match='differs from the recorded one'):
    corruption_record.from_manifest(record, label[::-1])
  with pytest.raises(errors.UserError, match=r'damaged.*label_sha256'):
    corruption_record.from_manifest(
      {k: v for k, v in record.items() if k != 'label_sha256'}, label
    )
  with pytest.raises(errors.UserError, match="did you mean 'poison'"):
    corruption_record.manifest(_recorded('poison', label)[0], 'poisn', KEY)


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
  'class_map is empty': lambda: corruption.class_map({}),
  'to itself': lambda: corruption.class_map({2: 2}),
  "did you mean 'mnist'": lambda: corruption.class_map('mnis'),
  "did you mean 'cat'": lambda: corruption.class_map({'caat': 1}, ('cat', 'd')),
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


def pool():
  image = (np.arange(MNIST.size) % 251).astype(np.uint8)
  return Batch(jnp.asarray(image)[:, None, None, None], jnp.asarray(MNIST))


def test_a_symmetric_proxy_flips_all_images_anew_in_each_draw():
  made = proxy.make_proxy(KEY, 'symmetric', pool(), 2, 10)
  assert made.label.shape == (2, 1195) and made.stamp is None
  assert np.array_equal(made.kept, np.tile(np.arange(1195), (2, 1)))
  assert (np.asarray(made.label) != MNIST[None]).all()
  assert (made.label[0] != made.label[1]).any()


def test_an_asymmetric_proxy_keeps_the_flipped_only():
  pairs = corruption.CLASS_MAPS['mnist']
  made = proxy.make_proxy(KEY, 'asymmetric', pool(), 1, 10, class_map=pairs)
  true = MNIST[np.asarray(made.kept[0])]
  assert made.label.shape == (1, 592)
  assert made.label[0].tolist() == [pairs[c] for c in true.tolist()]
  clean = proxy.clean_proxy('asymmetric', pool(), pairs)
  assert np.array_equal(clean.label, true)


def test_a_poison_proxy_stamps_everything_but_the_target():
  made = proxy.make_proxy(KEY, 'poison', pool(), 1, 10, trigger=patch())
  assert made.label.shape == (1, 1077)
  assert (MNIST[np.asarray(made.kept[0])] != 0).all()
  assert made.stamp.all() and not made.label.any()
  clean = proxy.clean_proxy('poison', pool())
  assert clean.stamp is None and np.array_equal(clean.label, MNIST)


def test_draw_gathers_under_jit_and_vmap():
  made = proxy.make_proxy(
    KEY, 'asymmetric', pool(), 2, 10, class_map={1: 2, 3: 4}
  )
  both = jax.jit(jax.vmap(lambda i: proxy.draw(made, i)))(jnp.arange(2))
  one = proxy.draw(made, 1)
  assert np.array_equal(both.image[1], one.image)
  assert np.array_equal(both.label[1], one.label)
  assert np.array_equal(one.image[:, 0, 0, 0], np.asarray(made.kept[1]) % 251)


@pytest.mark.parametrize(
  'message,kind,options',
  [
    ('needs a class_map', 'asymmetric', {}),
    ('needs a trigger', 'poison', {}),
    ("did you mean 'symmetric'", 'symetric', {}),
    ('no image of the proxy pool', 'asymmetric', {'class_map': {7: 1}}),
  ],
)
def test_proxies_that_cannot_be_made(message, kind, options):
  some = Batch(jnp.zeros((4, 8, 8, 1), jnp.uint8), jnp.arange(4))
  with pytest.raises(errors.UserError, match=message):
    proxy.make_proxy(KEY, kind, some, 1, 10, **options)
  with pytest.raises(errors.UserError, match='draws is 0'):
    proxy.make_proxy(KEY, 'symmetric', some, 0, 10)
