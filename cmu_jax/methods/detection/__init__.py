"""Finding the bad samples of S_tr that nobody has identified yet.

A detector is a function of `detector_data.DetectorData` (features of the
suspect
network, trained labels, which rows are of S_f) that returns the rows to put to
S_f. How many it flags is decided by S_f alone, never by ground truth.
"""

from collections.abc import Callable

from cmu_jax.methods.detection import detector_data, detectors
from cmu_jax.methods.detection.detector_data import Detector, FeatureExtractor

# By the names that tables have, with the settings of their papers.
DETECTORS: dict[str, Callable[[], Detector]] = {
  'spectral': detectors.spectral_detector,
  'clustering': detectors.clustering_detector,
  'knn': detectors.neighbour_detector,
  'knn_labels': lambda: detectors.neighbour_detector(vote='disagreement'),
  'supervised': detectors.supervised_detector,
  'adversarial': detectors.supervised_detector,
}
# What a detector looks at, where that is not the penultimate features.
_EXTRACTORS: dict[str, FeatureExtractor] = {
  'adversarial': detector_data.boundary_directions
}


def extractor_of(name: str) -> FeatureExtractor:
  """What a detector of `DETECTORS` looks at, see `detector_data.collect`."""
  return _EXTRACTORS.get(name, detector_data.penultimate_features)
