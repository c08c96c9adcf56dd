"""Finding the bad samples of S_tr that nobody has identified yet.

A detector is a function of `evidence.Evidence` (features of the suspect
network, trained labels, which rows are of S_f) that returns the rows to put to
S_f. How many it flags is decided by S_f alone, never by ground truth.
"""

from collections.abc import Callable

from cmu_jax.methods.detection import (
  clustering,
  directions,
  evidence,
  neighbours,
  spectral,
  supervised,
)
from cmu_jax.methods.detection.evidence import Detector, Look

# By the names that tables have, with the settings of their papers.
DETECTORS: dict[str, Callable[[], Detector]] = {
  'spectral': spectral.detector,
  'clustering': clustering.detector,
  'knn': neighbours.detector,
  'knn_labels': lambda: neighbours.detector(vote='disagreement'),
  'supervised': supervised.detector,
  'adversarial': supervised.detector,
}
# What a detector looks at, where that is not the penultimate features.
_LOOKS: dict[str, Look] = {'adversarial': directions.directions}


def look(name: str) -> Look:
  """What a detector of `DETECTORS` looks at, see `evidence.collect`."""
  return _LOOKS.get(name, evidence.features)
