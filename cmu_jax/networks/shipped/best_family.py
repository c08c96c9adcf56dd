"""The family that some weights belong to, where they do not fit the given one.

Weights of another family lack every array of the given one, which makes a page
of errors. The first line names the family whose names and shapes fit best.
"""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from cmu_jax import networks
from cmu_jax.core import errors
from cmu_jax.networks import weights
from cmu_jax.networks.shipped import inferred_sizes
from cmu_jax.networks.weights import names

# A smaller share is that of layers which many networks call the same.
_LEAST_SHARE = 0.5
# Families whose sizes are tried, those with the most names first.
_ATTEMPTS = 2
# Sides and channels of CIFAR, MNIST and ImageNet, where no picture was read.
_USUAL_SHAPES = ((32, 3), (32, 1), (224, 3))
# Arrays that only the towers of CLIP and SigLIP have, by a part of their name.
_TOWERS = {
  'siglip': ('vision_model.head.probe',),
  'clip': ('visual.conv1.', 'visual.proj', 'vision_model.embeddings.'),
}
_ANY_CLASSES = 2
_DINOV2 = 'embeddings.patch_embeddings.projection.weight'


class FamilyFit(NamedTuple):
  """A family and the arrays that it explains.

  Attributes:
    family: a key of `networks.REGISTRY`, or the name of a CLIP.
    fitting: leaves of the network that the file has, by name and shape.
    total: leaves of the network, and arrays that it does not have.
  """

  family: str
  fitting: int
  total: int

  @property
  def share(self) -> float:
    return self.fitting / self.total


@contextlib.contextmanager
def name_other(
  family: str,
  options: Mapping[str, Any],
  arrays: dict[str, np.ndarray],
  shape: tuple[int, int, int] | None = None,
) -> Iterator[None]:
  """Puts a line with the best family before the errors of the block.

  Args:
    family: as the user gave it.
    options: likewise.
    arrays: the weights by stored name.
    shape: (h, w, c) of the pictures; None if they were not read.

  Raises:
    UserError: that of the block, with the line.
  """
  try:
    yield
  except errors.UserError as error:
    line, replaces = _describe(family, options, arrays, shape)
    if not line:
      raise
    # The arrays that the given family lacks say nothing about a known one.
    lines = [line] if replaces else [line, *str(error).splitlines()]
    raise errors.MultipleErrors('\n'.join(lines)) from error


def _describe(
  family: str,
  options: Mapping[str, Any],
  arrays: dict[str, np.ndarray],
  shape: tuple[int, int, int] | None,
) -> tuple[str, bool]:
  """A line on the best family, '' where it is the given one.

  Returns:
    The line, and whether it is all that the user needs.
  """
  shapes = _list_shapes(arrays, shape)
  claim = _fit_family(family, arrays, shapes, options)
  # Its names and shapes are no mistake; the error is of another kind.
  if claim is not None and claim.fitting == claim.total:
    return '', False
  # A misspelt option has an error of its own, which names the right one.
  if not set(options) <= {*networks.option_names(family)}:
    return '', False
  best = find_best(arrays, shape, family)
  if best is None or best.share < _LEAST_SHARE:
    return (
      'these tensors fit none of the known families: '
      f'{", ".join(networks.REGISTRY)}; docs/any_network.md shows how to '
      'repair any other network'
    ), False
  entire = best.fitting == best.total
  if best.family == family and not (entire and options):
    return '', False
  listed = ','.join(f'{name}={value}' for name, value in options.items())
  mistake = f'{family}:{listed}' if listed else family
  extent = 'all' if entire else f'{best.fitting} of {best.total}'
  return (
    f"these tensors look like those of '{best.family}' ({extent} by name and "
    f'shape), not of {mistake}: use --model={best.family}'
  ), entire and best.family != family


def find_best(
  arrays: dict[str, np.ndarray],
  shape: tuple[int, int, int] | None = None,
  family: str = 'resnet18',
) -> FamilyFit | None:
  """Finds the family whose names and shapes explain most of some weights.

  Args:
    arrays: by stored name.
    shape: (h, w, c) of the pictures, if known.
    family: the one that wins a tie.

  Returns:
    The best family; None if no name is of any of them.
  """
  for tower, marks in _TOWERS.items():
    if any(mark in name for name in arrays for mark in marks):
      return FamilyFit(tower, len(arrays), len(arrays))
  if any(name.endswith(_DINOV2) for name in arrays):
    return FamilyFit('dinov2', len(arrays), len(arrays))
  shapes = _list_shapes(arrays, shape)
  # Names first: a family of other names needs no attempt at its sizes.
  likely = {
    name: share
    for name in dict.fromkeys((family, *networks.REGISTRY))
    if (share := _share_names(name, arrays, shapes))
  }
  fits: list[FamilyFit] = []
  for name in sorted(likely, key=lambda name: -likely[name])[:_ATTEMPTS]:
    fit = _fit_family(name, arrays, shapes, {})
    if fit is not None and fit.fitting == fit.total:
      return fit
    fits += [] if fit is None else [fit]
  return max(fits, key=lambda fit: fit.share, default=None)


def _share_names(
  family: str,
  arrays: dict[str, np.ndarray],
  shapes: list[tuple[int, int, int]],
) -> float:
  """The share of names that weights and a family of default sizes share."""
  torch_name = networks.REGISTRY[family].torch_name
  for shape in shapes:
    paths = _default_paths(family, shape)
    if not paths:
      continue
    try:
      layout = names.choose_layout(
        arrays, list(paths), torch_name, None, family
      )
    except errors.UserError:  # none of the names
      return 0.0
    needed = {*layout.names.values()}
    return len(needed & arrays.keys()) / len(needed | arrays.keys())
  return 0.0


@functools.cache
def _default_paths(family: str, shape: tuple[int, int, int]) -> tuple[str, ...]:
  """Paths of a family's leaves; () if it takes no images of this shape."""
  try:
    model = networks.make(family, _ANY_CLASSES, shape)
  except errors.UserError:
    return ()
  return tuple(names.leaves(inferred_sizes.variable_shapes(model, shape)))


def _list_shapes(
  arrays: Mapping[str, np.ndarray], shape: tuple[int, int, int] | None
) -> list[tuple[int, int, int]]:
  """Shapes of images that the weights may be for."""
  patch, _, count = inferred_sizes.read_tokens(arrays)
  if patch and count:
    side = patch * int(count**0.5)
    return [(side, side, 3), (side, side, 1)]
  if shape is not None:
    # Colours are the user's choice where a single mean is given.
    return [shape, (*shape[:2], 4 - shape[2])]
  return [(side, side, c) for side, c in _USUAL_SHAPES]


def _fit_family(
  family: str,
  arrays: dict[str, np.ndarray],
  shapes: list[tuple[int, int, int]],
  options: Mapping[str, Any],
) -> FamilyFit | None:
  """The best fit of a family over its sizes; None if it has none of the names.

  Args:
    family: a key of `networks.REGISTRY`.
    arrays: by stored name.
    shapes: of images to try.
    options: of the family; all others are inferred.
  """
  torch_name = networks.REGISTRY[family].torch_name
  best: FamilyFit | None = None
  try:
    classes = weights.count_classes(arrays, names.head_names(torch_name))
  except errors.UserError:
    # A file may lack the head, or name it as another family does.
    classes = _ANY_CLASSES
  for shape in shapes:
    try:
      for variant, _ in inferred_sizes.list_variants(
        family, options, classes, shape, arrays
      ):
        model = networks.make(family, classes, shape, **variant)
        template = inferred_sizes.variable_shapes(model, shape)
        fit = FamilyFit(
          family, *weights.count_fitting(arrays, template, torch_name)
        )
        if fit.fitting == fit.total:
          return fit
        if best is None or fit.share > best.share:
          best = fit
    except errors.UserError:
      # No images of this shape, or none of the names.
      continue
  return best
