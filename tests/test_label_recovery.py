"""Wrong labels left in a network: closed forms, and chance where none are."""

import jax
import numpy as np
import pytest
from hypothesis import given as cases
from hypothesis import settings
from hypothesis import strategies as st
from scipy import stats

from cmu_jax import audits
from cmu_jax.core import errors, rng

KEY = rng.fold_in(0, 'recovery')
N, CLASSES = 2000, 6


def problem(seed=0, n=N):
  """True labels, and wrong ones that any other class may be."""
  draws = np.random.default_rng(seed)
  truth = draws.integers(0, CLASSES, n)
  given = (truth + draws.integers(1, CLASSES, n)) % CLASSES
  return draws, truth, given


def network(draws, truth, label=None, share=0.0, likely=0.0):
  """Right on the truth; a share of `label` learnt by heart."""
  logits = draws.normal(size=(truth.size, CLASSES))
  rows = np.arange(truth.size)
  logits[rows, truth] += 4
  # A mistake that every network likes to make.
  logits[rows, (truth + 1) % CLASSES] += likely
  if label is not None:
    known = rows[: round(share * truth.size)]
    logits[known, label[known]] += 40
  return logits.astype(np.float32)


@settings(deadline=None, max_examples=20)
@cases(st.integers(0, 999))
def test_the_other_label_is_wrong_too(seed):
  _, truth, given = problem(seed, 60)
  found = audits.draw_other_labels(rng.fold_in(seed), given, truth, CLASSES)
  assert ((found >= 0) & (found < CLASSES)).all()
  assert (found != given).all()
  assert (found != truth).all()


def test_every_other_wrong_label_is_as_likely():
  zeros, fours = np.zeros(6000, int), np.full(6000, 4)
  found = audits.draw_other_labels(KEY, zeros, fours, CLASSES)
  counts = np.bincount(found, minlength=CLASSES)
  np.testing.assert_array_equal(counts[[0, 4]], 0)
  assert np.abs(counts[[1, 2, 3, 5]] - 1500).max() < 5 * np.sqrt(1500)


@pytest.mark.parametrize('share', [0.0, 0.4, 1.0])
@pytest.mark.parametrize('referenced', [False, True])
def test_a_share_that_was_learnt_by_heart(share, referenced):
  draws, truth, given = problem()
  logits = network(draws, truth, given, share)
  references = np.stack([network(draws, truth) for _ in range(4)])
  found = audits.recover_labels(
    KEY, logits, given, truth, references if referenced else None
  )
  assert found.images == N
  assert abs(found.rate - (1 + share) / 2) < 4 * np.sqrt(0.25 / N)
  assert (found.low > 0.5) == (share > 0)
  assert found.low <= found.rate <= found.high


@pytest.mark.parametrize(('right', 'count'), [(5, 10), (50, 80), (0, 7)])
def test_the_interval_is_wilsons(right, count):
  truth, given = np.zeros(count, int), np.ones(count, int)
  other = audits.draw_other_labels(
    rng.fold_in(KEY, 'other'), given, truth, CLASSES
  )
  logits = np.zeros((count, CLASSES), np.float32)
  logits[np.arange(count), np.where(np.arange(count) < right, 1, other)] = 5
  found = audits.recover_labels(KEY, logits, given, truth)
  wanted = stats.binomtest(right, count).proportion_ci(method='wilson')
  assert found.rate == right / count
  np.testing.assert_allclose((found.low, found.high), wanted, atol=1e-12)


def test_a_network_that_is_equally_unsure_is_chance():
  _, truth, given = problem(3, 50)
  logits = np.zeros((50, CLASSES), np.float32)
  assert audits.recover_labels(KEY, logits, given, truth).rate == 0.5


def test_a_likely_mistake_is_no_leak_beside_references():
  """The given label is the one that networks confuse anyway."""
  draws, truth, _ = problem(1)
  given = (truth + 1) % CLASSES
  logits = network(draws, truth, likely=2.0)
  alone = audits.recover_labels(KEY, logits, given, truth)
  assert alone.low > 0.8
  references = np.stack([network(draws, truth, likely=2.0) for _ in range(16)])
  beside = audits.recover_labels(KEY, logits, given, truth, references, a=1.0)
  assert abs(beside.rate - 0.5) < 0.06


def test_intervals_hold_chance():
  """Of networks that know nothing the 95 % interval mostly holds 1/2."""
  held = []
  for seed in range(40):
    draws, truth, given = problem(seed, 150)
    found = audits.recover_labels(
      jax.random.key(seed), network(draws, truth), given, truth
    )
    held.append(found.low <= 0.5 <= found.high)
  assert np.mean(held) > 0.82


@pytest.mark.parametrize(
  ('truth', 'classes', 'said'),
  [([1, 0], 2, 'there are 2 classes'), ([1, 1], 4, '1 of 2 labels are right')],
)
def test_what_cannot_be_audited(truth, classes, said):
  given = np.array([0, 1])
  with pytest.raises(errors.UserError, match=said):
    audits.draw_other_labels(KEY, given, np.array(truth), classes)


def test_one_more_reference_is_right_half_of_the_time():
  """Even where the given label is by far the likelier mistake."""
  generator = np.random.default_rng(4)
  given, other = np.full(4000, 1), np.full(4000, 2)
  logits = generator.normal(0, 0.7, (9, 4000, 5)) + np.array([9, 4, 0, 0, 0])
  expected = audits.expected_advantage(logits[1:], given, other)
  said = logits[0][:, 1] - logits[0][:, 2]
  assert np.mean(said > 0) > 0.99
  assert np.mean(said > expected) == pytest.approx(0.5, abs=0.03)
  exact = np.exp(logits[1:]) / np.exp(logits[1:]).sum(-1, keepdims=True)
  np.testing.assert_allclose(
    expected,
    np.log(exact[:, :, 1].mean(0) / exact[:, :, 2].mean(0)),
    rtol=1e-4,
  )
