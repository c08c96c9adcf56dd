"""A network as a user ships it: reads its files, binds it, writes it back."""

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
)
from cmu_jax.networks.shipped.writing import (
  WrittenWeights,
  save_weights,
  write,
)

__all__ = [
  'Backbone',
  'ShippedNetwork',
  'WrittenWeights',
  'label_pictures',
  'load',
  'load_backbone',
  'read_labelled',
  'read_same_shape',
  'resolve_class_names',
  'save_weights',
  'write',
]
