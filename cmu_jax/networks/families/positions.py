"""Position embeddings of a grid of patches for a grid of another size."""

import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Float

# PyTorch's bicubic kernel has -0.75; with antialiasing, as Pillow's, -0.5.
_SHARP, _SMOOTH = -0.75, -0.5


def _cubic(x: Float[np.ndarray, '*b'], a: float) -> Float[np.ndarray, '*b']:
  """Keys' kernel of support 2 (IEEE ASSP 29(6), 1981, equation 4)."""
  x = np.abs(x)
  near = ((a + 2) * x - (a + 3)) * x * x + 1
  far = (((x - 5) * x + 8) * x - 4) * a
  return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def rows(old: int, new: int, antialias: bool) -> Float[np.ndarray, 'm n']:
  """What each of `new` points along an axis takes from each of `old` ones.

  As torch.nn.functional.interpolate(mode='bicubic', align_corners=False). With
  antialiasing the kernel is as wide as the old points are dense, and what lies
  outside is left out; without, it is that of the nearest point.

  Args:
    old: points there are.
    new: points that are wanted.
    antialias: whether the kernel grows where points become fewer.
  """
  centre = (np.arange(new) + 0.5) * old / new - 0.5
  if antialias:
    wide = max(old / new, 1.0)
    weight = _cubic((np.arange(old)[None] - centre[:, None]) / wide, _SMOOTH)
    return weight / weight.sum(1, keepdims=True)
  first = np.floor(centre).astype(int)
  found = np.zeros((new, old))
  for step in (-1, 0, 1, 2):
    place = np.clip(first + step, 0, old - 1)
    weight = _cubic(first + step - centre, _SHARP)
    np.add.at(found, (np.arange(new), place), weight)
  return found


def interpolated(
  table: Float[Array, 't d'], grid: tuple[int, int], antialias: bool
) -> Float[Array, 'u d']:
  """The embeddings of a square grid for another grid, row by row.

  Args:
    table: of a square grid of patches.
    grid: rows and columns that are wanted.
    antialias: see `rows`.
  """
  side = round(table.shape[0] ** 0.5)
  if grid == (side, side):
    return table
  down, across = (
    jnp.asarray(rows(side, new, antialias), table.dtype) for new in grid
  )
  square = table.reshape(side, side, -1)
  found = jnp.einsum('hi,wj,ijd->hwd', down, across, square)
  return found.reshape(grid[0] * grid[1], -1)
