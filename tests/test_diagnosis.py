"""Which corruption samples with wrong labels show, and how sure that is."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmu_jax import networks
from cmu_jax.core import errors
from cmu_jax.core.types import Batch, Network
from cmu_jax.data import input_step
from cmu_jax.methods import diagnosis
from cmu_jax.methods.diagnosis import codes
from cmu_jax.training import metrics

KEY = jax.random.key(0)
MAP = {7: 1, 2: 7, 5: 6, 6: 5, 3: 8}
UNEVEN = np.random.default_rng(3).dirichlet(np.full(9, 0.3), 10)


def wrong(kind, truth, random):
  """Wrong labels of images of these true classes."""
  if kind == 'symmetric':
    return (truth + random.integers(1, 10, len(truth))) % 10
  if kind == 'asymmetric':
    return np.array([MAP[c] for c in truth])
  if kind == 'interclass':
    return 8 - truth
  if kind == 'one_target':
    return np.zeros_like(truth)
  step = [1 + random.choice(9, p=UNEVEN[c]) for c in truth]
  return (truth + np.array(step)) % 10


CLASSES = {
  'symmetric': range(10),
  'asymmetric': tuple(MAP),
  'interclass': (1, 7),
  'one_target': range(1, 10),
  'transition': range(10),
}


def samples(kind, count=300, learnt=0.3, error=0.1, seed=0):
  """Probabilities of a network that errs and gives some wrong labels."""
  random = np.random.default_rng(seed)
  truth = random.choice(list(CLASSES[kind]), count)
  label = wrong(kind, truth, random)
  seen = np.where(random.random(count) < learnt, label, truth)
  missed = random.random(count) < error
  seen = np.where(missed, random.integers(0, 10, count), seen)
  probability = 0.01 * random.random((count, 10))
  probability[np.arange(count), np.where(missed, seen, truth)] += 0.3
  probability[np.arange(count), seen] += 0.6
  return probability / probability.sum(1, keepdims=True), label


@pytest.mark.parametrize('kind', diagnosis.FAMILIES)
def test_each_family_is_named_with_its_classes_and_how_sure_that_is(kind):
  share = 0.0 if kind == 'symmetric' else 0.3  # cannot be learnt for others
  probability, label = samples(kind, learnt=share)
  found = diagnosis.diagnose(KEY, probability, label, halves=60)
  assert found.family == found.record['best'] == kind
  assert found.confidence > 0.95
  json.dumps(found.record, allow_nan=False)
  named = {k: found.record.get(k) for k in ('pair', 'target')}
  assert (named['pair'] == [1, 7]) == (kind == 'interclass')
  assert (named['target'] == 0) == (kind == 'one_target')
  if kind == 'asymmetric':
    pairs = [tuple(pair) for pair in found.record['class_map']]
    assert set(MAP.items()) <= set(pairs)
  assert sum(found.record['share'].values()) == pytest.approx(1)


@pytest.mark.parametrize('kind', ('asymmetric', 'interclass', 'one_target'))
@pytest.mark.parametrize('share, learnt', [(0.0, False), (0.3, True)])
def test_what_was_learnt_is_told_from_chance(kind, share, learnt):
  found = diagnosis.diagnose(KEY, *samples(kind, learnt=share), halves=60)
  assert found.record['learnt'] is learnt
  assert found.family == kind  # the samples show it all the same


@pytest.mark.parametrize('kind', ('asymmetric', 'interclass', 'transition'))
def test_many_samples_do_not_take_errors_of_the_network_for_structure(kind):
  # Where the truth is guessed wrongly the wrong label is still one of few.
  found = diagnosis.diagnose(KEY, *samples(kind, 3000, error=0.3), halves=20)
  assert found.family == kind and found.confidence > 0.95


def test_under_symmetric_noise_the_errors_are_counted():
  probability, label = samples('symmetric', 2000, learnt=0.0, error=0.5)
  record = diagnosis.diagnose(KEY, probability, label, halves=60).record
  low, high = record['error_interval']
  assert low < 0.45 < high and high - low < 0.2  # a tenth hits the truth
  assert record['learnt'] is None and record['chance'] is None


def test_no_agreement_does_not_mean_no_errors():
  assert diagnosis.error_interval(0, 100, 10) == pytest.approx(
    (0, 9 * (1 - 0.05**0.01))
  )
  assert diagnosis.error_interval(100, 100, 2) == pytest.approx((0.05**0.01, 1))
  random = np.random.default_rng(0)  # errors of .3 hit the label in a ninth
  ends = [
    diagnosis.error_interval(int(x), 300, 10)
    for x in random.binomial(300, 0.3 / 9, 400)
  ]
  covered = np.mean([low <= 0.3 <= high for low, high in ends])
  assert 0.88 < covered < 0.98


def test_right_labels_and_too_few_samples_are_unclear():
  probability, _ = samples('symmetric', learnt=0.0)
  found = diagnosis.diagnose(KEY, probability, probability.argmax(1), halves=9)
  assert found.family == 'unclear' and found.record['labels_look_right']
  probability, label = samples('symmetric', count=1)
  found = diagnosis.diagnose(KEY, probability, label, halves=9)
  assert found.family == 'unclear' and not found.record['labels_look_right']
  with pytest.raises(errors.UserError, match='at least one image'):
    diagnosis.diagnose(KEY, probability[:0], label[:0])


def test_confidence_grows_with_the_samples():
  few, many = (
    np.mean(
      [
        diagnosis.diagnose(
          KEY, *samples('asymmetric', count, 0.2, seed=seed), halves=40
        ).record['share']['asymmetric']
        for seed in range(4)
      ]
    )
    for count in (12, 120)
  )
  assert few < many - 0.2


def test_the_table_by_hand():
  probability = np.array([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.2, 0.5, 0.3]])
  label = np.array([0, 2, 0])
  found = codes.tally(probability, label)
  # The best guess of a truth is never the label that is known to be wrong.
  table = [[0, 0, 0], [2, 0, 1], [0, 0, 0]]
  np.testing.assert_array_equal(found.moved, [table])
  np.testing.assert_array_equal(
    found.predicted, [[[1, 0, 0], [1, 0, 0], [0, 0, 1]]]
  )


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 40))
def test_weights_count_as_repeats_and_names_of_classes_do_not_matter(
  seed, count
):
  random = np.random.default_rng(seed)
  probability = random.dirichlet(np.ones(5), count)
  label = random.integers(0, 5, count)
  weight = random.integers(0, 3, (2, count))
  both = codes.tally(probability, label, weight)
  for row in range(2):
    index = np.repeat(np.arange(count), weight[row])
    one = codes.tally(probability[index], label[index])
    np.testing.assert_array_equal(both.moved[row], one.moved[0])
    np.testing.assert_array_equal(both.predicted[row], one.predicted[0])
  order = random.permutation(5)
  # Counts that are equal are taken in the order of the classes: here none are.
  apart = random.integers(1, 10**6, (1, count))
  renamed = codes.tally(probability[:, order], np.argsort(order)[label], apart)
  np.testing.assert_allclose(
    codes.code_lengths(renamed),
    codes.code_lengths(codes.tally(probability, label, apart)),
    rtol=1e-9,
  )


def test_code_lengths_are_those_of_a_proper_code():
  """Over all sequences of three images the likelihoods sum to at most one."""
  cells = [(i, j) for i in range(3) for j in range(3) if i != j]
  moved = np.zeros((len(cells) ** 3, 3, 3), int)
  for row, sequence in enumerate(itertools.product(cells, repeat=3)):
    for i, j in sequence:
      moved[row, i, j] += 1
  # No image agrees, so that agreement costs nothing.
  shown = codes.Tally(moved, moved)
  total = np.exp(-codes.code_lengths(shown)).sum(axis=0)
  assert (total <= 1 + 1e-9).all() and (total > 0.05).all()


def test_too_many_agreements_speak_against_symmetric_noise():
  moved = np.repeat(20 * (1 - np.eye(3, dtype=int))[None], 3, axis=0)
  seen = np.zeros_like(moved)
  seen[:, 0, 0] = 0, 50, 100  # of 120; random labels allow for one half
  seen[:, 0, 1] = 120 - seen[:, 0, 0]
  lengths = codes.code_lengths(codes.Tally(moved, seen))
  none, few, many = lengths[:, diagnosis.FAMILIES.index('symmetric')]
  assert none == few < many - 20
  other = lengths[:, diagnosis.FAMILIES.index('transition')]
  assert none < other[0] and many > other[2]


def test_probabilities_are_those_of_the_network():
  model = networks.make('fc', 3, (4, 4, 1), width=5)
  step = input_step.make((0.5,), (0.5,))
  image = jnp.asarray(
    np.random.default_rng(0).integers(0, 256, (7, 4, 4, 1)), jnp.uint8
  )
  variables = jax.jit(model.init)(KEY, step.eval(image[:1], None))
  batch = Batch(image, jnp.zeros(7, jnp.int32))
  found = metrics.probabilities(
    Network(model, step), variables, batch, batch_size=3
  )
  logits = model.apply(variables, step.eval(image, None))
  np.testing.assert_allclose(found, jax.nn.softmax(logits), atol=1e-5)
