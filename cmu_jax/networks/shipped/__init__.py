"""A network as somebody shipped it: files in, everything bound, files out."""

from cmu_jax.networks.shipped.bodies import Body, body
from cmu_jax.networks.shipped.classes import class_names, labels
from cmu_jax.networks.shipped.network import (
  Shipped,
  labelled,
  load,
  sized,
  write,
)

__all__ = [
  'Body',
  'Shipped',
  'body',
  'class_names',
  'labelled',
  'labels',
  'load',
  'sized',
  'write',
]
