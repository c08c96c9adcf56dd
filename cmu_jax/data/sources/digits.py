"""scikit-learn's embedded 8x8 digits: 1,797 images, no download."""

import numpy as np
import sklearn.datasets

from cmu_jax.core import errors
from cmu_jax.data.sources import common
from cmu_jax.data.sources.common import Source, SourceOptions, SplitArrays


def _build() -> SplitArrays:
  pixels, label = sklearn.datasets.load_digits(return_X_y=True)
  image = np.round(pixels * 255 / 16).astype(np.uint8).reshape(-1, 8, 8, 1)
  names = tuple(str(digit) for digit in range(10))
  return common.split_off(image, label, names)


def find(rest: str, options: SourceOptions) -> Source:
  """The digits, 0..16 rescaled to 0..255; every fifth of a class is for test.

  Raises:
    UserError: something follows the name, or image_size is set.
  """
  errors.check(not rest, f"'digits:{rest}' is not a source; write 'digits'")
  errors.check(
    options.image_size in (None, 8),
    f'image_size {options.image_size} does not apply to digits (8x8); '
    'resize in the input step',
  )
  return Source(None, _build)
