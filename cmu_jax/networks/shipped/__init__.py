"""A network as somebody shipped it: files in, everything bound, files out."""

from cmu_jax.networks.shipped.user_data import (
  label_pictures,
  resolve_class_names,
)
from cmu_jax.networks.shipped.user_network import (
  Backbone,
  ShippedNetwork,
  load,
  load_backbone,
  read_labelled,
  read_same_shape,
  write,
)

__all__ = [
  'Backbone',
  'ShippedNetwork',
  'label_pictures',
  'load',
  'load_backbone',
  'read_labelled',
  'read_same_shape',
  'resolve_class_names',
  'write',
]
