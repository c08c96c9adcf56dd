"""Planted patches: a trigger found without a single identified picture.

A patch that somebody planted lies at the same pixels in many pictures of its
target class, and in few of other classes. White skies and black borders do so
too. So the patch is pasted into pictures of other classes: a trigger that the
network learnt moves them into the target class, and a sky does not.

This finds patches at a fixed place. Triggers that are blended over the whole
picture, that move, or that warp it share no pixels: they are not found.

References:
  Gu, Dolan-Gavitt and Garg, BadNets, arXiv 1708.06733: the attack.
  Chou, Tramer and Pellegrino, SentiNet, arXiv 1812.00292: regions pasted into
  other pictures; there salient ones, here those that a class shares.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from cmu_jax.core import progress
from cmu_jax.methods.detection import confident_learning, suspects
from cmu_jax.methods.detection.suspects import Suspects

# (uint8 pictures [m, h, w, c]) -> probabilities [m, k].
Predict = Callable[[np.ndarray], np.ndarray]

# Pixel values that count as equal, so that a resaved patch is still shared.
_LEVELS = 16
# The least number of pictures, and their excess over the other classes.
_LEAST_SHARED, _LEAST_EXCESS = 5, 3.0
# Patches tried for each class, pictures that each is pasted into, and the share
# of them that a trigger moves. A sky moves about 1 in 50, the hole of a zero
# half of the other digits; triggers that a network learnt move over .7.
_TRIES, _PASTED, _LEAST_MOVED = 3, 64, 0.6
# A shared region beyond this share of the picture is a background.
_LARGEST = 0.1
# Mean deviations from the patch, and from its surroundings, in pixel values.
_NEAR, _CONTRAST = 12.0, 16.0


class Patch(NamedTuple):
  """Pixels that many pictures of a class share.

  Attributes:
    target: the class.
    mask: the pixels.
    value: their colours; 0 elsewhere.
    excess: share of the pictures with it that chance does not explain.
    moved: share of pictures of other classes that it moves into the class.
  """

  target: int
  mask: Bool[np.ndarray, 'h w']
  value: Float[np.ndarray, 'h w c']
  excess: float
  moved: float = 0.0


class _Candidate(NamedTuple):
  """A window that pictures of a class share: its place, and which pictures."""

  surplus: float
  expected: float
  target: int
  top: int
  column: int
  row: Int[np.ndarray, 'm']


def window_side(height: int, width: int) -> int:
  """Side of the compared windows: the smallest patch that is found."""
  side = min(height, width)
  return 2 if side < 16 else max(3, side // 16)


def _candidates_at(
  code: Int[np.ndarray, 'n'],
  label: Int[np.ndarray, 'n'],
  size: Int[np.ndarray, 'k'],
  place: tuple[int, int],
) -> Iterator[_Candidate]:
  """Windows at a place that a class shares more often than the others."""
  _, inverse, counts = np.unique(code, return_inverse=True, return_counts=True)
  common = np.flatnonzero(counts >= _LEAST_SHARED)
  if not common.size:
    return
  classes = len(size)
  table = np.bincount(
    inverse * classes + label, minlength=len(counts) * classes
  ).reshape(-1, classes)[common]
  others = len(label) - size
  # Add one: a window that no other class has is not impossible there.
  rate = (table.sum(axis=1, keepdims=True) - table + 1) / (others + 1)
  expected = rate * size
  bound = np.maximum(_LEAST_SHARED, _LEAST_EXCESS * expected)
  for window, target in np.argwhere(table >= bound):
    row = np.flatnonzero((inverse == common[window]) & (label == target))
    chance = float(expected[window, target])
    yield _Candidate(len(row) - chance, chance, int(target), *place, row)


def list_candidates(
  image: UInt8[np.ndarray, 'n h w c'], label: Int[np.ndarray, 'n'], classes: int
) -> list[_Candidate]:
  """Lists the windows that each class shares, a few for each class."""
  height, width = image.shape[1:3]
  side = window_side(height, width)
  step = max(1, side // 3)
  size = np.bincount(label, minlength=classes)
  coarse = (image // _LEVELS).astype(np.int64)
  # A fixed random code of each window: equal windows have equal codes.
  weight = np.random.default_rng(0).integers(
    1, 2**40, (side, side, image.shape[3])
  )
  best: dict[int, list[_Candidate]] = {}
  tops = range(0, height - side + 1, step)
  with progress.bar('shared patches', len(tops), 'rows') as advance:
    for top in tops:
      for column in range(0, width - side + 1, step):
        window = coarse[:, top : top + side, column : column + side]
        code = np.einsum('nhwc,hwc->n', window, weight)
        for candidate in _candidates_at(code, label, size, (top, column)):
          _keep(best.setdefault(candidate.target, []), candidate, side)
      advance()
  return [candidate for group in best.values() for candidate in group]


def _keep(group: list[_Candidate], new: _Candidate, side: int) -> None:
  """Keeps the candidates of the largest surplus that do not overlap."""
  for index, old in enumerate(group):
    if abs(old.top - new.top) < side and abs(old.column - new.column) < side:
      if new.surplus > old.surplus:
        group[index] = new
      return
  group.append(new)
  group.sort(key=lambda candidate: -candidate.surplus)
  del group[_TRIES:]


def _grow(
  image: UInt8[np.ndarray, 'n h w c'], candidate: _Candidate, side: int
) -> Patch:
  """Extends a window to all pixels that its pictures share."""
  pictures = image[candidate.row].astype(np.float32)
  centre = np.median(pictures, axis=0)
  spread = np.abs(pictures - centre).mean(axis=(0, 3))
  mask = spread < _LEVELS / 2
  window = np.zeros_like(mask)
  top, column = candidate.top, candidate.column
  window[top : top + side, column : column + side] = True
  if mask.mean() > _LARGEST:
    mask = window
  mask |= window
  total = len(candidate.row)
  return Patch(
    candidate.target,
    mask,
    np.where(mask[..., None], centre, 0),
    1 - candidate.expected / total,
  )


def paste(
  image: UInt8[np.ndarray, 'n h w c'], patch: Patch
) -> UInt8[np.ndarray, 'n h w c']:
  """Paints a patch into pictures."""
  value = np.rint(patch.value).astype(np.uint8)
  return np.where(patch.mask[..., None], value, image)


def _frame(mask: Bool[np.ndarray, 'h w']) -> Bool[np.ndarray, 'h w']:
  """The pixels that touch a patch."""
  padded = np.pad(mask, 1)
  shifts = [np.roll(padded, s, a) for s in (1, -1) for a in (0, 1)]
  return np.any(shifts, axis=0)[1:-1, 1:-1] & ~mask


def remove(
  image: UInt8[np.ndarray, 'n h w c'], patch: Patch
) -> UInt8[np.ndarray, 'n h w c']:
  """Fills a patch with the mean colour of the pixels around it."""
  around = image[:, _frame(patch.mask)].mean(axis=1)
  colour = np.rint(around).astype(np.uint8)[:, None, None]
  return np.where(patch.mask[..., None], colour, image)


def _mark(
  image: UInt8[np.ndarray, 'n h w c'], patch: Patch
) -> Bool[np.ndarray, 'n']:
  """Marks pictures that have a patch, and not by a sky that is like it."""
  inside = image[:, patch.mask].astype(np.float32)
  distance = np.abs(inside - patch.value[patch.mask]).mean(axis=(1, 2))
  around = image[:, _frame(patch.mask)].mean(axis=1)
  contrast = np.abs(inside.mean(axis=1) - around).max(axis=1)
  # A patch of several colours is nobody's sky.
  varied = patch.value[patch.mask].std(axis=0).max() > _CONTRAST
  return (distance < _NEAR) & (varied | (contrast > _CONTRAST))


def find_patches(
  image: UInt8[np.ndarray, 'n h w c'],
  label: Int[np.ndarray, 'n'],
  classes: int,
  predict: Predict,
) -> tuple[Patch, ...]:
  """Finds patches of fixed place that lead to the class which shares them.

  Args:
    image: raw pixels.
    label: as given.
    classes: number of classes.
    predict: pictures -> probabilities of the network.

  Returns:
    The patches that move at least .6 of the pictures of other classes, the
    strongest first.
  """
  side = window_side(*image.shape[1:3])
  patches = []
  for candidate in list_candidates(image, label, classes):
    patch = _grow(image, candidate, side)
    others = np.flatnonzero(label != patch.target)
    sample = image[others[:: -(-len(others) // _PASTED)]]
    # Pictures that are in the class already cannot be moved into it.
    sample = sample[predict(sample).argmax(axis=1) != patch.target]
    if not len(sample):
      continue
    moved = predict(paste(sample, patch)).argmax(axis=1) == patch.target
    patches.append(patch._replace(moved=float(moved.mean())))
  strong = [patch for patch in patches if patch.moved >= _LEAST_MOVED]
  return tuple(sorted(strong, key=lambda patch: -patch.moved))


def find_triggers(
  image: UInt8[np.ndarray, 'n h w c'],
  label: Int[np.ndarray, 'n'],
  patches: tuple[Patch, ...],
  predict: Predict,
) -> Suspects:
  """Finds the pictures that carry patches, and the class without them.

  Args:
    image: raw pixels.
    label: as given.
    patches: see `find_patches`.
    predict: pictures -> probabilities of the network.
  """
  row, certainty, suggested = np.zeros(0, int), [], []
  for patch in patches:
    marked, member = _mark(image, patch), label == patch.target
    carriers = np.setdiff1d(np.flatnonzero(marked & member), row)
    if not len(carriers):
      continue
    # Pictures of other classes show how often chance makes such a patch.
    chance = marked[~member].mean() * member.sum() / len(carriers)
    answer = predict(remove(image[carriers], patch))
    # The given label is the trigger's, and never the picture's own.
    answer[:, patch.target] = -1
    row = np.concatenate([row, carriers])
    certainty += [max(0.0, 1 - chance)] * len(carriers)
    suggested += answer.argmax(axis=1).tolist()
  order = np.argsort(-np.array(certainty, float), kind='stable')
  sure = np.array(certainty, float)[order]
  return suspects.make_suspects(
    row[order],
    sure,
    np.array(suggested, int)[order],
    precision=confident_learning.expect_precision(sure),
  )
