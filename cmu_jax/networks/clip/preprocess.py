"""Pictures as CLIP was trained on them, made on the host by Pillow.

Resizing inside JAX is not the same bit for bit: Pillow's bicubic filter
antialiases and rounds to whole pixel values.
"""

import numpy as np
import PIL.Image
from jaxtyping import Float, UInt8

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def crop_centre(
  picture: PIL.Image.Image, side: int = 224
) -> UInt8[np.ndarray, 'side side 3']:
  """The centre of a picture whose shorter side was made `side` pixels long.

  Args:
    picture: of any mode and size. Colours are made RGB after the resizing, as
      in the original; that matters for palettes and transparency alone.
    side: of the result.
  """
  short = min(picture.size)
  width, height = (int(side * length / short) for length in picture.size)
  bicubic = PIL.Image.Resampling.BICUBIC
  resized = picture.resize((width, height), bicubic)
  left, top = round((width - side) / 2), round((height - side) / 2)
  cut = resized.crop((left, top, left + side, top + side))
  return np.array(cut.convert('RGB'))


def squeeze(
  picture: PIL.Image.Image, side: int = 224
) -> UInt8[np.ndarray, 'side side 3']:
  """A whole picture made square, as SigLIP sees it.

  Args:
    picture: of any mode and size.
    side: of the result.
  """
  bicubic = PIL.Image.Resampling.BICUBIC
  return np.array(picture.convert('RGB').resize((side, side), bicubic))


def normalisation(
  kind: str,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Mean and deviation that 'clip' or 'siglip' was trained with."""
  return (MEAN, STD) if kind == 'clip' else ((0.5,) * 3, (0.5,) * 3)


def normalise(
  image: UInt8[np.ndarray, '*b h w 3'],
) -> Float[np.ndarray, '*b h w 3']:
  """Pixels as the network takes them, float32."""
  scaled = image.astype(np.float32) / np.float32(255)
  mean, std = (np.array(values, np.float32) for values in (MEAN, STD))
  shape = (1,) * (image.ndim - 1) + (3,)
  result: np.ndarray = (scaled - mean.reshape(shape)) / std.reshape(shape)
  return result
