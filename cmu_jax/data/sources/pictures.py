"""Image files of any mode to uint8 pixels."""

import io
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
from jaxtyping import UInt8

from cmu_jax.core import errors

# Errors of Pillow on files that are truncated or no images at all.
BROKEN = (
  OSError,
  SyntaxError,
  ValueError,
  EOFError,
  PIL.Image.DecompressionBombError,
)


# Reads an image file to uint8 pixels of a fixed size.
PictureReader = Callable[[pathlib.Path], UInt8[np.ndarray, 'h w c']]


class PictureHeader(NamedTuple):
  """Size and colour of an image file, known before its pixels are decoded."""

  height: int
  width: int
  grey: bool


def _is_grey(mode: str) -> bool:
  """Tests whether a Pillow mode has a single channel besides transparency."""
  return mode in ('1', 'L', 'LA', 'La', 'F') or mode.startswith('I')


def read_picture(
  file: pathlib.Path | bytes,
  use: Callable[[PIL.Image.Image], Any],
  name: str = '',
) -> Any:
  """Applies `use` to the first frame of an image file or of its bytes.

  Args:
    file: a path, or the encoded bytes.
    use: reads a picture, for example as pixels.
    name: name in error messages; '' for the path.

  Raises:
    UserError: the file is unreadable, truncated or not an image.
  """
  try:
    stream = io.BytesIO(file) if isinstance(file, bytes) else file
    # Pillow decodes late: `use` may raise these errors too.
    with PIL.Image.open(stream) as picture:
      return use(picture)
  except BROKEN as error:
    title = name if isinstance(file, bytes) else name or str(file)
    raise errors.UserError(
      f'cannot decode the image {title} ({errors.first_line(error)}); '
      'replace or remove it'
    ) from error


def read_header(path: pathlib.Path) -> PictureHeader:
  """Reads size and colour only.

  Raises:
    UserError: the file is unreadable or not an image.
  """
  return read_picture(
    path, lambda p: PictureHeader(p.height, p.width, _is_grey(p.mode))
  )


def has_frames(path: pathlib.Path) -> bool:
  """Returns whether an image file has more than one frame or page.

  Raises:
    UserError: the file is unreadable or not an image.
  """
  return read_picture(path, lambda p: getattr(p, 'is_animated', False))


def _to_eight_bit(picture: PIL.Image.Image, grey: bool) -> PIL.Image.Image:
  """Converts to L or RGB; drops transparency, scales 16 bits to 8.

  Raises:
    ValueError: floats, or integers of more than 16 bits: their white is
      unknown.
  """
  if picture.mode == 'F':
    raise ValueError('its pixels are floats; 8 or 16 bits are needed')
  if picture.mode.startswith('I'):
    # Pillow would clip 16-bit values at 255 instead of scaling them.
    deep = np.asarray(picture, np.float32)
    if deep.max(initial=0) > 65535 or deep.min(initial=0) < 0:
      raise ValueError('its pixels exceed 16 bits; 8 or 16 bits are needed')
    picture = PIL.Image.fromarray(
      np.clip(deep / 257 + 0.5, 0, 255).astype('u1')
    )
  if 'transparency' in picture.info or picture.mode == 'PA':
    picture = picture.convert('RGBA')
  return picture.convert('L' if grey else 'RGB')


def resize(
  picture: PIL.Image.Image, size: tuple[int, int] | None
) -> UInt8[np.ndarray, 'h w c']:
  """Resizes bilinearly (with antialiasing) to (height, width), as pixels."""
  if size is not None and (picture.height, picture.width) != size:
    filtering = PIL.Image.Resampling.BILINEAR
    picture = picture.resize(size[::-1], filtering)
  pixels = np.asarray(picture)
  return pixels.reshape(*pixels.shape[:2], -1)


def to_pixels(
  picture: PIL.Image.Image, grey: bool, size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, 'h w c']:
  """Converts to grey or RGB pixels, resized to (height, width) if given."""
  return resize(_to_eight_bit(picture, grey), size)


def decode(
  file: pathlib.Path | bytes,
  name: str,
  grey: bool,
  size: tuple[int, int] | None = None,
) -> UInt8[np.ndarray, 'h w c']:
  """Decodes the first frame of an image file or of its bytes.

  Args:
    file: a path, or the encoded bytes.
    name: name in error messages.
    grey: one channel, else RGB.
    size: (height, width) to resize to, None to keep.

  Raises:
    UserError: the file is unreadable, truncated or not an image.
  """
  return read_picture(
    file, lambda picture: to_pixels(picture, grey, size), name
  )
