"""MIA-NN and total variation: closed forms, and no signal where there is none.

Of Gaussians N(0, 1) and N(d, 1) the total variation is 2 Phi(d / 2) - 1, and
the best accuracy on as many of each Phi(d / 2).
"""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cmu_jax import audits
from cmu_jax.core import errors, rng

KEY = rng.fold_in(0, 'mia_nn')


def gaussian(seed, n, d=0.0, width=1):
  found = np.random.default_rng(seed).normal(size=(n, width))
  found[:, 0] += d
  return found


@pytest.mark.parametrize('d', [0.0, 1.0, 2.0])
def test_accuracy_on_gaussians(d):
  found = audits.separability(KEY, gaussian(0, 600, d), gaussian(1, 600))
  wanted = stats.norm.cdf(d / 2)
  assert abs(found - wanted) < 3.5 * np.sqrt(0.25 / 1200)


def test_accuracy_is_of_a_held_out_fold():
  """Forty features and as many samples: a fit would be perfect in sample."""
  values = [
    audits.separability(
      KEY, gaussian(i, 40, width=40), gaussian(99 + i, 40, width=40)
    )
    for i in range(8)
  ]
  assert abs(np.mean(values) - 0.5) < 4 * np.std(values, ddof=1) / np.sqrt(8)
  assert np.mean(values) < 0.6


def test_units_and_order_of_features_do_not_matter():
  first, second = gaussian(0, 50, 1.5, 3), gaussian(1, 60, width=3)
  found = audits.separability(KEY, first, second)
  scale, shift = np.array([5.0, 0.1, 300.0]), np.array([7.0, -2.0, 0.0])
  moved = [x * scale[None, :] + shift[None, :] for x in (first, second)]
  assert audits.separability(KEY, *moved) == found
  turned = audits.separability(KEY, first[:, ::-1], second[:, ::-1])
  assert turned == found


def test_the_logit_of_the_forgotten_class_plays_no_part():
  logits = np.random.default_rng(0).normal(size=(80, 4))
  forget, nearest = np.arange(80) < 30, np.arange(80) >= 45
  found = audits.discriminator_accuracy(KEY, logits, forget, nearest, 2)
  told = logits.copy()
  told[:, 2] = np.where(forget, -np.inf, 1e6)
  again = audits.discriminator_accuracy(KEY, told, forget, nearest, 2)
  assert again == found
  kept = logits[:, [0, 1, 3]]
  assert found == audits.separability(KEY, kept[:30], kept[45:])


def test_nearest_class():
  predicted = np.array([[3, 3, 1, 5], [1, 3, 5, 5], [3, 1, 5, 0]])
  assert audits.nearest_class(predicted, 7) == 3
  assert audits.nearest_class(predicted, 3) == 5
  with pytest.raises(errors.UserError, match='trained on it'):
    audits.nearest_class(np.full((3, 4), 2), 2)


def test_gaps_by_hand():
  retrained = np.array([0.6, 0.7, 0.8])
  found = audits.accuracy_gap(0.9, retrained)
  assert found.gap == pytest.approx(0.2)
  # To the means of the others: 0.75, 0.7, 0.65.
  assert found.floor == pytest.approx((0.15 + 0 + 0.15) / 3)
  assert found.largest == pytest.approx(0.15)
  assert not found.within_retrained
  assert audits.accuracy_gap(0.6, retrained).within_retrained


def test_total_variation_by_hand():
  retrained = np.array([[0.5, 0.5, 0.0], [0.5, 0.3, 0.2], [0.5, 0.4, 0.1]])
  found = audits.total_variation_gap(np.array([0.2, 0.4, 0.4]), retrained)
  assert found.value == found.gap == pytest.approx(0.3)
  np.testing.assert_allclose(found.retrained, [0.15, 0.15, 0], atol=1e-12)
  assert found.floor == pytest.approx(0.1)
  assert not found.within_retrained


@pytest.mark.parametrize(('p', 'q'), [(0.3, 0.3), (0.2, 0.9), (0.5, 0.45)])
def test_total_variation_of_bernoullis(p, q):
  draws = np.random.default_rng(2)
  rows = [np.mean(draws.random(4000) < x) for x in (p, q)]
  first, second = (np.array([1 - x, x]) for x in rows)
  found = audits.total_variation(first, second)
  assert abs(found - abs(p - q)) < 4 * np.sqrt(0.5 / 4000)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 9999))
def test_total_variation_is_a_metric_from_0_to_1(seed):
  p, q, r = np.random.default_rng(seed).dirichlet(np.full(4, 0.5), 3)
  found = audits.total_variation(p, q)
  assert 0 <= found <= 1 + 1e-12
  assert found == pytest.approx(audits.total_variation(q, p))
  through = audits.total_variation(p, r) + audits.total_variation(r, q)
  assert found <= through + 1e-12
  # The largest difference of probabilities of any set of classes.
  assert found == pytest.approx(np.maximum(p - q, 0).sum())


def test_one_more_of_the_same_kind_is_mostly_inside_the_noise_floor():
  """Exchangeable networks: outside about once in r + 1 times, both ways."""
  draws, count, r = np.random.default_rng(3), 400, 4
  accuracy = draws.normal(0.8, 0.05, (count, r + 1))
  answers = draws.dirichlet(np.full(5, 3.0), (count, r + 1))
  inside = np.array(
    [
      (
        audits.accuracy_gap(float(a[0]), a[1:]).within_retrained,
        audits.total_variation_gap(p[0], p[1:]).within_retrained,
      )
      for a, p in zip(accuracy, answers, strict=True)
    ]
  )
  expected, error = r / (r + 1), 4 * np.sqrt(0.16 / count)
  # A mean of r is nearer than one of r - 1: never more often outside.
  assert (inside.mean(axis=0) > expected - error).all()
  assert (inside.mean(axis=0) < 0.97).all()
  far = audits.accuracy_gap(1.2, accuracy[0, 1:])
  assert not far.within_retrained


def test_of_the_same_distribution_the_gap_is_noise():
  """Networks that answer alike: no gap that the floor does not explain."""
  forget, nearest = np.arange(120) < 60, np.arange(120) >= 60
  values = np.array(
    [
      audits.discriminator_accuracy(
        KEY, gaussian(i, 120, width=4), forget, nearest, 0, folds=3
      )
      for i in range(13)
    ]
  )
  found = audits.accuracy_gap(float(values[0]), values[1:])
  assert found.within_retrained
  assert abs(values.mean() - 0.5) < 0.06


@pytest.mark.parametrize(
  ('call', 'said'),
  [
    (lambda: audits.accuracy_gap(0.5, np.array([0.5, 0.6])), 'cannot conclude'),
    (
      lambda: audits.separability(KEY, gaussian(0, 4), gaussian(1, 9)),
      '4 images of a class for 5 folds',
    ),
    (
      lambda: audits.separability(
        KEY, np.full((9, 2), np.nan), gaussian(1, 9, 0, 2)
      ),
      'not finite',
    ),
  ],
)
def test_what_cannot_be_concluded_is_refused(call, said):
  with pytest.raises(errors.UserError, match=said):
    call()


@pytest.mark.parametrize('name', ['log_likelihood', 'negative_entropy'])
def test_thresholds_of_loss_and_entropy(name):
  """A rule on one number: its area is that of the raw losses or entropies."""
  draws = np.random.default_rng(5)
  label = draws.integers(0, 4, 300)
  logits = draws.normal(size=(300, 4)).astype(np.float32)
  logits[np.arange(300), label] += np.where(np.arange(300) < 150, 2.5, 1.0)
  score = np.asarray(jax.jit(audits.SIGNALS[name])(logits, label))
  p = np.exp(logits - np.log(np.exp(logits).sum(1, keepdims=True)))
  own = {
    'log_likelihood': np.log(p[np.arange(300), label]),
    'negative_entropy': (p * np.log(p)).sum(axis=1),
  }
  np.testing.assert_allclose(score, own[name], atol=1e-5)
  wanted = stats.mannwhitneyu(own[name][:150], own[name][150:])
  area = audits.auc(score[:150], score[150:])
  assert area == pytest.approx(wanted.statistic / 150**2, abs=1e-4)
  assert area > 0.6
