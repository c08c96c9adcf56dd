"""Backbones without a head: features of others, a head of one's own."""

import os
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cmu_jax import networks
from cmu_jax.core import errors
from cmu_jax.core.types import Model, Variables
from cmu_jax.networks import clip, weights
from cmu_jax.networks.weights import heads
from cmu_jax.networks.weights.names import Layout


class Body(NamedTuple):
  """A network whose body was loaded.

  Attributes:
    model: body and head.
    variables: the head's are zero: every class is as likely.
    stored: the file.
    layout: where in the file each leaf of the body is.
  """

  model: Model
  variables: Variables
  stored: weights.Stored
  layout: Layout


def body(
  path: os.PathLike | str,
  name: str,
  num_classes: int,
  image_shape: tuple[int, int, int],
  **options: Any,
) -> Body:
  """Loads all of a network but its head, which the file may lack.

  Args:
    path: of the weights; a config.json beside them says the options of families
      that have one (dinov2).
    name: of a family, see `networks.REGISTRY`.
    num_classes: k of the new head.
    image_shape: (h, w, c).
    **options: of the family; they go before config.json.

  Raises:
    UserError: an unknown family, or weights that do not fit, a mistake a line.
  """
  if name not in networks.REGISTRY:
    raise errors.unknown('model', name, networks.REGISTRY)
  family, beside = networks.REGISTRY[name], clip.beside(path)
  if family.options is not None and beside is not None:
    options = {**family.options(beside), **options}
  model = networks.make(name, num_classes, image_shape, **options)
  image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), image)
  stored = weights.read(path)
  known = heads.known(family.torch_name)
  kept = {n: x for n, x in stored.arrays.items() if not heads.of_head(n, known)}
  params = {k: v for k, v in shapes.params.items() if k != 'head'}
  found, layout = weights.fit(
    kept,
    Variables(params, shapes.batch_stats),
    family.torch_name,
    pathlib.Path(path).name,
  )
  head = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes.params)
  whole = {**found.params, 'head': head['head']}
  return Body(model, Variables(whole, found.batch_stats), stored, layout)
