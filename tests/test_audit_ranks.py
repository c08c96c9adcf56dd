"""ROC statistics against counting, closed forms and their limits."""

import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cmu_jax import audits
from cmu_jax.audits import resampling
from cmu_jax.core import errors

KEY = jax.random.key(5)
FEW = st.lists(st.integers(-3, 3), min_size=1, max_size=12)


def array(values):
  return np.asarray(values, np.float64)


def counted(positive, negative):
  """The AUC by every pair."""
  above = positive[:, None] > negative[None, :]
  equal = positive[:, None] == negative[None, :]
  return float(np.mean(above + equal / 2))


@settings(deadline=None, max_examples=60)
@given(FEW, FEW)
def test_auc_is_the_count_over_pairs(positive, negative):
  positive, negative = array(positive), array(negative)
  found = audits.auc(positive, negative)
  assert found == pytest.approx(counted(positive, negative), abs=1e-12)
  assert audits.auc(negative, positive) == pytest.approx(1 - found, abs=1e-12)
  # Ranks alone count.
  moved = audits.auc(np.exp(positive), np.exp(negative))
  assert moved == pytest.approx(found, abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(FEW, FEW, st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_tpr_at_is_the_best_threshold_allowed(positive, negative, rate):
  positive, negative = array(positive), array(negative)
  thresholds = [math.inf, *positive, *negative]
  best = max(
    float(np.mean(positive >= t))
    for t in thresholds
    if np.mean(negative >= t) <= rate
  )
  found = audits.tpr_at(positive, negative, rate)
  assert found == pytest.approx(best, abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(FEW, FEW)
def test_a_roc_curve_rises_from_corner_to_corner(positive, negative):
  curve = audits.roc(array(positive), array(negative))
  for side in curve:
    assert side[0] == 0
    assert side[-1] == 1
    assert (np.diff(side) >= 0).all()
  assert len(curve.fpr) == len({*positive, *negative}) + 1


def test_by_hand():
  positive, negative = array([3.0, 1.0, 1.0]), array([2.0, 1.0, 0.0])
  assert audits.auc(positive, negative) == pytest.approx((3 + 2 * 1.5) / 9)
  assert audits.tpr_at(positive, negative, 0.2) == pytest.approx(1 / 3)
  assert audits.tpr_at(positive, negative, 0.7) == pytest.approx(1.0)
  # At 1 or above: TPR 1, FPR 2/3; at 2 or above: 1/3, 1/3.
  assert audits.balanced_accuracy(positive, negative) == pytest.approx(0.5)


@pytest.mark.parametrize('shift', [0.0, 0.7, 1.6])
def test_gaussian_scores(shift):
  rng = np.random.default_rng(3)
  positive = rng.normal(shift, 1, 20000)
  negative = rng.normal(0, 1, 20000)
  auc = audits.auc(positive, negative)
  assert auc == pytest.approx(stats.norm.cdf(shift / 2**0.5), abs=0.01)
  accuracy = audits.balanced_accuracy(positive, negative)
  assert accuracy == pytest.approx(stats.norm.cdf(shift / 2), abs=0.01)
  for rate in (0.01, 0.1):
    power = stats.norm.sf(stats.norm.isf(rate) - shift)
    found = audits.tpr_at(positive, negative, rate)
    assert found == pytest.approx(power, abs=0.025)


def test_the_bootstrap_spreads_as_samples_do():
  rng = np.random.default_rng(4)
  samples = [
    audits.auc(rng.normal(1, 1, 120), rng.normal(0, 1, 80)) for _ in range(400)
  ]
  positive, negative = rng.normal(1, 1, 120), rng.normal(0, 1, 80)
  drawn = audits.bootstrap(KEY, positive, negative, 300).auc
  assert drawn.shape == (300,)
  assert drawn.std() == pytest.approx(np.std(samples), rel=0.25)
  assert drawn.mean() == pytest.approx(audits.auc(positive, negative), abs=0.01)
  formula = audits.hanley_mcneil_error(float(np.mean(samples)), 120, 80)
  assert formula == pytest.approx(np.std(samples), rel=0.15)


def test_bootstrap_blocks_are_different_and_keyed(monkeypatch):
  scores = np.arange(9.0), np.arange(3.0, 8.0)
  monkeypatch.setattr(resampling, '_RESAMPLES_AT_ONCE', 5)
  drawn = audits.bootstrap(KEY, *scores, 15)
  again = audits.bootstrap(KEY, *scores, 15)
  np.testing.assert_array_equal(drawn.auc, again.auc)
  blocks = drawn.auc.reshape(3, 5)
  assert len({tuple(block) for block in blocks}) == 3
  other = audits.bootstrap(jax.random.key(6), *scores, 15)
  assert (drawn.auc != other.auc).any()


def test_hanley_mcneil_at_its_ends():
  # Under chance the variance is that of Mann and Whitney without ties.
  for p, q in ((7, 11), (40, 3)):
    exact = math.sqrt((p + q + 1) / (12 * p * q))
    assert audits.hanley_mcneil_error(0.5, p, q) == pytest.approx(exact)
  assert audits.hanley_mcneil_error(1.0, 7, 11) == 0


@pytest.mark.parametrize(('p', 'q'), [(50, 200), (1000, 1000)])
def test_the_detectable_auc_is_detected_so_often(p, q):
  least = audits.detectable_auc(p, q, 0.05, 0.8)
  rng = np.random.default_rng(7)
  shift = 2**0.5 * stats.norm.ppf(least)
  level = stats.norm.isf(0.025) * audits.hanley_mcneil_error(0.5, p, q)
  found = [
    audits.auc(rng.normal(shift, 1, p), rng.normal(0, 1, q)) - 0.5 > level
    for _ in range(300)
  ]
  assert np.mean(found) == pytest.approx(0.8, abs=0.07)
  assert audits.detectable_auc(2 * p, 2 * q) < least


def test_one_point_a_side_detects_nothing():
  assert audits.detectable_auc(1, 1) is None


@pytest.mark.parametrize(
  ('positive', 'negative', 'said'),
  [
    ([], [1.0], 'no member scores'),
    ([1.0], [], 'no non-member scores'),
    ([1.0, math.nan], [1.0], '1 of 2 member scores are NaN, the first at 1'),
    ([1.0], [math.nan, math.nan], '2 of 2 non-member scores'),
  ],
)
def test_scores_that_cannot_be_audited(positive, negative, said):
  with pytest.raises(errors.UserError, match=said):
    audits.auc(array(positive), array(negative))
  with pytest.raises(errors.UserError, match=said):
    audits.evaluate(KEY, array(positive), array(negative))


def test_a_rate_that_is_none():
  with pytest.raises(errors.UserError, match=r'rate of 1\.5'):
    audits.tpr_at(array([1.0]), array([1.0]), 1.5)


def test_infinite_scores_are_ranked():
  assert audits.auc(array([math.inf, 0.0]), array([-math.inf, 0.0])) == 0.875


def scores(shift, count, seed=1):
  rng = np.random.default_rng(seed)
  return rng.normal(shift, 1, count), rng.normal(0, 1, count)


def test_an_audit_of_a_leak():
  positive, negative = scores(1.0, 1500, seed=5)
  found = audits.evaluate(KEY, positive, negative, replicates=200)
  assert found.verdict == 'leaks'
  assert found.references is None
  assert found.positives == found.negatives == 1500
  for estimate in (found.auroc, found.balanced_accuracy, found.tpr_1_percent):
    assert estimate.low < estimate.value < estimate.high
  assert found.auroc.value == audits.auc(positive, negative)
  assert found.tpr_01_percent.value == audits.tpr_at(positive, negative, 0.001)
  assert found.auroc.low < stats.norm.cdf(1 / 2**0.5) < found.auroc.high
  wider = audits.evaluate(
    KEY,
    positive,
    negative,
    replicates=200,
    rule=audits.DecisionRule(confidence=0.99),
  )
  assert wider.auroc.low < found.auroc.low


def test_what_an_audit_concludes():
  verdict = lambda *a, **k: (
    audits.evaluate(KEY, *a, replicates=100, **k).verdict
  )
  strict = audits.DecisionRule(tolerated_auc=0.51)
  assert verdict(*scores(0.0, 2500)) == 'no leak found'
  assert verdict(*scores(-0.8, 400)) == 'reversed'
  assert verdict(*scores(0.0, 40)) == 'cannot conclude'
  assert verdict(*scores(0.0, 2500), rule=strict) == 'cannot conclude'
  assert verdict(*scores(2.0, 400), references=3) == 'cannot conclude'
  still = [np.where(x > 2.5, x, 0.0) for x in scores(0.0, 4000)]
  assert verdict(*still) == 'cannot conclude'  # 99 % of them are 0
  assert verdict(*scores(2.0, 400), references=4) == 'leaks'


@pytest.mark.parametrize(
  ('positive', 'negative', 'verdict'),
  [
    ([2.0, 3.0], [1.0], 'cannot conclude'),  # one in three by chance
    ([1.0], [2.0], 'cannot conclude'),
    ([3.0, 4.0, 5.0], [0.0, 1.0, 2.0], 'cannot conclude'),  # one in ten
    ([4.0, 5.0, 6.0, 7.0], [0.0, 1.0, 2.0, 3.0], 'leaks'),  # one in 35
    ([0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0], 'reversed'),
    ([1.0] * 9, [0.0] * 9, 'leaks'),
  ],
)
def test_few_points_that_are_parted_by_chance(positive, negative, verdict):
  found = audits.evaluate(KEY, array(positive), array(negative), replicates=50)
  assert found.verdict == verdict


def test_low_rates_need_enough_non_members():
  positive, negative = scores(0.5, 999)
  found = audits.evaluate(KEY, positive, negative, replicates=20)
  assert found.tpr_1_percent is not None
  assert found.tpr_01_percent is None
  few = audits.evaluate(KEY, positive, negative[:99], replicates=20)
  assert few.tpr_1_percent is None


@pytest.mark.parametrize(
  ('settings_', 'said'),
  [
    ({'rule': audits.DecisionRule(1.0)}, 'confidence is 1.0'),
    ({'rule': audits.DecisionRule(attacks=0)}, '0 attacks'),
    ({'rule': audits.DecisionRule(tolerated_auc=0.5)}, 'tolerated AUC is 0.5'),
    ({'replicates': 1}, '1 rep'),
  ],
)
def test_settings_of_an_audit_that_cannot_be(settings_, said):
  with pytest.raises(errors.UserError, match=said):
    audits.evaluate(KEY, *scores(0.0, 30), **settings_)
