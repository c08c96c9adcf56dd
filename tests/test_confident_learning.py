"""Confident learning: a hand-made example, invariances, planted errors."""

import numpy as np
import pytest

import cmu_jax
from cmu_jax.core import errors
from cmu_jax.methods.detection import confident_learning, suspects

# Two classes. Thresholds: mean(.9, .8, .1) = .6 and mean(.8, .9, .35) = .6833.
PROBABILITY = np.array(
  [[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.1, 0.9], [0.65, 0.35]]
)
LABEL = np.array([0, 0, 0, 1, 1, 1])


def test_a_hand_made_joint():
  joint = confident_learning.estimate_joint(PROBABILITY, LABEL)
  np.testing.assert_allclose(joint.threshold, [0.6, 2.05 / 3])
  # The third sample is surely of class 1, the last is of class 0.
  np.testing.assert_array_equal(joint.counts, [[2, 1], [1, 2]])
  np.testing.assert_allclose(joint.joint, [[2 / 6, 1 / 6], [1 / 6, 2 / 6]])
  assert joint.error_rate == pytest.approx(1 / 3)


@pytest.mark.parametrize('prune', ['prune_by_class', 'prune_by_noise_rate'])
def test_pruning_takes_the_errors(prune):
  joint = confident_learning.estimate_joint(PROBABILITY, LABEL).joint
  marked = getattr(confident_learning, prune)(PROBABILITY, LABEL, joint)
  np.testing.assert_array_equal(np.flatnonzero(marked), [2, 5])


def test_a_hand_made_posterior():
  joint = np.array([[0.4, 0.1], [0.1, 0.4]])
  truth = confident_learning.infer_truth(PROBABILITY, LABEL, joint)
  # .1 * .8 against .9 * .2, both over their sum.
  np.testing.assert_allclose(truth[2], [0.08 / 0.26, 0.18 / 0.26])


def test_expected_precision_is_the_mean_certainty():
  share = confident_learning.expect_precision(np.array([1.0, 0.5, 0.0]))
  np.testing.assert_allclose(share, [1.0, 0.75, 0.5])


def noisy(count=600, classes=4, rate=0.25, seed=0):
  """Features around class means, wrong labels, and answers for the truth."""
  draw = np.random.default_rng(seed)
  truth = draw.integers(0, classes, count)
  means = 3 * draw.normal(size=(classes, 8))
  features = means[truth] + draw.normal(size=(count, 8))
  label = truth.copy()
  wrong = draw.permutation(count)[: int(rate * count)]
  label[wrong] = (
    truth[wrong] + draw.integers(1, classes, len(wrong))
  ) % classes
  logits = -((features[:, None] - means) ** 2).sum(2) / 2
  answer = np.exp(logits - logits.max(1, keepdims=True))
  return answer / answer.sum(1, keepdims=True), truth, label, features


def test_planted_errors_come_first_and_the_list_says_its_precision():
  answer, truth, label, _ = noisy()
  ranked = suspects.find_wrong_labels(answer, label)
  wrong = label != truth
  count = int(wrong.sum())
  assert wrong[ranked.row[:count]].mean() > 0.97
  assert (ranked.suggested == truth[ranked.row])[:count].mean() > 0.97
  assert ranked.certainty.sum() == pytest.approx(count, rel=0.05)
  for cut in (count // 2, count, 2 * count):
    actual = wrong[ranked.row[:cut]].mean()
    assert ranked.precision[cut - 1] == pytest.approx(actual, abs=0.05)


def test_answers_that_repeat_the_labels_are_cross_fitted():
  _, truth, label, features = noisy()
  repeated = np.full((len(label), 4), 0.01)
  repeated[np.arange(len(label)), label] = 0.97
  wrong = label != truth
  count = int(wrong.sum())
  blind = suspects.find_wrong_labels(repeated, label)
  assert wrong[blind.row[:count]].mean() < 0.4
  kinds = cmu_jax.find(repeated, label, features)
  assert wrong[kinds['wrong label'].row[:count]].mean() > 0.95


def test_the_order_of_samples_and_classes_does_not_matter():
  answer, _, label, features = noisy(seed=1)
  plain = suspects.find(answer, label, features)['wrong label']
  fitted = suspects.cross_fit(features, label, 4)
  samples = np.random.default_rng(2).permutation(len(label))
  classes = np.array([2, 0, 3, 1])
  place = np.argsort(classes)
  moved = suspects.find(
    answer[samples][:, classes], place[label[samples]], features[samples]
  )['wrong label']
  np.testing.assert_array_equal(samples[moved.row][:50], plain.row[:50])
  np.testing.assert_array_equal(
    classes[moved.suggested][:50], plain.suggested[:50]
  )
  np.testing.assert_allclose(moved.certainty, plain.certainty, atol=1e-9)
  again = suspects.cross_fit(features[samples], label[samples], 4)
  np.testing.assert_allclose(again, fitted[samples], atol=1e-6)


def test_a_class_without_samples_is_no_suggestion():
  answer, _, label, _ = noisy()
  wider = np.concatenate([answer, np.zeros((len(label), 1))], axis=1)
  joint = confident_learning.estimate_joint(wider, label)
  assert joint.threshold[4] == np.inf
  assert joint.joint.sum() == pytest.approx(1)
  assert 4 not in suspects.find_wrong_labels(wider, label).suggested[:100]


def test_an_outlier_is_found_and_ordinary_samples_are_not():
  _, _, _, features = noisy()
  assert len(suspects.find_outliers(features).row) <= 3
  # In a direction that no other sample has.
  wide = np.concatenate([features, np.zeros((len(features), 1))], axis=1)
  wide[17] = 0
  wide[17, -1] = 5
  assert suspects.find_outliers(wide).row[0] == 17


@pytest.mark.parametrize(
  'change, sentence',
  [
    (lambda p, y: (p * 2, y), 'sum to 2 instead of 1'),
    (lambda p, y: (p - 0.5, y), 'logits need a softmax'),
    (lambda p, y: (p, y + 1), 'count from 1 to 2'),
    (lambda p, y: (p[:3], y), '3 samples have probabilities, but 6'),
    (lambda p, y: (p[:, 0], y), 'have shape'),
    (lambda p, y: (p * np.nan, y), 'not finite'),
  ],
)
def test_arrays_that_do_not_fit(change, sentence):
  with pytest.raises(errors.UserError, match=sentence):
    cmu_jax.find(*change(PROBABILITY, LABEL))
