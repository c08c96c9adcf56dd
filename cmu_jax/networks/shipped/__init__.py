"""A network as a user ships it: reads its files, binds it, writes it back."""

from cmu_jax.networks.shipped.class_order import ClassOrder, check_order
from cmu_jax.networks.shipped.user_data import (
  label_pictures,
  list_classes,
  name_picture,
  read_labelled,
  read_same_shape,
)
from cmu_jax.networks.shipped.user_network import (
  Backbone,
  ShippedNetwork,
  load,
  load_backbone,
)
from cmu_jax.networks.shipped.writing import (
  WrittenWeights,
  read_written,
  save_weights,
  write,
)

__all__ = [
  'Backbone',
  'ClassOrder',
  'ShippedNetwork',
  'WrittenWeights',
  'check_order',
  'label_pictures',
  'list_classes',
  'load',
  'load_backbone',
  'name_picture',
  'read_labelled',
  'read_same_shape',
  'read_written',
  'save_weights',
  'write',
]
