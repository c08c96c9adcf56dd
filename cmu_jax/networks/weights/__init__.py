"""A user's weights: files of three formats, and names of two conventions.

`files` turns a file into flat arrays by name and back; `names` fits them to a
network's variables and back, so that repaired weights leave in the format,
names and precision in which they came.
"""

from cmu_jax.networks.weights.files import Stored, read, side_file, there, write
from cmu_jax.networks.weights.heads import num_classes
from cmu_jax.networks.weights.names import fit, put_back

__all__ = [
  'Stored',
  'fit',
  'num_classes',
  'put_back',
  'read',
  'side_file',
  'there',
  'write',
]
