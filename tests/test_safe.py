"""Cross-fitting and the bootstrap: closed forms, and what is held out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_select
from hypothesis import given, settings
from hypothesis import strategies as st

from cmu_jax.core import errors
from cmu_jax.core.types import Batch, Trigger
from cmu_jax.data import proxy_sets
from cmu_jax.methods.cuts import alpha_rules, cross_fitting


@pytest.mark.parametrize('case', test_select.GOLDEN)
def test_unit_weights_give_the_golden_row(case):
  spread, bias, k, share, objective, _ = test_select.GOLDEN[case]
  x, logits = test_select.golden_inputs(spread, bias)
  with jax.enable_x64(True):
    found = jax.jit(cross_fitting.image_terms, static_argnames='k')(
      jnp.asarray(x), jnp.asarray(logits), k=k
    )
    stacked = jax.tree.map(lambda t: jnp.stack([t, t]), found)
    score = cross_fitting.resampled_objective(
      stacked, jnp.ones((3, 60), int), k=k, class_share=share
    )
  assert score.shape == (3, 2)
  np.testing.assert_allclose(score, objective, rtol=1e-9, atol=1e-9)


def random_terms(seed, alphas=5, samples=40, classes=4, k=3):
  generator = np.random.default_rng(seed)
  features = generator.normal(size=(alphas, samples, 6))
  logits = 2 * features[..., :classes]
  return jax.vmap(lambda x, y: cross_fitting.image_terms(x, y, k=k))(
    jnp.asarray(features, jnp.float32), jnp.asarray(logits, jnp.float32)
  )


def objective_of_one(found, weight, k, share):
  """J of one resample at one alpha, image by image."""
  classes = found.probability.shape[-1]
  same, mean, counts = 0.0, np.zeros(classes), np.zeros(classes)
  for i, times in enumerate(weight):
    same += times * found.same[i] / weight.sum()
    mean += times * found.probability[i] / weight.sum()
    counts[found.predicted[i]] += times
  chance = (mean**2).sum()
  required = max(2, int(np.ceil(share * classes)))
  supported = (counts >= min(k + 1, max(3, k))).sum()
  if supported < 2:
    return -1e6 - (2 - supported)
  lost = max(0, required - 1 / chance) + max(0, required - supported)
  return (same - chance) / (1 - chance) - lost / required


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10**6), st.sampled_from([0.5, 1.0]))
def test_a_resample_is_what_a_loop_over_its_images_gives(seed, share):
  found = random_terms(seed)
  weight = cross_fitting.bootstrap_counts(jax.random.key(seed), 6, 40)
  score = cross_fitting.resampled_objective(
    found, weight, k=3, class_share=share
  )
  host = jax.tree.map(np.asarray, found)
  for b, row in enumerate(np.asarray(weight)):
    for a in range(5):
      one = cross_fitting.ImageTerms(*(x[a] for x in host))
      expected = objective_of_one(one, row, 3, share)
      np.testing.assert_allclose(score[b, a], expected, rtol=1e-5, atol=1e-5)


def test_unit_weights_equal_the_published_score_in_float32():
  generator = np.random.default_rng(0)
  features = jnp.asarray(generator.normal(size=(300, 16)), jnp.float32)
  logits = 3 * features[:, :10]
  found = jax.tree.map(
    lambda x: x[None], cross_fitting.image_terms(features, logits, k=15)
  )
  weight = cross_fitting.bootstrap_counts(jax.random.key(0), 1, 300)
  one = cross_fitting.resampled_objective(found, weight, k=15)[0, 0]
  expected = alpha_rules.agreement(features, logits, k=15).J
  np.testing.assert_allclose(one, expected, atol=1e-6)


def test_resamples_have_the_mean_and_variance_of_the_bootstrap():
  weight = np.asarray(
    cross_fitting.bootstrap_counts(jax.random.key(1), 4000, 20)
  )
  assert weight.shape == (4001, 20) and np.all(weight[0] == 1)
  assert np.all(weight.sum(1) == 20)
  np.testing.assert_allclose(weight[1:].mean(), 1.0)
  np.testing.assert_allclose(weight[1:].var(0), 1 - 1 / 20, atol=0.12)


def pool(size, classes=4):
  image = np.zeros((size, 2, 2, 1), np.uint8)
  image[:, 0, 0, 0] = np.arange(size)
  return Batch(jnp.asarray(image), jnp.arange(size, dtype=jnp.int32) % classes)


KINDS = {
  'symmetric': {},
  'asymmetric': {'class_map': {0: 1, 2: 0}},
  'poison': {
    'trigger': Trigger(jnp.ones((2, 2), bool), jnp.float32(255)),
    'target': 1,
  },
}


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('folds', [2, 3])
def test_no_image_judges_a_vector_that_saw_it(kind, folds):
  whole = proxy_sets.make_proxy(
    jax.random.key(0), kind, pool(41), 2, 4, **KINDS[kind]
  )
  found = cross_fitting.split(jax.random.key(1), whole, folds)
  assert found.held_out.shape == (folds, 41 // folds)
  assert len(np.unique(found.held_out)) == found.held_out.size
  assert found.proxy.label.shape[0] == 2 * folds
  label = {
    (draw, int(i)): int(value)
    for draw in range(2)
    for i, value in zip(whole.positions[draw], whole.label[draw], strict=True)
  }
  for row, kept in enumerate(np.asarray(found.proxy.positions)):
    fold, draw = divmod(row, 2)
    assert not set(kept.tolist()) & set(found.held_out[fold].tolist())
    assert len(set(kept.tolist())) == len(kept)
    given = [label[draw, i] for i in kept.tolist()]
    assert given == found.proxy.label[row].tolist()
  assert (found.proxy.has_trigger is None) == (kind != 'poison')
  # No more is left out than makes the sizes equal.
  sizes = [
    np.isin(whole.positions[0], fold, invert=True).sum()
    for fold in found.held_out
  ]
  assert found.proxy.label.shape[1] == min(sizes)


def test_labels_play_no_part_in_the_folds():
  whole = proxy_sets.make_proxy(jax.random.key(0), 'symmetric', pool(20), 1, 4)
  blind = whole._replace(label=jnp.zeros_like(whole.label))
  one, other = (
    cross_fitting.split(jax.random.key(1), p, 2) for p in (whole, blind)
  )
  np.testing.assert_array_equal(one.held_out, other.held_out)
  changed = cross_fitting.split(jax.random.key(2), whole, 2)
  assert not np.array_equal(one.held_out, changed.held_out)


@pytest.mark.parametrize('folds, match', [(1, 'use 2 or more'), (9, 'fill 9')])
def test_folds_that_cannot_be(folds, match):
  whole = proxy_sets.make_proxy(jax.random.key(0), 'symmetric', pool(8), 1, 4)
  with pytest.raises(errors.UserError, match=match):
    cross_fitting.split(jax.random.key(1), whole, folds)


def test_a_fold_that_leaves_nothing_is_refused():
  image = pool(4)
  whole = proxy_sets.make_proxy(
    jax.random.key(0), 'asymmetric', image, 1, 4, class_map={0: 1}
  )
  with pytest.raises(errors.UserError, match='no image to fine-tune'):
    cross_fitting.split(jax.random.key(1), whole, 2)


def test_corrupted_labels_of_the_images_that_judge():
  whole = proxy_sets.make_proxy(
    jax.random.key(0), 'asymmetric', pool(8), 2, 4, class_map={0: 1, 2: 0}
  )
  held = np.array([[0, 1, 2], [4, 6, 7]])
  expected = [[[1, -1, 0]] * 2, [[1, 0, -1]] * 2]
  np.testing.assert_array_equal(
    cross_fitting.held_out_labels(whole, held), expected
  )


def test_hit_rates_count_the_labels_that_are_known():
  predicted = np.array([[0, 1, 2], [3, 3, 3]])
  label = np.array([[0, -1, 1], [3, -1, 2]])
  weight = np.array([[1, 1, 1], [2, 1, 0], [0, 3, 0]])
  np.testing.assert_allclose(
    cross_fitting.hit_rates(predicted, label, weight),
    [[2 / 4, 1 / 4], [1 / 2, 1 / 2], [0, 0]],
  )


def test_complementary_labels_estimate_accuracy_without_bias():
  generator = np.random.default_rng(0)
  truth = generator.integers(0, 10, 20000)
  wrong = generator.random((2, truth.size)) < np.array([[0.3], [0.1]])
  predicted = np.where(wrong, (truth + 3) % 10, truth)
  label = (truth + generator.integers(1, 10, (2, truth.size))) % 10
  rate = cross_fitting.hit_rates(predicted, label, np.ones((1, truth.size)))[0]
  np.testing.assert_allclose(9 * (rate[0] - rate[1]), 0.2, atol=0.03)
