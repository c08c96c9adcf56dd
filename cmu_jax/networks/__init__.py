"""Network families by name. A new family is one file and one line here."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from cmu_jax.core import array_checks, errors
from cmu_jax.core.types import Model, Variables
from cmu_jax.networks import classifier
from cmu_jax.networks.classifier import (
  as_model,
  as_network,
  as_variables,
  bind,
  freeze_norms,
  from_functions,
)
from cmu_jax.networks.families import (
  densenet,
  dinov2,
  mobilenet,
  resnet,
  resnet9,
  small,
  vgg,
  vit,
  wrn,
)

__all__ = [
  'REGISTRY',
  'Family',
  'as_model',
  'as_network',
  'as_variables',
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
      where the last layers cannot be trained alone.
    read_options: path of a config.json beside weights -> options of `make`;
      None where such weights have none.
    option_names: options that `make` takes as **options.
  """

  make: Callable[..., classifier.Classifier]
  torch_name: Callable[[str], str] | None = None
  layers: Callable[..., tuple[tuple[str, ...], ...]] | None = None
  read_options: Callable[[Any], dict[str, Any]] | None = None
  option_names: tuple[str, ...] = ()


REGISTRY: dict[str, Family] = {
  'fc': Family(small.fc, layers=small.fc_layer_modules),
  'convnet': Family(small.convnet, layers=small.convnet_layer_modules),
  'resnet9': Family(resnet9.resnet9, layers=resnet9.layer_modules),
  **{
    f'resnet{depth}': Family(resnet.factory(depth), resnet.torch_name)
    for depth in (18, 34, 50)
  },
  'wrn': Family(
    wrn.factory(False),
    wrn.torch_name,
    functools.partial(wrn.layer_modules, False),
  ),
  'wrn_corrective': Family(
    wrn.factory(True),
    wrn.torch_name_corrective,
    functools.partial(wrn.layer_modules, True),
  ),
  'vgg19': Family(vgg.factory(False), vgg.torch_name),
  'vgg19_bn': Family(vgg.factory(True), vgg.torch_name),
  'densenet121': Family(densenet.densenet121, densenet.torch_name),
  'mobilenet_v1': Family(mobilenet.factory(1), mobilenet.torch_name_v1),
  'mobilenet_v2': Family(mobilenet.factory(2), mobilenet.torch_name_v2),
  'dinov2': Family(
    dinov2.dinov2,
    dinov2.torch_name,
    read_options=dinov2.read_options,
    option_names=dinov2.Sizes._fields,
  ),
  'vit_b_16': Family(vit.vit_b_16, vit.torch_name),
  'vit_s_16': Family(vit.vit_s_16, vit.torch_name),
  'vit_tiny': Family(vit.vit_tiny, vit.torch_name),
  # Depths 20 to 56 are other networks than 18 to 50, for images of 32x32.
  **{
    f'resnet{depth}': Family(
      resnet.cifar_factory(depth), resnet.cifar_torch_name
    )
    for depth in (20, 32, 44, 56)
  },
}

# Parameters stay float32; float16 would need a scaled loss.
_DTYPES = ('float32', 'bfloat16')
_STEMS = ('cifar', 'imagenet')


def make(
  name: str, num_classes: int, image_shape: tuple[int, ...], **options: Any
) -> Model:
  """Makes a network by name.

  Args:
    name: a key of REGISTRY.
    num_classes: k.
    image_shape: (h, w, c) of the images as the network sees them.
    **options: of that family, for example width=16, dtype='bfloat16'.

  Raises:
    UserError: unknown name or option, or images the family cannot take.
  """
  family, names = _find_family(name), option_names(name)
  parameters = inspect.signature(family.make).parameters
  for option, value in options.items():
    if option not in names:
      raise errors.unknown_name(f'option of model {name!r}', option, names)
    # Sizes, such as a width. The family knows the least of each: some are 0.
    if option in parameters and type(parameters[option].default) is int:
      whole = isinstance(value, int | np.integer)
      errors.check(
        whole and not isinstance(value, bool),
        f'{option} of model {name!r} is {errors.describe_value(value)}; give '
        'an integer',
      )
  array_checks.check_count('num_classes', num_classes)
  _check_shape(image_shape)
  dtype = options.get('dtype', 'float32')
  if dtype not in _DTYPES:
    raise errors.unknown_name(f'dtype of model {name!r}', str(dtype), _DTYPES)
  return bind(family.make(num_classes, tuple(image_shape), **options))


def _check_shape(shape: Any) -> None:
  """Refuses a shape that is not (h, w, c)."""
  # Linen would build a network for any shape, and fail at the first image.
  sizes = tuple(shape) if isinstance(shape, tuple | list) else ()
  errors.check(
    len(sizes) == 3
    and all(isinstance(x, int | np.integer) and x >= 1 for x in sizes),
    f'image_shape is {shape}; give (height, width, channels) of one image',
  )


def _find_family(name: str) -> Family:
  if name not in REGISTRY:
    raise errors.unknown_name('model', name, REGISTRY)
  return REGISTRY[name]


def option_names(name: str) -> list[str]:
  """Lists the options of a family, a key of REGISTRY."""
  family = _find_family(name)
  # The signature is the single place that lists a family's options.
  parameters = list(inspect.signature(family.make).parameters)[2:]
  return [*family.option_names, *(p for p in parameters if p != 'options')]


def frozen_modules(
  name: str, num_layers: int, **options: Any
) -> tuple[str, ...]:
  """Modules that stay unchanged when only the last layers are trained.

  Args:
    name: a key of REGISTRY.
    num_layers: number of trained layers, the head included; -1 for all.
    **options: those of `make`.

  Returns:
    Paths of modules, such as 'body/conv1'.

  Raises:
    UserError: an unknown name, a family without such layers, or an impossible
      number of layers.
  """
  layers = _find_family(name).layers
  if layers is None:
    partial = [key for key, family in REGISTRY.items() if family.layers]
    raise errors.unknown_name('model to train in part', name, partial)
  modules = layers(**options)
  errors.check(
    num_layers == -1 or 1 <= num_layers <= len(modules),
    f'{num_layers} last layers of {name!r}: give 1 to {len(modules)}, or -1 '
    'for all',
  )
  # Layers may hold several modules, such as a convolution and its norm.
  count = 0 if num_layers == -1 else len(modules) - num_layers
  return tuple(path for layer in modules[:count] for path in layer)


def stem_variants(
  name: str, options: Mapping[str, Any]
) -> list[tuple[dict[str, Any], tuple[str, ...]]]:
  """Lists the options of a network, then with other stems if none was given.

  Args:
    name: a key of REGISTRY.
    options: those of `make`.

  Returns:
    Options, each with a note on the added stem, if any.
  """
  parameters = inspect.signature(REGISTRY[name].make).parameters
  variants: list[tuple[dict[str, Any], tuple[str, ...]]] = [(dict(options), ())]
  # The names in a state dict do not tell the stem; the shape of its first
  # kernel does, so that a loader may try both.
  if 'stem' in parameters and 'stem' not in options:
    variants += [
      ({**options, 'stem': stem}, (f"The weights are for stem='{stem}'.",))
      for stem in _STEMS
      if stem != parameters['stem'].default
    ]
  return variants


def parameter_count(variables: Variables) -> int:
  """Counts the trained scalars; BatchNorm statistics do not count."""
  return sum(leaf.size for leaf in jax.tree.leaves(variables.params))
