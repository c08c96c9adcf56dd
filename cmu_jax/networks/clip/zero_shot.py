"""CLIP as a classifier: preprocessing, image tower, a head made of words."""

from typing import Any

import jax
import numpy as np
import PIL.Image
from flax import linen as nn
from jax import numpy as jnp
from jaxtyping import Array, Float, UInt8

from cmu_jax.core.types import Model, Variables
from cmu_jax.networks import classifier
from cmu_jax.networks.clip import towers
from cmu_jax.networks.clip.architecture import Sizes

# The parts of a CLIP that its classifier keeps.
IMAGE_PARTS = ('vision_model', 'visual_projection')
# Resizing inside JAX is not the same bit for bit: Pillow's bicubic filter
# antialiases and rounds to whole pixel values.
_BICUBIC = PIL.Image.Resampling.BICUBIC
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def crop_centre(
  picture: PIL.Image.Image, side: int = 224
) -> UInt8[np.ndarray, 'side side 3']:
  """Resizes the shorter side of a picture and crops the centre.

  Args:
    picture: of any mode and size.
    side: of the result, in pixels.
  """
  short = min(picture.size)
  width, height = (int(side * length / short) for length in picture.size)
  resized = picture.resize((width, height), _BICUBIC)
  column, row = round((width - side) / 2), round((height - side) / 2)
  cut = resized.crop((column, row, column + side, row + side))
  # As in the original, colours become RGB after the resizing. The order
  # matters for palettes and transparency alone.
  return np.array(cut.convert('RGB'))


def squeeze(
  picture: PIL.Image.Image, side: int = 224
) -> UInt8[np.ndarray, 'side side 3']:
  """Resizes a picture to a square without cropping, as SigLIP sees it.

  Args:
    picture: of any mode and size.
    side: of the result.
  """
  return np.array(picture.convert('RGB').resize((side, side), _BICUBIC))


def normalisation(
  kind: str,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Mean and deviation that 'clip' or 'siglip' was trained with."""
  return (MEAN, STD) if kind == 'clip' else ((0.5,) * 3, (0.5,) * 3)


class TextHead(nn.Module):
  """Scaled cosines of embeddings and class columns.

  Attributes:
    classes: k.
  """

  classes: int

  # The head is no parameter: it lies among the statistics, which no method
  # trains, edits or subtracts. So it stays frozen in every method, as in CUTS
  # (arXiv 2511.18660), which excludes it from every task vector.
  @nn.compact
  def __call__(self, x: Float[Array, 'n e']) -> Float[Array, 'n k']:
    shape = (x.shape[-1], self.classes)
    kernel = self.variable(
      'batch_stats', 'kernel', jnp.zeros, shape, jnp.float32
    )
    return towers.normalise_rows(x) @ kernel.value


class ZeroShot(nn.Module):
  """Parameters of IMAGE_PARTS (SigLIP has no projection); statistics {'head'}.

  Penultimate features are embeddings, not of unit length.

  Attributes:
    sizes: of the CLIP.
    classes: k.
    dtype: of the products.
  """

  sizes: Sizes
  classes: int
  dtype: Any

  def setup(self) -> None:
    self.vision_model = towers.VisionModel(self.sizes, self.dtype)
    if self.sizes.kind == 'clip':
      self.visual_projection = towers.projection(
        self.sizes.embed, self.sizes.vision.width
      )
    self.head = TextHead(self.classes)

  def __call__(
    self, image: Float[Array, 'n h w c'], train: bool = False
  ) -> Float[Array, 'n k']:
    return self.head(self.features(image, train))

  def features(
    self, image: Float[Array, 'n h w c'], train: bool = False
  ) -> Float[Array, 'n e']:
    """Embeddings of pictures, float32."""
    del train
    return self.trunk(self.stem(image))

  def stem(self, image: Float[Array, 'n h w c']) -> Float[Array, 'n t d']:
    """The projected patches, linear in the parameters."""
    # Data sets of small images, such as CIFAR's, are enlarged to the tower's
    # size. Pictures of `crop_centre` and `squeeze` have it already.
    side = self.sizes.image_size
    if image.shape[1:3] != (side, side):
      shape = (len(image), side, side, image.shape[3])
      image = jax.image.resize(image, shape, 'cubic')
    return self.vision_model.stem(image)

  def trunk(self, x: Float[Array, 'n t d']) -> Float[Array, 'n e']:
    """Computes the embeddings from the patches."""
    x = self.vision_model.trunk(x)
    return self.visual_projection(x) if self.sizes.kind == 'clip' else x

  def logits(self, x: Float[Array, 'n e']) -> Float[Array, 'n k']:
    """Applies the head alone."""
    return self.head(x)


def model(sizes: Sizes, classes: int, dtype: str = 'float32') -> Model:
  """The classifier of a CLIP, bound to pure functions.

  Args:
    sizes: of the CLIP.
    classes: k.
    dtype: 'float32' or 'bfloat16', the type of the products.
  """
  return classifier.bind(ZeroShot(sizes, classes, jnp.dtype(dtype)))


def variables(
  clip_variables: Variables, kernel: Float[Array, 'e k']
) -> Variables:
  """The image tower of a CLIP's variables, with a head.

  Args:
    clip_variables: all variables of the CLIP.
    kernel: scaled unit columns, see `clip.heads.make`.
  """
  params = {
    name: clip_variables.params[name]
    for name in IMAGE_PARTS
    if name in clip_variables.params
  }
  return Variables(params, {'head': {'kernel': kernel}})
