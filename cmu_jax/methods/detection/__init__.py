"""Detectors of the bad samples of S_tr that nobody has identified yet.

A detector is a function of `DetectorData` (features of the suspect network,
trained labels, the rows of S_f) that returns the rows to add to S_f. S_f alone
decides how many rows it flags; ground truth plays no part.
"""

from collections.abc import Callable

from cmu_jax.methods.detection import detector_data, detectors
from cmu_jax.methods.detection.detector_data import Detector, FeatureExtractor

# By the names that tables use, with the settings of the papers.
DETECTORS: dict[str, Callable[[], Detector]] = {
  'spectral': detectors.spectral_detector,
  'clustering': detectors.clustering_detector,
  'knn': detectors.neighbour_detector,
  'knn_labels': lambda: detectors.neighbour_detector(vote='disagreement'),
  'supervised': detectors.supervised_detector,
  'adversarial': detectors.supervised_detector,
}
_EXTRACTORS: dict[str, FeatureExtractor] = {
  'adversarial': detector_data.boundary_directions
}


def extractor_of(name: str) -> FeatureExtractor:
  """Returns the features of a detector of `DETECTORS`, by name."""
  return _EXTRACTORS.get(name, detector_data.penultimate_features)
