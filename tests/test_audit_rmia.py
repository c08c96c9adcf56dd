"""RMIA against its definition, a Gaussian model, and where it saturates."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cmu_jax import audits
from cmu_jax.audits import rmia_scores
from cmu_jax.core import errors


def naive(ratio, population, gamma, own):
  """The definition: a double loop, without the point itself."""
  found = []
  for i, x in enumerate(ratio):
    others = [z for j, z in enumerate(population) if own[i] != j]
    found.append(np.mean([z * gamma <= x for z in others]))
  return np.array(found)


@settings(deadline=None, max_examples=40)
@given(
  st.lists(st.integers(1, 9), min_size=2, max_size=14),
  st.sampled_from([1.0, 1.5, 2.0, 4.0]),
  st.data(),
)
def test_scores_are_those_of_the_double_loop(values, gamma, data):
  """Small integers, so that ties and exact multiples of gamma occur."""
  ratio = np.asarray(values, float)
  marks = st.lists(st.booleans(), min_size=len(values), max_size=len(values))
  inside = np.array(data.draw(marks))
  if inside.sum() < 2:
    inside[:2] = True
  population = ratio[inside]
  own = np.where(inside, np.cumsum(inside) - 1, -1)
  found = rmia_scores.dominated_share(ratio, population, gamma, inside)
  np.testing.assert_array_equal(found, naive(ratio, population, gamma, own))


@pytest.mark.parametrize('gamma', [1.0, 1.5, 2.0])
@pytest.mark.parametrize(('a', 'every'), [(None, True), (0.3, False)])
def test_the_whole_attack_is_that_of_the_double_loop(gamma, a, every):
  rng = np.random.default_rng(1)
  target = rng.uniform(size=60)
  references = rng.uniform(size=(6, 60))
  inside = rng.uniform(size=(6, 60)) < 0.5
  inside[0], inside[1] = True, False
  population = np.ones(60, bool) if every else rng.uniform(size=60) < 0.5
  found = audits.rmia(target, references, inside, population, gamma=gamma, a=a)
  scores = np.zeros(60)
  mean = []
  for i in range(60):
    with_x = references[inside[:, i], i].mean()
    without = references[~inside[:, i], i].mean()
    with_x = with_x if a is None else a * without + 1 - a
    mean.append((with_x + without) / 2)
  ratio = target / np.array(mean)
  for i in range(60):
    others = [j for j in np.flatnonzero(population) if j != i or not every]
    scores[i] = np.mean([ratio[i] / ratio[j] >= gamma for j in others])
  np.testing.assert_allclose(found.ratio, ratio, rtol=1e-12)
  np.testing.assert_array_equal(found.score, scores)
  assert found.tied == max(np.mean(scores == s) for s in scores)


def test_the_means_over_references():
  references = np.array([[0.2, 0.9], [0.6, 0.7], [0.4, 0.5]])
  inside = np.array([[True, False], [False, False], [False, False]])
  online = audits.online_probability(references, inside)
  # Without a model that has it, the plain mean.
  np.testing.assert_allclose(online, [(0.2 + 0.5) / 2, 0.7])
  for a in (0.0, 0.3, 1.0):
    out = np.array([0.5, 0.7])
    wanted = (out + a * out + 1 - a) / 2
    found = audits.offline_probability(references, inside, a)
    np.testing.assert_allclose(found, wanted, atol=1e-12)
  np.testing.assert_allclose(
    audits.offline_probability(references, inside, 1.0), out
  )
  # As many models with and without: their halves are the plain mean.
  balanced = np.array([[True, False], [False, True]])
  mean = audits.online_probability(references[:2], balanced)
  np.testing.assert_allclose(mean, references[:2].mean(axis=0))


def gaussian(rng, points, spread=0.4, gap=0.6, models=128):
  """Log probabilities mu_x + gap [member] + noise, of target and references."""
  mean = rng.normal(-1, 1, 2 * points)
  member = np.arange(2 * points) < points
  order = np.argsort(rng.uniform(size=(models, 2 * points)), axis=0)
  inside = order < models // 2
  draw = lambda marks: np.exp(
    mean + gap * marks + rng.normal(0, spread, marks.shape)
  )
  return draw(member), draw(inside), inside, member


def parted(score, member):
  return audits.auc(score[member], score[~member])


def test_the_gaussian_oracle():
  target, references, inside, member = gaussian(np.random.default_rng(2), 2000)
  found = audits.rmia(target, references, inside, ~member)
  ideal = stats.norm.cdf(0.6 / (0.4 * 2**0.5))
  assert ideal == pytest.approx(0.8556, abs=1e-4)
  assert parted(found.ratio, member) == pytest.approx(ideal, abs=0.02)
  assert parted(found.score, member) == pytest.approx(ideal, abs=0.02)
  assert parted(target, member) < 0.7
  score = audits.lira(np.log(target), np.log(references), inside)
  assert parted(score, member) == pytest.approx(ideal, abs=0.02)


def test_saturation_is_shown_by_ties_and_ratio():
  """Ratios that spread by less than gamma score 0, whatever leaks."""
  rng = np.random.default_rng(3)
  member = np.arange(4000) < 2000
  ratio = np.exp(rng.normal(0, 0.05, 4000) + 0.05 * 0.5 * member)
  wanted = stats.norm.cdf(0.5 / 2**0.5)
  scores = {
    gamma: rmia_scores.dominated_share(ratio, ratio[~member], gamma, ~member)
    for gamma in (1.0, 2.0)
  }
  assert parted(scores[2.0], member) == pytest.approx(0.5, abs=0.01)
  assert np.mean(scores[2.0] == 0) > 0.99
  assert parted(scores[1.0], member) == pytest.approx(wanted, abs=0.02)
  assert parted(ratio, member) == pytest.approx(wanted, abs=0.02)


def test_ties_are_not_broken_by_who_is_in_the_population():
  """A saturated attack on what was never seen is at chance, not below."""
  rng = np.random.default_rng(9)
  target = np.exp(rng.normal(0, 0.05, 400))
  target[390:395] = 0.1
  inside = np.array([[True], [False]]) & np.ones((2, 400), bool)
  members = np.arange(400) < 60
  found = audits.rmia(target, np.ones((2, 400)), inside, ~members)
  assert found.tied > 0.9
  assert parted(found.score, members) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize('points', [180])
def test_a_network_that_never_saw_any_of_them_is_at_chance(points):
  rng = np.random.default_rng(4)
  target, references, inside, member = gaussian(rng, points, gap=0.0)
  score = audits.rmia(target, references, inside, ~member).ratio
  error = audits.hanley_mcneil_error(0.5, points, points)
  assert abs(parted(score, member) - 0.5) < 3 * error


def test_probabilities_of_zero_have_a_ratio():
  references = np.array([[0.0, 0.5, 0.2], [0.0, 0.5, 0.2]])
  inside = np.array([[True] * 3, [False] * 3])
  everyone = np.ones(3, bool)
  found = audits.rmia(np.zeros(3), references, inside, everyone)
  assert np.isfinite(found.ratio).all()
  assert np.isfinite(found.score).all()


SHAPE = np.full((2, 3), 0.5)
MARKS = np.array([[True] * 3, [False] * 3])


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'target': np.full(4, 0.5)}, 'target has 4 values for 3'),
    ({'target': np.array([0.1, np.nan, 0.1])}, 'not finite'),
    ({'references': SHAPE * np.nan}, 'references have values'),
    ({'inside': MARKS[:1]}, 'membership'),
    ({'population': np.zeros(3, bool)}, 'marks 0 of 3'),
    ({'gamma': 0.5}, r'gamma is 0\.5'),
    ({'a': 1.5}, r'a is 1\.5'),
    ({'a': 0.3, 'inside': np.ones((2, 3), bool)}, '3 points, the first 0'),
  ],
)
def test_what_cannot_be_scored(changes, said):
  arguments = {
    'target': np.full(3, 0.5),
    'references': SHAPE,
    'inside': MARKS,
    'population': np.ones(3, bool),
    **changes,
  }
  with pytest.raises(errors.UserError, match=said):
    audits.rmia(**arguments)


def test_a_point_has_nobody_but_itself():
  with pytest.raises(errors.UserError, match='no other point'):
    rmia_scores.dominated_share(np.ones(1), np.ones(1), 2.0, np.ones(1, bool))


KEY = jax.random.key(1)


def test_the_confidence_attack_tells_confident_points():
  rng = np.random.default_rng(5)
  members = rng.uniform(0.97, 1, 300)
  others = rng.uniform(0.2, 0.9, 100)
  see = lambda forget: audits.confidence_attack(KEY, members, others, forget)
  assert see(np.full(40, 0.99)) == 0
  assert see(np.full(40, 0.5)) == 1
  assert see(np.array([0.99, 0.5, 0.5, 0.5])) == 0.75


def test_the_confidence_attack_uses_as_many_retained_points_as_tests():
  """With all of the ten times as many members it would call all members."""
  rng = np.random.default_rng(6)
  members, others = rng.uniform(0, 1, 2000), rng.uniform(0.3, 1, 200)
  found = audits.confidence_attack(
    KEY, members, others, rng.uniform(0.3, 1, 300)
  )
  assert found > 0.3


@pytest.mark.parametrize(
  ('position', 'values', 'said'),
  [
    (0, [], 'no retained points'),
    (1, [], 'no test points'),
    (2, [], 'no forgotten points'),
    (2, [np.nan], 'forgotten points is not finite'),
  ],
)
def test_a_confidence_attack_that_cannot_be(position, values, said):
  parts = [np.array([0.5, 0.6])] * 3
  parts[position] = np.array(values, float)
  with pytest.raises(errors.UserError, match=said):
    audits.confidence_attack(KEY, *parts)
