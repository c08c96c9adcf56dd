"""A user's weights: files of four formats, and names of two conventions.

`formats` reads a file into flat arrays by name and writes them back. `names`
finds the place of a network's variables among them. `matching` fits the arrays
to the variables and puts them back, so that repaired weights keep the format,
names and precision of the user's file.
"""

from cmu_jax.networks.weights.formats import read, write
from cmu_jax.networks.weights.matching import count_fitting, fit, put_back
from cmu_jax.networks.weights.names import count_classes
from cmu_jax.networks.weights.stored import StoredWeights, locate

__all__ = [
  'StoredWeights',
  'count_classes',
  'count_fitting',
  'fit',
  'locate',
  'put_back',
  'read',
  'write',
]
