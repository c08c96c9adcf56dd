"""Whether a choice is taken: out of fold, by its spread, and by its harm."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmu_jax.methods.cuts import alpha_evidence, alpha_rules

GRID = np.arange(9) / 4


def loop(score, value):
  """The definition, one fold after another."""
  found = []
  for fold in range(len(score)):
    others = [score[g] for g in range(len(score)) if g != fold]
    best = int(np.argmax(np.sum(others, axis=0)))
    found.append(value[fold, best] - value[fold, 0])
  return np.mean(found)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(2, 5))
def test_out_of_fold_is_its_definition(seed, folds):
  generator = np.random.default_rng(seed)
  # Dyadic numbers sum exactly in any order.
  score, value = generator.integers(0, 64, (2, 3, folds, 9)) / 64
  found = alpha_evidence.out_of_fold_gain(score, value)
  expected = [loop(s, v) for s, v in zip(score, value, strict=True)]
  np.testing.assert_allclose(found, expected, atol=1e-12)


def test_the_best_of_pure_noise_gains_nothing_out_of_fold():
  score = np.random.default_rng(0).normal(size=(4000, 2, 81))
  inside = score.mean(1).max(-1) - score.mean(1)[:, 0]
  assert inside.mean() > 1
  assert abs(alpha_evidence.out_of_fold_gain(score, score).mean()) < 0.05


def evidence(peak, noise=0.01, hits=0.0, seed=0, resamples=200, folds=2):
  """J with its peak in the middle; `hits` fewer corrupted labels there."""
  generator = np.random.default_rng(seed)
  shape = peak * (1 - np.abs(GRID - 1)) * np.ones((folds, 1))
  spread = noise * generator.normal(size=(2, resamples + 1, folds, len(GRID)))
  spread[:, 0] = 0
  rate = 0.1 - hits * (1 - np.abs(GRID - 1))
  return alpha_evidence.FoldEvidence(shape + spread[0], rate + spread[1])


def test_a_clear_gain_is_taken():
  found = alpha_evidence.judge_noise(GRID, evidence(0.5, hits=0.02), factor=9)
  assert found.choice == alpha_rules.AlphaChoice(1.0, 4, True)
  record = found.record
  assert record['difference'] == pytest.approx(0.5)
  assert record['accuracy_gain'] == pytest.approx(9 * 0.02)
  assert record['difference_low'] < record['difference']
  assert len(record['J_cf']) == len(GRID)
  low, high = record['alpha_interval']
  assert low <= 1.0 <= high and {low, high} <= set(GRID.tolist())


@pytest.mark.parametrize(
  'peak, hits', [(0.5, -0.5), (0.005, 0.0), (-0.5, 0.0), (0.0, 0.1)]
)
def test_abstains_without_evidence_or_against_it(peak, hits):
  found = alpha_evidence.judge_noise(GRID, evidence(peak, hits=hits))
  assert found.choice == alpha_rules.AlphaChoice(0.0, None, False)
  assert found.record['selected'] is False
  assert found.record['accuracy_gain'] is None


def test_the_labels_can_carry_what_j_alone_cannot():
  weak = dict(peak=0.004, noise=0.01)
  assert not alpha_evidence.judge_noise(GRID, evidence(**weak)).choice.selected
  both = alpha_evidence.judge_noise(GRID, evidence(**weak, hits=0.03))
  assert both.choice.selected
  assert both.record['difference_low'] < 0 < both.record['evidence_low']


def test_more_confidence_abstains_more():
  found = [
    alpha_evidence.judge_noise(
      GRID, evidence(0.012), confidence=level
    ).choice.selected
    for level in (0.5, 0.6, 0.999)
  ]
  assert found[0] and not found[-1] and found == sorted(found, reverse=True)


def test_a_collapsed_network_never_wins_and_does_not_drown_the_rest():
  clear = evidence(0.5, hits=0.02)
  score = clear.score.copy()
  score[..., -1] = -1e6
  score[3, 0, :] = -1e6
  found = alpha_evidence.judge_noise(
    GRID, alpha_evidence.FoldEvidence(score, clear.rate)
  )
  assert found.choice.selected and found.record['difference_low'] > 0


def test_standing_is_the_estimate_less_its_quantile():
  gain = np.concatenate([[1.0], np.random.default_rng(0).normal(size=20000)])
  found = alpha_evidence.estimate_gain(gain, 0.95)
  assert found.estimate == 1.0
  assert found.low == pytest.approx(1 - 1.645, abs=0.03)


def attacked(share_after):
  """Attack success falls along the grid; the target's share does as told."""
  grid = np.arange(1, 6) / 4
  attack = np.append(0.9, np.array([0.8, 0.3, 0.02, 0.01, 0.0]))
  share = np.append(0.1, np.linspace(0.1, share_after, 5))
  stack = lambda x: np.broadcast_to(x, (8, 2, 6))
  return grid, alpha_evidence.FoldEvidence(stack(attack), stack(share))


def test_poison_takes_the_smallest_alpha_if_the_target_survives():
  found = alpha_evidence.judge_poison(*attacked(0.09), threshold=0.01)
  assert found.choice == alpha_rules.AlphaChoice(1.0, 3, True)
  assert found.record['alpha_interval'] == [1.0, 1.0]
  assert found.record['target_share_after'] == pytest.approx(0.0925)


def test_poison_abstains_where_the_target_class_goes():
  found = alpha_evidence.judge_poison(*attacked(0.0), threshold=0.01)
  assert found.choice == alpha_rules.AlphaChoice(0.0, None, False)
  assert found.record['alpha_hat'] == 1.0
  assert found.record['target_share_after'] < 0.05


def test_poison_abstains_where_nothing_disarms():
  grid, found = attacked(0.09)
  found = alpha_evidence.judge_poison(
    grid, found._replace(score=found.score + 0.5), threshold=0.01
  )
  assert not found.choice.selected
  assert found.record['alpha_interval'] is None
  assert alpha_evidence.facts(found)['alpha_low'] is None


def test_facts_of_an_abstention():
  found = alpha_evidence.facts(
    alpha_evidence.abstain('9 proxy images, 40 needed')
  )
  assert found == {
    'alpha': 0.0,
    'selected': False,
    'alpha_low': None,
    'alpha_high': None,
  }
