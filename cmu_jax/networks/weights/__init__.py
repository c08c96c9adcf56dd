"""A user's weights: files of three formats, and names of two conventions.

`files` turns a file into flat arrays by name and back; `names` fits them to a
network's variables and back, so that repaired weights leave in the format,
names and precision in which they came.
"""

from cmu_jax.networks.weights.formats import (
  StoredWeights,
  locate,
  read,
  read_side_file,
  write,
)
from cmu_jax.networks.weights.matching import count_classes, fit, put_back

__all__ = [
  'StoredWeights',
  'count_classes',
  'fit',
  'locate',
  'put_back',
  'read',
  'read_side_file',
  'write',
]
