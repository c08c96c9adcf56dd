"""One test for all classes of S_f: power, and its level."""

import numpy as np

from cmu_jax.methods.detection import detectors, flagging
from cmu_jax.methods.detection.detector_data import DetectorData


def confused(known, hits, per_class=60, classes=2, seed=0):
  """Classes of which half lies apart; so many of S_f lie in that half."""
  label = np.repeat(np.arange(classes), per_class)
  half = np.tile(np.arange(per_class) < per_class // 2, classes)
  generator = np.random.default_rng(seed)
  features = generator.normal(size=(label.size, 4)) + 20 * half[:, None]
  chosen = np.zeros(label.size, bool)
  for one in range(classes):
    inside = np.flatnonzero((label == one) & half)[: hits[one]]
    outside = np.flatnonzero((label == one) & ~half)[: known[one] - hits[one]]
    chosen[np.append(inside, outside)] = True
  return DetectorData(features.astype(np.float32), label, chosen), half


def test_few_rows_a_class_tell_together_what_none_tells_alone():
  seen, half = confused(known=(3,) * 3, hits=(3, 3, 3), classes=3)
  alone = flagging.flag_by_class(detectors.cluster_scores, seen)
  assert not alone.any()
  found = detectors.clustering_detector()(seen)
  np.testing.assert_array_equal(found, half & ~seen.identified)
  less, _ = confused(known=(3,) * 3, hits=(3, 3, 2), classes=3)
  assert not detectors.clustering_detector()(less).any()


def test_one_row_a_class_says_nothing_however_many_classes_there_are():
  seen, _ = confused(known=(1,) * 10, hits=(1,) * 10, classes=10)
  assert not flagging.flag_jointly(detectors.cluster_scores, seen).any()


def test_together_errs_as_often_as_it_says():
  """S_f drawn from all rows alike is flagged in at most about 5 % of cases."""
  flagged = 0
  for seed in range(200):
    generator = np.random.default_rng(seed)
    known = generator.integers(1, 8, 3)
    hits = generator.binomial(known, 0.5)
    seen, _ = confused(tuple(known), tuple(hits), classes=3, seed=seed)
    flagged += flagging.flag_jointly(detectors.cluster_scores, seen).any()
  assert flagged <= 18  # 10 expected; 18 or more has a chance of 1 %
