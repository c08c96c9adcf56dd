"""Image files of any mode to uint8 pixels."""

import io
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import PIL.Image
from jaxtyping import UInt8

from cmu_jax.core import errors

SUFFIXES = ('.jpg', '.jpeg', '.png')
# What Pillow raises on files that are cut short or no images at all.
BROKEN = (
  OSError,
  SyntaxError,
  ValueError,
  EOFError,
  PIL.Image.DecompressionBombError,
)


# Reads an image file to uint8 pixels of one size, in a way of its own.
PictureReader = Callable[[pathlib.Path], UInt8[np.ndarray, 'h w c']]


class PictureHeader(NamedTuple):
  """Size and colour of an image file, known before its pixels are decoded."""

  height: int
  width: int
  grey: bool


def _decode_error(name: str, error: BaseException) -> errors.UserError:
  return errors.UserError(
    f'cannot decode the image {name} ({errors.first_line(error)}); '
    'replace or remove it'
  )


def _is_grey(mode: str) -> bool:
  """Whether a Pillow mode is of one channel, transparency aside."""
  return mode in ('1', 'L', 'LA', 'La', 'F') or mode.startswith('I')


def read_header(path: pathlib.Path) -> PictureHeader:
  """Reads size and colour only.

  Raises:
    UserError: the file is unreadable or not an image.
  """
  try:
    with PIL.Image.open(path) as picture:
      return PictureHeader(
        picture.height, picture.width, _is_grey(picture.mode)
      )
  except BROKEN as error:
    raise _decode_error(str(path), error) from error


def _to_eight_bit(picture: PIL.Image.Image, grey: bool) -> PIL.Image.Image:
  """L or RGB; transparency is dropped, 16 bits are scaled to 8."""
  if picture.mode.startswith('I'):
    deep = np.asarray(picture, np.float32)
    picture = PIL.Image.fromarray(
      np.clip(deep / 257 + 0.5, 0, 255).astype('u1')
    )
  if 'transparency' in picture.info or picture.mode == 'PA':
    picture = picture.convert('RGBA')
  return picture.convert('L' if grey else 'RGB')


def resize(
  picture: PIL.Image.Image, size: tuple[int, int] | None
) -> UInt8[np.ndarray, 'h w c']:
  """The pixels, resized bilinearly (with antialiasing) to (height, width)."""
  if size is not None and (picture.height, picture.width) != size:
    filtering = PIL.Image.Resampling.BILINEAR
    picture = picture.resize(size[::-1], filtering)
  pixels = np.asarray(picture)
  return pixels.reshape(*pixels.shape[:2], -1)


def decode(
  file: pathlib.Path | bytes,
  name: str,
  grey: bool,
  size: tuple[int, int] | None = None,
) -> UInt8[np.ndarray, 'h w c']:
  """The first frame of an image file or of its bytes.

  Args:
    file: a path, or the encoded bytes.
    name: what error messages call it.
    grey: one channel, else RGB.
    size: (height, width) to resize to, None to keep.

  Raises:
    UserError: the file is unreadable, cut short or not an image.
  """
  try:
    opened = io.BytesIO(file) if isinstance(file, bytes) else file
    with PIL.Image.open(opened) as picture:
      return resize(_to_eight_bit(picture, grey), size)
  except BROKEN as error:
    raise _decode_error(name, error) from error


def read_picture(
  file: pathlib.Path | bytes,
  use: Callable[[PIL.Image.Image], UInt8[np.ndarray, 'h w c']],
  name: str = '',
) -> UInt8[np.ndarray, 'h w c']:
  """What `use` makes of the first frame of an image file or of its bytes.

  Args:
    file: a path, or the encoded bytes.
    use: makes pixels of a picture.
    name: what error messages call it; a path speaks for itself.

  Raises:
    UserError: the file is unreadable, cut short or not an image.
  """
  try:
    opening = io.BytesIO(file) if isinstance(file, bytes) else file
    with PIL.Image.open(opening) as picture:
      return use(picture)
  except BROKEN as error:
    raise _decode_error(name or str(file), error) from error
