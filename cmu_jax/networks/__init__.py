"""Network families by name. A new family is one file and one line here."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from cmu_jax.core import errors
from cmu_jax.core.types import Model, Variables
from cmu_jax.networks import classifier
from cmu_jax.networks.classifier import bind, freeze_norms, from_functions
from cmu_jax.networks.families import (
  densenet,
  dinov2,
  mobilenet,
  resnet,
  resnet9,
  resnet_cifar,
  small,
  vgg,
  vit,
  wrn,
)

__all__ = [
  'REGISTRY',
  'Family',
  'bind',
  'freeze_norms',
  'from_functions',
  'frozen_modules',
  'make',
  'parameter_count',
  'stem_variants',
]


class Family(NamedTuple):
  """A network family.

  Attributes:
    make: (num_classes, image shape, **options) -> module.
    torch_name: a module's path here, 'body/conv1', to its name in PyTorch's
      state dict, 'conv1'; None where no PyTorch network has these modules.
    layers: (**options) -> the modules of each layer, from first to last; None
      where training the last layers alone is not provided for.
    options: path of a config.json beside weights -> options of `make`; None
      where such weights have none.
  """

  make: Callable[..., classifier.Classifier]
  torch_name: Callable[[str], str] | None = None
  layers: Callable[..., tuple[tuple[str, ...], ...]] | None = None
  options: Callable[[Any], dict[str, Any]] | None = None


REGISTRY: dict[str, Family] = {
  'fc': Family(small.fc, layers=small.fc_layer_modules),
  'convnet': Family(small.convnet, layers=small.convnet_layer_modules),
  'resnet9': Family(resnet9.resnet9, layers=resnet9.layer_modules),
  'resnet18': Family(resnet.factory(18), resnet.torch_name),
  'resnet34': Family(resnet.factory(34), resnet.torch_name),
  'resnet50': Family(resnet.factory(50), resnet.torch_name),
  'wrn': Family(
    wrn.wrn, wrn.torch_name, functools.partial(wrn.layer_modules, False)
  ),
  'wrn_corrective': Family(
    wrn.wrn_corrective,
    wrn.torch_name_corrective,
    functools.partial(wrn.layer_modules, True),
  ),
  'vgg19': Family(vgg.factory(False), vgg.torch_name),
  'vgg19_bn': Family(vgg.factory(True), vgg.torch_name),
  'densenet121': Family(densenet.densenet121, densenet.torch_name),
  'mobilenet_v1': Family(mobilenet.mobilenet_v1, mobilenet.torch_name_v1),
  'mobilenet_v2': Family(mobilenet.mobilenet_v2, mobilenet.torch_name_v2),
  'dinov2': Family(
    dinov2.dinov2, dinov2.torch_name, options=dinov2.read_options
  ),
  'vit_b_16': Family(vit.vit_b_16, vit.torch_name),
  'vit_s_16': Family(vit.vit_s_16, vit.torch_name),
  'vit_tiny': Family(vit.vit_tiny, vit.torch_name),
  **{
    f'resnet{depth}': Family(
      resnet_cifar.factory(depth), resnet_cifar.torch_name
    )
    for depth in (20, 32, 44, 56)
  },
}

_DTYPES = ('float32', 'bfloat16')
_STEMS = ('cifar', 'imagenet')


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
    raise errors.unknown_name('model', name, REGISTRY)
  factory = REGISTRY[name].make
  known = [p for p in inspect.signature(factory).parameters][2:]
  for option in options:
    if option not in known:
      raise errors.unknown_name(f'option of model {name!r}', option, known)
  dtype = options.get('dtype', 'float32')
  if dtype not in _DTYPES:
    raise errors.unknown_name(f'dtype of model {name!r}', str(dtype), _DTYPES)
  return bind(factory(num_classes, tuple(image_shape), **options))


def frozen_modules(
  name: str, num_layers: int, **options: Any
) -> tuple[str, ...]:
  """What stays as it is when only the last layers of a network are trained.

  Args:
    name: a key of REGISTRY.
    num_layers: how many layers are trained, the head being one; -1 for all.
    **options: those of `make`.

  Returns:
    Paths of modules, such as 'body/conv1'.

  Raises:
    UserError: an unknown name, a family without such layers, or another count.
  """
  if name not in REGISTRY:
    raise errors.unknown_name('model', name, REGISTRY)
  layers = REGISTRY[name].layers
  known = [key for key, family in REGISTRY.items() if family.layers]
  if layers is None:
    raise errors.unknown_name('model to train in part', name, known)
  found = layers(**options)
  errors.check(
    num_layers == -1 or 1 <= num_layers <= len(found),
    f'{num_layers} last layers of {name!r}: give 1 to {len(found)}, or -1 for '
    f'all',
  )
  first = 0 if num_layers == -1 else len(found) - num_layers
  return tuple(path for layer in found[:first] for path in layer)


def stem_variants(
  name: str, options: Mapping[str, Any]
) -> list[tuple[dict[str, Any], tuple[str, ...]]]:
  """The options of a network, then with other stems if none was given.

  Args:
    name: a key of REGISTRY.
    options: those of `make`.

  Returns:
    Options, each with a note that says what was added to them, if anything.
  """
  known = inspect.signature(REGISTRY[name].make).parameters
  found: list[tuple[dict[str, Any], tuple[str, ...]]] = [(dict(options), ())]
  if 'stem' in known and 'stem' not in options:
    others = [stem for stem in _STEMS if stem != known['stem'].default]
    found += [
      ({**options, 'stem': stem}, (f"The weights are for stem='{stem}'.",))
      for stem in others
    ]
  return found


def parameter_count(variables: Variables) -> int:
  """The number of trained scalars; BatchNorm statistics do not count."""
  return sum(leaf.size for leaf in jax.tree.leaves(variables.params))
