"""CLIP's image tower with a head made of words, as a classifier.

The head is no parameter: it lies among the statistics, which no method trains,
edits or subtracts. So it stays frozen whatever a method does, as in CUTS (arXiv
2511.18660), which excludes it from every task vector.
"""

from typing import Any

import jax
from flax import linen as nn
from jax import numpy as jnp
from jaxtyping import Array, Float

from cmu_jax.core.types import Model, Variables
from cmu_jax.networks import classifier
from cmu_jax.networks.clip import towers
from cmu_jax.networks.clip.architecture import Sizes

# What of a CLIP the classifier keeps.
IMAGE_PARTS = ('vision_model', 'visual_projection')
_VISION_MODELS: dict[str, Any] = {
  'clip': towers.VisionModel,
  'siglip': towers.SiglipVisionModel,
}


class TextHead(nn.Module):
  """Scaled cosines of embeddings and of classes, as columns.

  Attributes:
    classes: k.
  """

  classes: int

  @nn.compact
  def __call__(self, x: Float[Array, 'n e']) -> Float[Array, 'n k']:
    shape = (x.shape[-1], self.classes)
    kernel = self.variable('batch_stats', 'kernel', jnp.zeros, shape)
    return towers.normalise_rows(x) @ kernel.value


class ZeroShot(nn.Module):
  """Parameters of TOWER (SigLIP has no projection); statistics {'head'}.

  Pictures of another size are resized to the tower's by bicubic interpolation;
  penultimate features are embeddings, not of unit length.

  Attributes:
    sizes: of the CLIP.
    classes: k.
    dtype: what the products are computed in.
  """

  sizes: Sizes
  classes: int
  dtype: Any

  def setup(self) -> None:
    tower = _VISION_MODELS[self.sizes.kind]
    self.vision_model = tower(self.sizes, self.dtype)
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
    side = self.sizes.image_size
    if image.shape[1:3] != (side, side):
      shape = (len(image), side, side, image.shape[3])
      image = jax.image.resize(image, shape, 'cubic')
    return self.vision_model.stem(image)

  def trunk(self, x: Float[Array, 'n t d']) -> Float[Array, 'n e']:
    """From patches to embeddings."""
    found = self.vision_model.trunk(x)
    return self.visual_projection(found) if self.sizes.kind == 'clip' else found

  def logits(self, x: Float[Array, 'n e']) -> Float[Array, 'n k']:
    """The head alone."""
    return self.head(x)


def model(sizes: Sizes, classes: int, dtype: str = 'float32') -> Model:
  """The classifier of a CLIP of some sizes, bound to pure functions.

  Args:
    sizes: of the CLIP.
    classes: k.
    dtype: 'float32' or 'bfloat16', what the products are computed in.
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
  kept = {
    name: clip_variables.params[name]
    for name in IMAGE_PARTS
    if name in clip_variables.params
  }
  return Variables(kept, {'head': {'kernel': kernel}})
