"""A CLIP from a file of weights: which one it is, and its variables."""

import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmu_jax.core import errors
from cmu_jax.core.types import Variables
from cmu_jax.networks import weights
from cmu_jax.networks.clip import names, siglip, sizes, towers
from cmu_jax.networks.clip.sizes import Sizes
from cmu_jax.networks.weights import names as names_lib
from cmu_jax.networks.weights.names import Layout

# Names that leave the sizes to config.json.
ANY = ('clip', 'siglip')
_TEXT = ('text_model', 'text_projection', 'logit_scale', 'logit_bias')
_SCALARS = ('logit_scale', 'logit_bias')
_MODULES: dict[str, Callable[..., Any]] = {
  'clip': towers.Clip,
  'siglip': siglip.Siglip,
}
# What a config.json may say otherwise than the name of a model.
_FREE = ('image_size', 'end')


class Towers(NamedTuple):
  """A CLIP bound to pure functions of its variables.

  Attributes:
    init: (key) -> Variables.
    image: (variables, normalised images [n, h, w, c]) -> [n, e], not unit.
    text: (variables, ids [n, t]) -> [n, e], not unit.
    logits: (variables, images, ids) -> scaled cosines [n, m].
  """

  init: Callable[..., Variables]
  image: Callable[..., jax.Array]
  text: Callable[..., jax.Array]
  logits: Callable[..., jax.Array]


class Loaded(NamedTuple):
  """A CLIP as it was found.

  Attributes:
    sizes: of the network.
    variables: float32; without a text tower where the file has none.
    stored: the file.
    layout: where in the file each leaf is.
  """

  sizes: Sizes
  variables: Variables
  stored: weights.Stored
  layout: Layout

  @property
  def has_text(self) -> bool:
    return 'text_model' in self.variables.params


def bound(sizes: Sizes, dtype: str = 'float32') -> Towers:
  """The functions of a CLIP of these sizes.

  Args:
    sizes: of the network.
    dtype: 'float32' or 'bfloat16', what the products are computed in.
  """
  module = _MODULES[sizes.kind](sizes, jnp.dtype(dtype))

  def method(name: str) -> Callable[..., Any]:
    def call(variables: Variables, *arrays: Any) -> Any:
      given = map(jnp.asarray, arrays)
      return module.apply({'params': variables.params}, *given, method=name)

    return call

  def init(key: jax.Array) -> Variables:
    side = sizes.image_size
    image = jnp.zeros((1, side, side, sizes.channels))
    ids = jnp.zeros((1, sizes.context), jnp.int32)
    return Variables(module.init(key, image, ids)['params'], {})

  return Towers(init, method('image'), method('text'), method('__call__'))


def template(sizes: Sizes) -> Variables:
  """Shapes of all variables; takes no memory."""
  return jax.eval_shape(bound(sizes).init, jax.random.key(0))


def load(path: os.PathLike | str, name: str = ANY[0], **changes: Any) -> Loaded:
  """Reads the weights of a CLIP or SigLIP.

  Args:
    path: HF's `model.safetensors` or `flax_model.msgpack`, OpenAI's state dict
      as an .npz, or what this package wrote; in half precision, too.
    name: of a published size, or 'clip' or 'siglip' for what config.json
      beside the weights says. That file counts for activations, too, where it
      is there.
    **changes: sizes that differ, such as image_size=336.

  Raises:
    UserError: an unreadable file, or one that holds another network: one line
      for each missing, superfluous or misshapen array.
  """
  sizes = which(path, name, **changes)
  stored = weights.read(path)
  shapes = template(sizes)
  if not any('text_model' in n or 'token_emb' in n for n in stored.arrays):
    kept = {k: v for k, v in shapes.params.items() if k not in _TEXT}
    shapes = Variables(kept, {})
  # A scalar may be stored as an array of one number, and the other way round.
  shape = () if sizes.kind == 'clip' else (1,)
  scalar = lambda n: n.rpartition('/')[2] in _SCALARS
  arrays = {
    n: x.reshape(shape) if scalar(n) else x
    for n, x in stored.arrays.items()
    if not scalar(n) or x.size == 1
  }
  variables, layout = weights.fit(
    arrays,
    shapes,
    names.torch_name,
    pathlib.Path(path).name,
    names.openai if sizes.kind == 'clip' else None,
  )
  return Loaded(sizes, variables, stored, layout)


def named(variables: Variables) -> tuple[weights.Stored, Layout]:
  """Variables under the names of HF's PyTorch files, and where they are.

  `weights.write(path, stored)` with a `.safetensors` path makes a file of it
  that `load` reads, given a config.json from `sizes.config`.
  """
  layout = Layout(names_lib.torch_names(variables, names.torch_name), True)
  leaves = dict.fromkeys(layout.names.values(), np.zeros((), np.float32))
  arrays = weights.put_back(variables, leaves, layout)
  return weights.Stored(arrays, {}, '.safetensors'), layout


def which(path: os.PathLike | str, name: str = ANY[0], **changes: Any) -> Sizes:
  """The sizes that a name and config.json beside the weights say.

  Raises:
    UserError: an unknown name, no config.json where one is needed, or one that
      contradicts the name.
  """
  known = {**sizes.KNOWN, **dict.fromkeys(ANY)}
  if name not in known:
    raise errors.unknown('CLIP', name, known)
  named, beside = known[name], sizes.beside(path)
  errors.check(
    named is not None or beside is not None,
    f'{path}: the sizes of this CLIP are not known; put its config.json beside '
    f'it, or name one of {", ".join(sizes.KNOWN)}',
  )
  found = sizes.from_config(beside) if beside is not None else named
  assert found is not None
  if named is not None:
    _agree(named, found, str(beside), name)
  for field in changes:
    if field not in Sizes._fields:
      raise errors.unknown(f'option of {name!r}', field, Sizes._fields)
  return sizes.checked(found._replace(**changes), name)


def _agree(named: Sizes, found: Sizes, where: str, name: str) -> None:
  """Refuses a config.json of another network; activations are its to say."""
  like = found._replace(
    vision=found.vision._replace(
      activation=named.vision.activation, epsilon=named.vision.epsilon
    ),
    text=found.text._replace(
      activation=named.text.activation, epsilon=named.text.epsilon
    ),
    **{field: getattr(named, field) for field in _FREE},
  )
  for field in Sizes._fields:
    a, b = getattr(like, field), getattr(named, field)
    errors.check(
      a == b,
      f'{where} says {field} {a}, {name} has {b}: use --model={found.kind} to '
      'go by the file',
    )
