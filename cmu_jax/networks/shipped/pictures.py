"""Pictures with classes, from a folder or from an archive of arrays."""

import pathlib

import numpy as np

from cmu_jax.core import errors
from cmu_jax.data.sources import folder, npz, pictures


def read(
  root: str,
  image_size: int | None,
  channels: int | None,
  reader: pictures.Reader | None = None,
) -> folder.Pictures:
  """Pictures of one size and colour.

  Args:
    root: a folder, see `folder.pictures_in`; or FILE.npz with `images`, uint8
      [n, h, w] or [n, h, w, c], and `labels`, integers [n].
    image_size: side to resize to, folders only; None for the one of all.
    channels: 1 or 3; None for what the images are.
    reader: of single picture files; None for the whole picture.

  Raises:
    UserError: nothing there, or something that does not fit.
  """
  path = pathlib.Path(root).expanduser()
  if path.suffix != '.npz':
    return folder.pictures_in(path, image_size, channels, reader)
  errors.check(
    reader is None, f'{root}: this network reads picture files; give a folder'
  )
  image, label = npz.pictures(path)
  errors.check(
    image_size in (None, image.shape[1]),
    f'{root} holds pictures of {image.shape[1:3]} pixels, {image_size} are '
    'asked for; store them in that size',
  )
  if channels == 3 and image.shape[3] == 1:
    image = np.repeat(image, 3, axis=3)
  errors.check(
    channels in (None, image.shape[3]),
    f'{root} holds pictures of {image.shape[3]} channels, the network takes '
    f'{channels}',
  )
  present, group = np.unique(label, return_inverse=True)
  return folder.Pictures(image, group, tuple(map(str, present)))
