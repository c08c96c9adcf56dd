"""A CLIP from a file of weights: its sizes, its variables, their names.

Three kinds of files are read. HF's `flax_model.msgpack` has the names of our
modules, `model.safetensors` the same with PyTorch's leaves. OpenAI's state dict
(as an .npz, say) has its own layout: queries, keys and values are one matrix,
and the projections are not transposed.
"""

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
from cmu_jax.networks.clip import architecture, towers
from cmu_jax.networks.clip.architecture import Sizes
from cmu_jax.networks.weights import names
from cmu_jax.networks.weights.names import Layout

# Names that leave the sizes to config.json.
FROM_CONFIG = ('clip', 'siglip')
_TEXT_PARTS = ('text_model', 'text_projection', 'logit_scale', 'logit_bias')
_SCALARS = ('logit_scale', 'logit_bias')
# Sizes that a config.json may change without being that of another model.
_DECIDED_BY_CONFIG = ('image_size', 'end')

_OPENAI_NAMES = {
  'vision_model/embeddings/class_embedding': 'visual.class_embedding',
  'vision_model/embeddings/patch_embedding/kernel': 'visual.conv1.weight',
  'vision_model/embeddings/position_embedding/embedding': (
    'visual.positional_embedding'
  ),
  'vision_model/pre_layrnorm/scale': 'visual.ln_pre.weight',
  'vision_model/pre_layrnorm/bias': 'visual.ln_pre.bias',
  'vision_model/post_layernorm/scale': 'visual.ln_post.weight',
  'vision_model/post_layernorm/bias': 'visual.ln_post.bias',
  'visual_projection/kernel': 'visual.proj',
  'text_model/embeddings/token_embedding/embedding': 'token_embedding.weight',
  'text_model/embeddings/position_embedding/embedding': 'positional_embedding',
  'text_model/final_layer_norm/scale': 'ln_final.weight',
  'text_model/final_layer_norm/bias': 'ln_final.bias',
  'text_projection/kernel': 'text_projection',
  'logit_scale': 'logit_scale',
}
_OPENAI_BLOCK = {
  'self_attn/out_proj': 'attn.out_proj',
  'mlp/fc1': 'mlp.c_fc',
  'mlp/fc2': 'mlp.c_proj',
  'layer_norm1': 'ln_1',
  'layer_norm2': 'ln_2',
}
_STACKED = ('q_proj', 'k_proj', 'v_proj')
# Kernels that OpenAI keeps as (in, out).
_UNTRANSPOSED = (
  'params/visual_projection/kernel',
  'params/text_projection/kernel',
)


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


class LoadedClip(NamedTuple):
  """A CLIP with the file that it was loaded from.

  Attributes:
    sizes: of the network.
    variables: float32; without a text tower where the file has none.
    stored: the file.
    layout: the place of each leaf in the file.
  """

  sizes: Sizes
  variables: Variables
  stored: weights.StoredWeights
  layout: Layout

  @property
  def has_text(self) -> bool:
    return 'text_model' in self.variables.params


def bind(sizes: Sizes, dtype: str = 'float32') -> Towers:
  """Binds a CLIP of the given sizes to pure functions.

  Args:
    sizes: of the network.
    dtype: 'float32' or 'bfloat16', the type of the products.
  """
  module = towers.Clip(sizes, jnp.dtype(dtype))

  def method(name: str) -> Callable[..., Any]:
    def call(variables: Variables, *arrays: Any) -> Any:
      args = map(jnp.asarray, arrays)
      return module.apply({'params': variables.params}, *args, method=name)

    return call

  def init(key: jax.Array) -> Variables:
    side = sizes.image_size
    image = jnp.zeros((1, side, side, sizes.channels))
    ids = jnp.zeros((1, sizes.context), jnp.int32)
    return Variables(module.init(key, image, ids)['params'], {})

  return Towers(init, method('image'), method('text'), method('__call__'))


def variable_shapes(sizes: Sizes) -> Variables:
  """Shapes of all variables, without memory for them."""
  return jax.eval_shape(bind(sizes).init, jax.random.key(0))


def load(
  path: os.PathLike | str, name: str = FROM_CONFIG[0], **changes: Any
) -> LoadedClip:
  """Reads the weights of a CLIP or SigLIP.

  Args:
    path: HF's `model.safetensors` or `flax_model.msgpack`, OpenAI's state dict
      as an .npz, or a file that this package wrote; also in half precision.
    name: of a published size, or 'clip' or 'siglip' for the sizes of the
      config.json beside the weights. The activations are always those of
      config.json, if there is one.
    **changes: sizes that differ, such as image_size=336.

  Raises:
    UserError: an unreadable file, or a file that holds another network: one
      line for each missing, superfluous or misshapen array.
  """
  sizes = resolve_sizes(path, name, **changes)
  stored = weights.read(path)
  shapes = variable_shapes(sizes)
  # An image tower alone is enough for a head that was saved before.
  if not any('text_model' in n or 'token_emb' in n for n in stored.arrays):
    params = {k: v for k, v in shapes.params.items() if k not in _TEXT_PARTS}
    shapes = Variables(params, {})
  # Some files store a scalar as an array of one number, and some otherwise.
  shape = () if sizes.kind == 'clip' else (1,)
  is_scalar = lambda n: n.replace('/', '.').rpartition('.')[2] in _SCALARS
  arrays = {
    n: x.reshape(shape) if is_scalar(n) else x
    for n, x in stored.arrays.items()
    if not is_scalar(n) or x.size == 1
  }
  variables, layout = weights.fit(
    arrays,
    shapes,
    torch_name,
    pathlib.Path(path).name,
    openai_layout if sizes.kind == 'clip' else None,
  )
  return LoadedClip(sizes, variables, stored, layout)


def export(variables: Variables) -> tuple[weights.StoredWeights, Layout]:
  """Names variables as in HF's PyTorch files.

  `weights.write(path, stored)` with a `.safetensors` path makes a file of it
  that `load` reads, given a config.json from `architecture.to_config`.
  """
  # `put_back` takes names and number types from leaves, not their values.
  layout = Layout(names.torch_names(variables, torch_name), True)
  leaves = dict.fromkeys(layout.names.values(), np.zeros((), np.float32))
  arrays = weights.put_back(variables, leaves, layout)
  return weights.StoredWeights(arrays, {}, '.safetensors'), layout


def resolve_sizes(
  path: os.PathLike | str, name: str = FROM_CONFIG[0], **changes: Any
) -> Sizes:
  """Determines sizes from a name and the config.json beside the weights.

  Raises:
    UserError: an unknown name, no config.json where it is needed, or a
      config.json that contradicts the name.
  """
  # The values are the sizes; a name from FROM_CONFIG has none.
  choices = {**architecture.PUBLISHED, **dict.fromkeys(FROM_CONFIG)}
  if name not in choices:
    raise errors.unknown_name('CLIP', name, choices)
  published, config = choices[name], architecture.find_config(path)
  errors.check(
    published is not None or config is not None,
    f'{path}: the sizes of this CLIP are not known; put its config.json beside '
    f'it, or name one of {", ".join(architecture.PUBLISHED)}',
  )
  sizes = published if config is None else architecture.from_config(config)
  assert sizes is not None
  if published is not None:
    _check_agreement(published, sizes, str(config), name)
  for field in changes:
    if field not in Sizes._fields:
      raise errors.unknown_name(f'option of {name!r}', field, Sizes._fields)
  return architecture.check_sizes(sizes._replace(**changes), name)


def _check_agreement(
  published: Sizes, sizes: Sizes, config: str, name: str
) -> None:
  """Refuses a config.json of another network than the published."""
  # Fine-tuned copies of a published network differ in activation and input
  # size, which the shapes of the weights do not tell: config.json decides.
  comparable = sizes._replace(
    vision=sizes.vision._replace(
      activation=published.vision.activation, epsilon=published.vision.epsilon
    ),
    text=sizes.text._replace(
      activation=published.text.activation, epsilon=published.text.epsilon
    ),
    **{field: getattr(published, field) for field in _DECIDED_BY_CONFIG},
  )
  for field in Sizes._fields:
    a, b = getattr(comparable, field), getattr(published, field)
    errors.check(
      a == b,
      f'{config} says {field} {a}, {name} has {b}: use --model={sizes.kind} to '
      'go by the file',
    )


def torch_name(module: str) -> str:
  """A module's path here to its name in HF's PyTorch state dicts.

  Args:
    module: for example 'vision_model/encoder/layers/0/mlp/fc1'; the full path
      of leaves that are no kernel, scale or bias.

  Returns:
    For example 'vision_model.encoder.layers.0.mlp.fc1'.
  """
  name = module.strip('/').replace('/', '.')
  if name.endswith('_embedding.embedding'):
    return f'{name.removesuffix(".embedding")}.weight'
  # PyTorch's MultiheadAttention has the leaf in_proj_weight, without a dot.
  if name.endswith('attention.in_proj'):
    return f'{name}_'
  return name


def openai_layout(paths: list[str]) -> Layout:
  """OpenAI's layout of the leaves at `paths`, 'params/vision_model/...'."""
  # Queries, keys and values are thirds of in_proj, in this order.
  parts = {p: _STACKED.index(q) for p in paths for q in _STACKED if q in p}
  return Layout(
    {path: _openai_name(path.removeprefix('params/')) for path in paths},
    torch=True,
    thirds=parts,
    untransposed=frozenset(_UNTRANSPOSED) & frozenset(paths),
  )


def _openai_name(path: str) -> str:
  if path in _OPENAI_NAMES:
    return _OPENAI_NAMES[path]
  tower, _, inner = path.partition('/encoder/layers/')
  index, _, inner = inner.partition('/')
  prefix = 'visual.' if tower == 'vision_model' else ''
  block = f'{prefix}transformer.resblocks.{index}'
  module, _, leaf = inner.rpartition('/')
  if module.rpartition('/')[2] in _STACKED:
    return f'{block}.attn.in_proj_{"weight" if leaf == "kernel" else "bias"}'
  return (
    f'{block}.{_OPENAI_BLOCK[module]}.{"bias" if leaf == "bias" else "weight"}'
  )
