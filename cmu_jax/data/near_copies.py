"""Pictures that are the same but for another file format or size.

They are searched in two sets, or within one.

A picture that was resaved as JPEG or resized has other pixels, so no digest
finds it. Here all pictures are shrunk to 16x16 grey pixels. A copy is near its
original, and nearer by far than to the other pictures of both sets: so digits
of the same class, which are all alike, are no copies.
"""

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from cmu_jax.data.sources import common

# Side of the shrunken pictures, and of those that are compared first.
_SIDE, _COARSE = 16, 8
# Pixels that are shrunk, and pairs that are compared, at a time.
_PIXELS, _PAIRS = 2**24, 2**24
# Largest distance of a copy, of pictures of mean 0 and norm 1, among many and
# among few pictures; few show less well which distances are usual. Of 6,000
# digits of MNIST in sets of 30 to 1,000, one is as near to another.
_NEAR, _FEW_NEAR, _MANY = 0.33, 0.15, 2000
# Its largest share of the distance to the neighbour of this rank, the picture
# itself and its copy included.
_SHARE, _RANK = 0.33, 6
# Pictures of the own set among those neighbours.
_OWN = 1024
# The distance that is enough where there are fewer neighbours.
_SURELY_NEAR = 0.1


def _averages(size: int, side: int) -> Float[np.ndarray, 's n']:
  """Weights by which `size` pixels become `side` means of equal width."""
  edges = np.linspace(0, size, side + 1)
  left, right = edges[:-1, None], edges[1:, None]
  pixel = np.arange(size)
  shared = np.minimum(right, pixel + 1) - np.maximum(left, pixel)
  weights = np.maximum(shared, 0) * (side / size)
  return weights.astype(np.float32)


def _shrink(
  image: UInt8[np.ndarray, 'n h w c'],
) -> Float[np.ndarray, 'n s t']:
  """Grey means of equal areas, at most 16x16."""
  height, width = image.shape[1:3]
  rows, columns = (_averages(x, min(x, _SIDE)) for x in (height, width))
  step = max(1, _PIXELS // max(1, image[0].size))
  parts = []
  for start in range(0, len(image), step):
    grey = image[start : start + step].mean(-1, dtype=np.float32)
    parts.append(rows @ grey @ columns.T)
  return np.concatenate(parts)


def _normalise(small: Float[np.ndarray, 'n s t']) -> Float[np.ndarray, 'n d']:
  """Vectors of mean 0 and norm 1; plain pictures become 0."""
  vector = small.reshape(len(small), -1)
  vector = vector - vector.mean(1, keepdims=True)
  norm = np.linalg.norm(vector, axis=1, keepdims=True)
  # Rounding leaves some contrast in a picture of one colour.
  return np.where(norm > 1, vector, 0) / np.maximum(norm, 1)


def _distance(product: Float[np.ndarray, '*n']) -> Float[np.ndarray, '*n']:
  """Distance of vectors of norm 1."""
  return np.sqrt(np.maximum(2 - 2 * product, 0))


def _blocks(count: int, others: int) -> list[slice]:
  step = max(1, _PAIRS // max(1, others))
  return [slice(start, start + step) for start in range(0, count, step)]


def _nearest(
  vectors: Float[np.ndarray, 'n d'], others: Float[np.ndarray, 'm d']
) -> Int[np.ndarray, 'n']:
  """Position of the nearest other vector of each."""
  parts = [
    (vectors[block] @ others.T).argmax(1)
    for block in _blocks(len(vectors), len(others))
  ]
  return np.concatenate(parts)


def _rank_distance(
  vectors: Float[np.ndarray, 'n d'], others: Float[np.ndarray, 'm d']
) -> Float[np.ndarray, 'n']:
  """Distance of each to its neighbour of the rank _RANK."""
  parts = []
  for block in _blocks(len(vectors), len(others)):
    product = vectors[block] @ others.T
    rows = np.arange(len(product))
    # Repeated maxima take a tenth of the time of a partition.
    for _ in range(_RANK - 1):
      product[rows, product.argmax(1)] = -2
    parts.append(_distance(product.max(1)))
  return np.concatenate(parts)


def find_near_copies(
  image: UInt8[np.ndarray, 'n h w c'], others: UInt8[np.ndarray, 'm h w c']
) -> Int[np.ndarray, 'p 2']:
  """Finds pictures of which another set has a copy with other pixels.

  Args:
    image: raw pixels.
    others: of the other set.

  Returns:
    Positions in `image` and in `others`, a pair for each picture that has a
    near copy. Pictures that are equal pixel for pixel are no such pairs.
  """
  none = np.zeros((0, 2), int)
  if not len(image) or not len(others):
    return none
  small = [_shrink(np.asarray(x)) for x in (image, others)]
  fine = [_normalise(x) for x in small]
  coarse = [_normalise(_halve(x)) for x in small]
  match = _nearest(*coarse)
  near = _distance((fine[0] * fine[1][match]).sum(1))
  rows = _candidates(near, len(image) + len(others))
  rows = rows[~_are_equal(image[rows], others[match[rows]])]
  if not len(rows):
    return none
  sample = fine[0][:: -(-len(image) // _OWN)]
  neighbours = np.concatenate([fine[1], sample])
  rows = rows[near[rows] <= _limits(fine[0][rows], neighbours)]
  return np.stack([rows, match[rows]], axis=1)


def find_copies_within(
  image: UInt8[np.ndarray, 'n h w c'],
) -> tuple[Int[np.ndarray, 'p 2'], Float[np.ndarray, 'p']]:
  """Finds pictures of a set that are copies of others, equal ones included.

  Args:
    image: raw pixels.

  Returns:
    Positions of a later and an earlier picture, a pair for each later picture,
    and their distances: 0 for pictures that are equal pixel for pixel.
  """
  if len(image) < 2:
    return np.zeros((0, 2), int), np.zeros(0)
  small = _shrink(np.asarray(image))
  fine, coarse = _normalise(small), _normalise(_halve(small))
  match = _nearest_other(coarse)
  near = _distance((fine * fine[match]).sum(1))
  rows = _candidates(near, len(image))
  rows = rows[near[rows] <= _limits(fine[rows], fine)] if len(rows) else rows
  pairs = np.stack([rows, match[rows]], axis=1)
  pairs = np.stack([pairs.max(axis=1), pairs.min(axis=1)], axis=1)
  away = near[rows] * ~_are_equal(image[pairs[:, 0]], image[pairs[:, 1]])
  # Pictures of one colour have no contrast, and many copies have many equals.
  equal = _equal_pairs(image)
  pairs = np.concatenate([equal, pairs])
  away = np.concatenate([np.zeros(len(equal)), away])
  index = np.unique(pairs[:, 0], return_index=True)[1]
  return pairs[index], away[index]


def _equal_pairs(
  image: UInt8[np.ndarray, 'n h w c'],
) -> Int[np.ndarray, 'p 2']:
  """Pairs each picture with the earliest one that is equal to it."""
  digests = common.picture_digests(image)
  earliest = {digest: i for i, digest in reversed(list(enumerate(digests)))}
  pairs = [(i, earliest[x]) for i, x in enumerate(digests) if earliest[x] < i]
  return np.array(pairs, int).reshape(-1, 2)


def _nearest_other(
  vectors: Float[np.ndarray, 'n d'],
) -> Int[np.ndarray, 'n']:
  """Position of the nearest vector besides each itself."""
  parts = []
  for block in _blocks(len(vectors), len(vectors)):
    product = vectors[block] @ vectors.T
    rows = np.arange(len(product))
    product[rows, block.start + rows] = -2
    parts.append(product.argmax(1))
  return np.concatenate(parts)


def _candidates(
  near: Float[np.ndarray, 'n'], total: int
) -> Int[np.ndarray, 'm']:
  """Pictures whose nearest is near enough for a copy, among so many."""
  return np.flatnonzero(near <= (_NEAR if total >= _MANY else _FEW_NEAR))


def _are_equal(
  image: UInt8[np.ndarray, 'n h w c'], others: UInt8[np.ndarray, 'n h w c']
) -> Bool[np.ndarray, 'n']:
  return (image == others).all(axis=(1, 2, 3))


def _limits(
  vectors: Float[np.ndarray, 'n d'], neighbours: Float[np.ndarray, 'm d']
) -> Float[np.ndarray, 'n']:
  """Largest distance of a copy of each vector, by its other neighbours."""
  if len(neighbours) <= _RANK:
    return np.full(len(vectors), _SURELY_NEAR)
  return _SHARE * _rank_distance(vectors, neighbours)


def _halve(small: Float[np.ndarray, 'n s t']) -> Float[np.ndarray, 'n u v']:
  """Means of two by two pixels, of pictures of 16x16."""
  if small.shape[1:] != (_SIDE, _SIDE):
    return small
  shape = (-1, _COARSE, _SIDE // _COARSE, _COARSE, _SIDE // _COARSE)
  return small.reshape(shape).mean((2, 4))
