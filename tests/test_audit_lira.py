"""LiRA and U-LiRA against scipy, loops, and the Gaussian closed forms."""

import numpy as np
import pytest
from scipy import stats

from cmu_jax import audits
from cmu_jax.audits import lira_scores, ulira_scores
from cmu_jax.core import errors

RNG = np.random.default_rng(1)
VALUES = RNG.normal(0, 2, (9, 5))
MARKS = RNG.uniform(size=(9, 5)) < 0.5
MARKS[:3], MARKS[3:6] = True, False


@pytest.mark.parametrize('variance', ['own', 'pooled'])
def test_gaussians_against_numpy(variance):
  found = lira_scores.fit_gaussians(VALUES, MARKS, variance)
  columns = [VALUES[MARKS[:, i], i] for i in range(5)]
  np.testing.assert_allclose(found.mean, [np.mean(c) for c in columns])
  own = np.array([np.var(c, ddof=1) for c in columns])
  wanted = own if variance == 'own' else np.full(5, own.mean())
  np.testing.assert_allclose(found.std, wanted**0.5)


def test_the_floor_of_a_standard_deviation():
  same = np.ones((4, 3))
  found = lira_scores.fit_gaussians(same, same > 0, 'own', 0.02)
  np.testing.assert_array_equal(found.std, 0.02)


def test_lira_by_hand():
  target = RNG.normal(0, 2, 5)
  found = audits.lira(target, VALUES, MARKS)
  for i in range(5):
    sides = [VALUES[m[:, i], i] for m in (MARKS, ~MARKS)]
    first, second = (
      stats.norm.logpdf(target[i], s.mean(), s.std(ddof=1)) for s in sides
    )
    assert found[i] == pytest.approx(first - second)
  offline = audits.lira(target, VALUES, MARKS, online=False)
  outs = [VALUES[~MARKS[:, i], i] for i in range(5)]
  wanted = [
    stats.norm.cdf(t, o.mean(), o.std(ddof=1))
    for t, o in zip(target, outs, strict=True)
  ]
  np.testing.assert_allclose(offline, wanted)


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'target': np.zeros(4)}, 'shapes differ'),
    ({'target': np.full(5, np.inf)}, '5 of 5 target statistics'),
    ({'inside': MARKS | True}, '5 points have too few references without'),
    ({'inside': MARKS & False}, 'too few references with them'),
    ({'variance': 'ones'}, "unknown variance 'ones'"),
  ],
)
def test_lira_that_cannot_be(changes, said):
  arguments = {
    'target': np.zeros(5),
    'references': VALUES,
    'inside': MARKS,
    **changes,
  }
  with pytest.raises(errors.UserError, match=said):
    audits.lira(**arguments)


@pytest.mark.parametrize('variance', ['own', 'pooled'])
def test_leaving_one_out_is_leaving_it_out(variance):
  found = ulira_scores.leave_one_out_gaussians(VALUES + 100, MARKS, variance)
  gone = ulira_scores.held_out_model(MARKS)
  for k in range(9):
    rest = MARKS.copy()
    rest[gone[k], np.arange(5)] = False
    wanted = lira_scores.fit_gaussians(VALUES + 100, rest, variance)
    np.testing.assert_allclose(found.mean[k], wanted.mean)
    np.testing.assert_allclose(found.std[k], wanted.std, rtol=1e-9)


def test_who_is_held_out():
  marks = np.array([[1, 1, 0, 0, 0, 1]], bool).T
  found = ulira_scores.held_out_model(marks)[:, 0].tolist()
  assert found == [0, 1, 0, 1, 5, 5]
  # Of a class: the models of one number, both kinds.
  halves = np.array([[1, 1, 1, 0, 0, 0]], bool).T
  assert ulira_scores.held_out_model(halves)[:, 0].tolist() == [
    0,
    1,
    2,
    0,
    1,
    2,
  ]
  assert ulira_scores.held_out_model(~halves)[:, 0].tolist() == [
    3,
    4,
    5,
    3,
    4,
    5,
  ]


@pytest.mark.parametrize('distance', [0.0, 1.0, 2.5])
def test_class_level_on_gaussians(distance):
  """AUC Phi(D / sqrt 2), balanced accuracy Phi(D / 2); .5 where they agree."""
  rng = np.random.default_rng(2)
  points = rng.normal(0, 3, 4000)[None, :]
  unlearned = points + distance + rng.normal(0, 1, (16, 4000))
  retrained = points + rng.normal(0, 1, (16, 4000))
  found = audits.ulira_of_class(unlearned, retrained)
  assert found.forgotten.shape == found.unseen.shape == (16 * 4000,)
  # Means of 15 models each are not exact: what is left of D is a bit less.
  auc = audits.auc(found.forgotten, found.unseen)
  near = 0.008 if distance == 0 else 0.03
  assert auc == pytest.approx(stats.norm.cdf(distance / 2**0.5), abs=near)
  accuracy = audits.balanced_accuracy(found.forgotten, found.unseen)
  assert accuracy == pytest.approx(stats.norm.cdf(distance / 2), abs=near)
  assert found.by_model.shape == (16,)
  assert found.by_model.mean() == pytest.approx(auc, abs=0.02)
  assert found.models == 32


def test_many_models_reach_the_closed_form():
  rng = np.random.default_rng(3)
  unlearned = 1.2 + rng.normal(0, 1, (100, 150))
  retrained = rng.normal(0, 1, (100, 150))
  found = audits.ulira_of_class(unlearned, retrained)
  auc = audits.auc(found.forgotten, found.unseen)
  assert auc == pytest.approx(stats.norm.cdf(1.2 / 2**0.5), abs=0.01)


def test_ulira_of_models_that_are_alike_is_chance():
  """However unequally points were forgotten: three times, or twelve."""
  generator = np.random.default_rng(3)
  k, n = 16, 3000
  marks = np.zeros((2, k, n), bool)
  for i in range(n):
    order = generator.permutation(k)
    count = 3 if i % 2 else 12
    marks[0, order[:count], i] = True
    marks[1, order[-4:], i] = True
  statistic = generator.normal(size=(1, n)) + generator.normal(size=(k, n))
  found = audits.ulira(statistic, *marks)
  # Log ratios pooled as they are have .521 here, with an error of .003.
  error = audits.hanley_mcneil_error(
    0.5, found.forgotten.size, found.unseen.size
  )
  area = audits.auc(found.forgotten, found.unseen)
  assert abs(area - 0.5) < 4 * error < 0.02
  moved = audits.ulira(statistic + 1.0 * marks[0], *marks)
  assert audits.auc(moved.forgotten, moved.unseen) > 0.65


def test_per_example_ulira_with_a_forget_set_a_model():
  """Each model forgot some points and never saw others."""
  rng = np.random.default_rng(4)
  draw = rng.uniform(size=(40, 300))
  forgotten, unseen = draw < 0.3, draw > 0.6
  statistic = rng.normal(0, 1, draw.shape) + 1.5 * forgotten
  found = audits.ulira(statistic, forgotten, unseen)
  auc = audits.auc(found.forgotten, found.unseen)
  assert auc == pytest.approx(stats.norm.cdf(1.5 / 2**0.5), abs=0.05)
  assert found.by_model.shape == (40,)
  assert found.forgotten.size == forgotten.sum()
  same = audits.ulira(statistic - 1.5 * forgotten, forgotten, unseen)
  assert audits.auc(same.forgotten, same.unseen) == pytest.approx(0.5, abs=0.03)


def test_points_with_too_few_models_are_left_out():
  rng = np.random.default_rng(5)
  statistic = rng.normal(0, 1, (8, 3))
  forgotten = np.zeros((8, 3), bool)
  forgotten[:4, 0] = forgotten[:2, 1] = True
  unseen = np.zeros((8, 3), bool)
  unseen[4:, :] = True
  found = audits.ulira(statistic, forgotten, unseen, variance='own')
  assert found.forgotten.size == found.unseen.size == 4
  assert np.isfinite(found.forgotten).all()


def test_a_masked_logit_is_clipped():
  statistic = np.full((8, 6), -1e30)
  statistic[4:] = np.random.default_rng(6).normal(-3, 1, (4, 6))
  found = audits.ulira_of_class(statistic[:4], statistic[4:])
  auc = audits.auc(found.forgotten, found.unseen)
  assert auc == pytest.approx(1.0)


@pytest.mark.parametrize(
  ('statistic', 'forgotten', 'unseen', 'said'),
  [
    (np.zeros((4, 2)), np.ones((4, 2), bool), np.ones((4, 2), bool), 'by the'),
    (np.zeros((4, 2)), np.ones((4, 2), bool), np.zeros((4, 3), bool), 'differ'),
    (
      np.zeros((4, 2)),
      np.arange(4)[:, None] < np.full((1, 2), 2),
      np.arange(4)[:, None] >= np.full((1, 2), 2),
      'cannot conclude',
    ),
    (
      np.full((6, 1), np.nan),
      np.arange(6)[:, None] < 3,
      np.arange(6)[:, None] >= 3,
      '6 of 6 model statistics',
    ),
  ],
)
def test_ulira_that_cannot_be(statistic, forgotten, unseen, said):
  with pytest.raises(errors.UserError, match=said):
    audits.ulira(statistic, forgotten, unseen)
