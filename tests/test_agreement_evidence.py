"""Evidence without labels: closed forms, invariances, simulated runs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmu_jax.core import errors
from cmu_jax.methods.unlabelled import agreement


def predictions(seed, size=400, classes=5):
  return np.random.default_rng(seed).integers(0, classes, (3, size))


def test_shares_of_a_small_example():
  original = np.array([0, 0, 0, 0, 0])
  first = np.array([0, 1, 1, 1, 0])
  second = np.array([0, 1, 2, 0, 0])
  # Picture 1 changes alike; picture 2 changes twice and differently; picture 3
  # changes once.
  alike, alone = agreement.changes(original, first, second)
  assert alike == pytest.approx(1 / 5)
  assert alone == pytest.approx((3 + 2) / 10 - 1 / 5)


def test_runs_that_change_nothing_are_no_evidence():
  original = np.arange(50) % 5
  evidence = agreement.judge(original, original, original, 5)
  assert not evidence.repaired and evidence.reason == 'gain'
  assert evidence.alike == evidence.alone == 0
  assert evidence.accuracy_before == evidence.accuracy_after == (1.0, 1.0, 1.0)


def test_runs_that_mend_the_same_mistakes_are_evidence():
  truth = np.arange(200) % 5
  original = truth.copy()
  original[::4] = (original[::4] + 1) % 5
  evidence = agreement.judge(original, truth, truth, 5)
  assert evidence.repaired and not evidence.reason
  assert evidence.alike == pytest.approx(0.25)
  assert evidence.alone == pytest.approx(0.0)
  assert evidence.accuracy_before[0] == pytest.approx(0.75)
  assert evidence.accuracy_after[0] == pytest.approx(1.0)


def test_runs_that_disturb_are_no_evidence():
  """Each run moves random answers to random classes, and abstains always."""
  rng = np.random.default_rng(0)
  truth = np.arange(500) % 10
  for _ in range(50):
    runs = []
    for _ in range(2):
      moved = truth.copy()
      rows = rng.random(500) < 0.1
      moved[rows] = rng.integers(0, 10, rows.sum())
      runs.append(moved)
    assert not agreement.judge(truth, *runs, 10).repaired


def test_changes_of_the_control_do_not_count():
  """A shift that both runs share with the control mends nothing."""
  original = np.arange(200) % 5
  shifted = original.copy()
  shifted[::4] = (shifted[::4] + 1) % 5
  assert agreement.judge(original, shifted, shifted, 5).repaired
  evidence = agreement.judge(original, shifted, shifted, 5, control=shifted)
  assert not evidence.repaired and evidence.alike == 0
  assert evidence.alone == pytest.approx(0.25)
  # A control that changes nothing takes nothing away.
  same = agreement.judge(original, shifted, shifted, 5, control=original)
  assert same == agreement.judge(original, shifted, shifted, 5)


def test_a_class_that_the_pictures_lack_is_named():
  """Runs fill an absent class with pictures of others, each run with others."""
  rng = np.random.default_rng(1)
  truth = rng.integers(0, 9, 300)
  noisy = np.where(rng.random(300) < 0.3, (truth + 1) % 9, truth)
  runs = []
  for _ in range(2):
    filled = truth.copy()
    filled[rng.choice(300, 30, replace=False)] = 9
    runs.append(filled)
  evidence = agreement.judge(noisy, *runs, 10)
  assert evidence.absent == (9,)
  assert not evidence.repaired and evidence.reason == 'classes'
  anyway = agreement.Rule(needs_all_classes=False)
  assert agreement.judge(noisy, *runs, 10, anyway).repaired


@pytest.mark.parametrize('size', [20, 50, 100, 1000])
@pytest.mark.parametrize('classes', [2, 10, 100])
def test_even_pools_seldom_lack_a_class(size, classes):
  """Perfect runs on random draws of all classes: at most one alarm in 20."""
  rng = np.random.default_rng(2)
  alarms = [
    bool(agreement.find_absent(label, label, classes))
    for label in rng.integers(0, classes, (400, size))
  ]
  # Two standard errors of 400 draws.
  assert np.mean(alarms) <= 0.05 + 0.022


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_evidence_does_not_depend_on_order_or_on_names(seed):
  rng = np.random.default_rng(seed)
  original, first, second = predictions(seed, classes=4)
  evidence = agreement.judge(original, first, second, 4)
  order, names = rng.permutation(400), rng.permutation(4)
  moved = agreement.judge(
    *(names[x[order]] for x in (original, first, second)), 4
  )
  exchanged = agreement.judge(original, second, first, 4)
  for other in (moved, exchanged):
    assert other.repaired == evidence.repaired
    np.testing.assert_allclose(other.alike, evidence.alike)
    np.testing.assert_allclose(other.alone, evidence.alone)
    np.testing.assert_allclose(other.accuracy_after, evidence.accuracy_after)
  assert evidence.interval[0] <= evidence.alike <= evidence.interval[1]


def test_the_record_is_json():
  import json

  evidence = agreement.judge(*predictions(3), 5)
  record = json.loads(json.dumps(evidence.record))
  assert record['alike'] == evidence.alike
  assert record['accuracy_before'] == list(evidence.accuracy_before)


def test_a_single_picture_is_refused():
  with pytest.raises(errors.UserError, match='1 pictures are too few'):
    agreement.judge(*predictions(4, size=1), 5)
