"""Network families by name. A new family is one file and one line here."""

import inspect
from collections.abc import Callable
from typing import Any

import jax

from cmu_jax import errors
from cmu_jax.models import classifier, convnet, fc, resnet, resnet9
from cmu_jax.models.classifier import bind
from cmu_jax.types import Model, Variables

__all__ = ['REGISTRY', 'bind', 'make', 'parameter_count']

REGISTRY: dict[str, Callable[..., classifier.Classifier]] = {
  'fc': fc.fc,
  'convnet': convnet.convnet,
  'resnet9': resnet9.resnet9,
  'resnet18': resnet.resnet18,
}

_DTYPES = ('float32', 'bfloat16')


def make(
  name: str, num_classes: int, image_shape: tuple[int, ...], **options: Any
) -> Model:
  """A network by name.

  Args:
    name: a key of REGISTRY.
    num_classes: k.
    image_shape: (h, w, c) of the images as the network sees them.
    **options: of that family, for example width=16, dtype='bfloat16'.

  Raises:
    UserError: unknown name or option, or images the family cannot take.
  """
  if name not in REGISTRY:
    raise errors.unknown('model', name, REGISTRY)
  factory = REGISTRY[name]
  known = [p for p in inspect.signature(factory).parameters][2:]
  for option in options:
    if option not in known:
      raise errors.unknown(f'option of model {name!r}', option, known)
  dtype = options.get('dtype', 'float32')
  if dtype not in _DTYPES:
    raise errors.unknown(f'dtype of model {name!r}', str(dtype), _DTYPES)
  return bind(factory(num_classes, tuple(image_shape), **options))


def parameter_count(variables: Variables) -> int:
  """The number of trained scalars; BatchNorm statistics do not count."""
  return sum(leaf.size for leaf in jax.tree.leaves(variables.params))
