"""Every kind of corruption: what all must keep, and the counts of each."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import replay
from hypothesis import given, settings
from hypothesis import strategies as st

from cmu_jax.core import errors, rng
from cmu_jax.core.types import Batch
from cmu_jax.data import corruption, proxy_sets
from cmu_jax.data.corruption import label_noise, transition_noise, triggers
from cmu_jax.data.corruption import record as record_lib

N, K = 120, 6
KEY = rng.fold_in(8)
LABEL = np.random.default_rng(1).integers(0, K, N)
HUMAN = np.where(np.arange(N) % 3, LABEL, (LABEL + 2) % K).astype(np.int32)
MATRIX = transition_noise.estimate_transition(
  np.random.default_rng(2).integers(0, 90, (K, K))
)
# What each kind takes beyond key, label and rate; a new one needs a line.
ARGUMENTS = {
  'symmetric': {'num_classes': K},
  'asymmetric': {'class_map': {0: 3, 3: 0, 2: 5}},
  'transition': {'matrix': MATRIX},
  'interclass': {'pair': (3, 5)},
  'constant': {'target': 2},
  'human': {'human': HUMAN},
  'poison': {'trigger': triggers.badnet(8, 8, margin=(0, 0)), 'target': 1},
}
ARGUMENTS['clean_label'] = ARGUMENTS['poison']
# The images that a proxy can use; all of them for the other kinds.
CHANGED = {
  'asymmetric': np.isin(LABEL, (0, 3, 2)),
  'constant': LABEL != 2,
  'human': HUMAN != LABEL,
  'poison': LABEL != 1,
  'clean_label': LABEL != 1,
}
every_kind = pytest.mark.parametrize('kind', corruption.KINDS)


def draw(kind, rate, label=LABEL, key=KEY):
  return corruption.KINDS[kind].draw(key, label, rate, **ARGUMENTS[kind])


@every_kind
@settings(max_examples=12, deadline=None)
@given(st.floats(0, 0.3), st.floats(0, 0.3), st.integers(0, 9))
def test_one_key_gives_nested_sets_that_are_marked(kind, one, other, seed):
  key = rng.fold_in(seed)
  low, high = (draw(kind, rate, key=key) for rate in sorted((one, other)))
  assert not (low.mask & ~high.mask).any()
  assert jnp.where(low.mask, low.label == high.label, True).all()
  for done in (low, high):
    changed = done.mask & (kind != 'clean_label')
    assert np.array_equal(np.asarray(done.label) != LABEL, changed)
    assert done.label.dtype == jnp.int32 and done.label.max() < K


@every_kind
def test_a_rate_of_zero_changes_nothing_and_keys_differ(kind):
  assert not draw(kind, 0.0).mask.any()
  again = [draw(kind, 0.3, key=rng.fold_in(seed)) for seed in (1, 1, 2)]
  assert np.array_equal(again[0].mask, again[1].mask)
  assert not np.array_equal(again[0].mask, again[2].mask)


@every_kind
def test_a_record_read_back_from_json_draws_the_same(kind):
  done, facts = draw(kind, 0.3), {'rate': 0.3, **ARGUMENTS[kind]}
  record = record_lib.make_record(done, kind, KEY, **facts)
  read = json.loads(json.dumps(record))
  apart = corruption.KINDS[kind].per_sample
  given = {name: facts[name] for name in apart}
  again = replay.draw_again(read, LABEL, **given)
  assert np.array_equal(again.label, done.label)
  assert np.array_equal(again.mask, done.mask)
  assert record['corrupted'] == int(done.mask.sum())
  assert set(apart).isdisjoint(read['arguments'])


def test_a_record_keeps_published_index_sets_and_the_trigger():
  trigger, index = ARGUMENTS['poison']['trigger'], np.array([1, 4])
  facts = {'rate': None, 'include_target': True, 'indices': index}
  done = corruption.poison(KEY, LABEL, trigger=trigger, **facts)
  record = record_lib.make_record(done, 'poison', KEY, **facts)
  again = replay.draw_again(json.loads(json.dumps(record)), LABEL)
  assert np.flatnonzero(again.mask).tolist() == index.tolist()
  assert np.array_equal(again.trigger.mask, trigger.mask)
  assert again.trigger.value == trigger.value


def test_a_record_tells_other_labels_and_damage():
  facts = {'rate': 0.3, 'num_classes': K}
  done = corruption.symmetric(KEY, LABEL, **facts)
  record = record_lib.make_record(done, 'symmetric', KEY, **facts)
  with pytest.raises(errors.UserError, match='differs from the recorded one'):
    replay.draw_again(record, LABEL[::-1])
  del record['label_sha256']
  with pytest.raises(errors.UserError, match=r'damaged.*label_sha256'):
    replay.draw_again(record, LABEL)
  with pytest.raises(errors.UserError, match="did you mean 'poison'"):
    record_lib.make_record(done, 'poisn', KEY)


@every_kind
def test_a_proxy_keeps_what_really_changes(kind):
  pool = Batch(jnp.zeros((N, 8, 8, 1), jnp.uint8), jnp.asarray(LABEL))
  facts = {n: v for n, v in ARGUMENTS[kind].items() if n != 'num_classes'}
  made = proxy_sets.make_proxy(KEY, kind, pool, 2, K, **facts)
  for kept, label in zip(made.positions, made.label, strict=True):
    assert (np.asarray(label) != LABEL[np.asarray(kept)]).all()
  changed = CHANGED.get(kind, np.full(N, True))
  if kind == 'interclass':
    fewest = min((LABEL == 3).sum(), (LABEL == 5).sum())
    moved = np.bincount(LABEL[np.asarray(made.positions[0])], minlength=K)
    assert moved.tolist() == [0, 0, 0, fewest, 0, fewest]
  else:
    assert np.array_equal(made.positions[0], np.flatnonzero(changed))
  clean = proxy_sets.make_clean_proxy(kind, pool, **facts)
  partly = {'asymmetric': (0, 2, 3), 'interclass': (3, 5)}
  seen = np.isin(LABEL, partly.get(kind, range(K)))
  assert np.array_equal(clean.label, LABEL[seen])


@settings(max_examples=15, deadline=None)
@given(st.floats(0, 1), st.integers(0, 50))
def test_transition_flips_the_floor_of_every_class(rate, seed):
  done = draw('transition', rate, key=rng.fold_in(seed))
  flipped = np.bincount(LABEL[np.asarray(done.mask)], minlength=K)
  share = np.floor(rate * np.bincount(LABEL, minlength=K) + 1e-9)
  assert np.array_equal(flipped, share)


def test_transition_targets_follow_the_rows():
  rows = np.array([[0, 0.7, 0.3, 0], [0, 0, 0, 1], [0.5, 0, 0, 0.5]])
  rows = np.concatenate([rows, [[1, 0, 0, 0]]])
  label = np.arange(40000) % 4
  moved = np.asarray(corruption.transition(KEY, label, 1.0, rows).label)
  found = np.stack([np.bincount(moved[c::4], minlength=4) for c in range(4)])
  assert (found[rows == 0] == 0).all()
  # 10,000 of each class: the deviation is below 50.
  assert abs(found - 10000 * rows).max() < 250


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 1))
def test_interclass_exchanges_equally_many(rate):
  label = np.repeat([3, 5, 1], [40, 25, 9])
  done = corruption.interclass(KEY, label, rate, (3, 5))
  mask, moved = np.asarray(done.mask), np.asarray(done.label)
  count = int(np.floor(rate * 25 + 1e-9))
  assert [(label[mask] == c).sum() for c in (3, 5, 1)] == [count, count, 0]
  assert (moved[mask] == 8 - label[mask]).all()


def test_the_published_interclass_sets_come_first_in_the_data():
  label = np.array([9, 3, 5, 3, 5, 5, 3])
  index = label_noise.first_of_each(label, (3, 5), 2)
  assert index.tolist() == [1, 3, 2, 4]
  done = corruption.interclass(KEY, label, 0.0, (3, 5), indices=index)
  assert done.label.tolist() == [9, 5, 3, 5, 3, 5, 3]


def test_constant_relabels_the_floor_of_all():
  done = corruption.constant(KEY, LABEL, 0.29, 2)
  assert int(done.mask.sum()) == 34
  assert (np.asarray(done.label)[np.asarray(done.mask)] == 2).all()


def test_human_labels_are_used_as_they_are():
  done = draw('human', None)
  assert np.array_equal(done.label, HUMAN)
  assert np.array_equal(done.mask, np.arange(N) % 3 == 0)


def test_clean_label_poison_stamps_a_share_of_the_target_class():
  done = draw('clean_label', 0.5)
  members = LABEL == 1
  assert int(done.mask.sum()) == members.sum() // 2
  assert members[np.asarray(done.mask)].all() and done.trigger is not None
  given = corruption.clean_label(
    KEY, LABEL, 0.0, **ARGUMENTS['poison'], indices=np.flatnonzero(members)[:3]
  )
  assert (
    np.flatnonzero(given.mask).tolist() == members.nonzero()[0][:3].tolist()
  )


MISTAKES = {
  'than the target class 1': lambda: corruption.clean_label(
    KEY, LABEL, 0.0, **ARGUMENTS['poison'], indices=np.array([0, 1, 2, 3])
  ),
  'exchange|two different': lambda: corruption.interclass(
    KEY, LABEL, 0.1, (3, 3)
  ),
  'of other classes': lambda: corruption.interclass(
    KEY, np.array([1, 3, 5]), 0.1, (3, 5), indices=np.array([0])
  ),
  'cannot take 90': lambda: label_noise.first_of_each(LABEL, (3, 5), 90),
  'cannot relabel 120': lambda: corruption.constant(KEY, LABEL, 1.0, 0),
  'human labels meet': lambda: corruption.human(KEY, LABEL, None, HUMAN[1:]),
  'cannot corrupt 60': lambda: draw('human', 0.5),
  'label 5 of sample': lambda: corruption.transition(
    KEY, np.array([5]), 0.1, MATRIX[:5, :5] / MATRIX[:5, :5].sum(1)[:, None]
  ),
  "did you mean 'constant'": lambda: corruption.find_kind('constan'),
}


@pytest.mark.parametrize('message', MISTAKES)
def test_mistakes_are_one_clear_line(message):
  with pytest.raises(errors.UserError, match=message) as caught:
    MISTAKES[message]()
  assert '\n' not in str(caught.value)


@every_kind
def test_a_proxy_without_its_arguments_is_refused(kind):
  pool = Batch(jnp.zeros((N, 8, 8, 1), jnp.uint8), jnp.asarray(LABEL))
  # The number of classes is always given, and a target has a default.
  if ARGUMENTS[kind].keys() - {'num_classes', 'target'}:
    with pytest.raises(errors.UserError, match='proxy needs'):
      proxy_sets.make_proxy(KEY, kind, pool, 1, K)


def test_a_name_that_is_no_kind_is_no_attribute():
  assert corruption.human is corruption.KINDS['human'].draw
  assert {'human', 'apply', 'KINDS'} <= set(dir(corruption))
  with pytest.raises(AttributeError, match='symetric'):
    _ = corruption.symetric
