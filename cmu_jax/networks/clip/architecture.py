"""The sizes of a CLIP: of the published ones, or from a config.json."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from cmu_jax.core import errors, files

ACTIVATIONS = (
  'quick_gelu',
  'gelu',
  'gelu_new',
  'gelu_pytorch_tanh',
  'relu',
  'silu',
)
# The token that is looked for by its rank, the largest of a text, and not by
# its number: configs written before 2023 say 2 and mean this.
LARGEST_TOKEN = 2


class Tower(NamedTuple):
  """The transformer of a tower.

  Attributes:
    width: of a token.
    depth: blocks.
    heads: attention heads; they divide the width.
    inner: width between the two layers of the perceptron.
    activation: of the perceptron, one of ACTIVATIONS.
    epsilon: of every LayerNorm.
  """

  width: int
  depth: int
  heads: int
  inner: int
  activation: str = 'quick_gelu'
  epsilon: float = 1e-5


class Sizes(NamedTuple):
  """Everything that the shape and the arithmetic of a CLIP depend on.

  Attributes:
    vision: the image tower.
    text: the text tower.
    image_size: side of a picture, in pixels.
    patch: side of a patch, in pixels.
    embed: width of the space that both towers lead to.
    channels: of a picture.
    vocabulary: tokens there are.
    context: tokens of a text, start and end included.
    end: number of the token at which a text is read off; 2 stands for the
      largest number in the text. SigLIP reads the last token.
    kind: 'clip' or 'siglip'.
  """

  vision: Tower
  text: Tower
  image_size: int = 224
  patch: int = 16
  embed: int = 512
  channels: int = 3
  vocabulary: int = 49408
  context: int = 77
  end: int = 49407
  kind: str = 'clip'


_BASE, _TEXT = Tower(768, 12, 12, 3072), Tower(512, 12, 8, 2048)
_SIGLIP = Tower(768, 12, 12, 3072, 'gelu_pytorch_tanh', 1e-6)
PUBLISHED: dict[str, Sizes] = {
  'clip-vit-b32': Sizes(_BASE, _TEXT, patch=32),
  'clip-vit-b16': Sizes(_BASE, _TEXT, patch=16),
  'clip-vit-l14': Sizes(
    Tower(1024, 24, 16, 4096), Tower(768, 12, 12, 3072), patch=14, embed=768
  ),
  'siglip-vit-b16': Sizes(
    _SIGLIP, _SIGLIP, embed=768, vocabulary=32000, context=64, kind='siglip'
  ),
}
_TYPES = {
  'clip': 'clip',
  'clip_vision_model': 'clip',
  'siglip': 'siglip',
  'siglip_vision_model': 'siglip',
}
# Names in a config.json and, where it is silent, the values of its format.
_TOWER = {
  'width': 'hidden_size',
  'depth': 'num_hidden_layers',
  'heads': 'num_attention_heads',
  'inner': 'intermediate_size',
}
# HF leaves out of a config.json what is as in these.
_DEFAULTS = {
  'clip': PUBLISHED['clip-vit-b32'],
  'siglip': PUBLISHED['siglip-vit-b16'],
}


def from_config(path: os.PathLike | str) -> Sizes:
  """The sizes that a config.json of a CLIP says.

  Args:
    path: JSON with `text_config`, `vision_config` and `projection_dim`, or
      that of an image tower alone (clip_vision_model).

  Raises:
    UserError: no such JSON, or sizes that cannot be.
  """
  stored = files.read_json(path)
  named = stored.get('model_type', 'clip') if isinstance(stored, dict) else ''
  errors.check(
    named in _TYPES,
    f'{path} is no config of a CLIP or SigLIP; take the config.json that '
    'belongs to the weights',
  )
  kind = _TYPES[named]
  if named.endswith('_vision_model'):
    stored = {**stored, 'vision_config': stored}
  parts = {
    part: _read_part(stored, part, path)
    for part in ('vision_config', 'text_config')
  }
  vision, text = parts['vision_config'], parts['text_config']
  usual = _DEFAULTS[kind]
  errors.check(
    vision.get('vision_use_head', True),
    f'{path}: vision_use_head is false; an image tower without a head gives no '
    'embedding of a picture, take one that has it',
  )
  seen, read = (
    _parse_tower(vision, usual.vision),
    _parse_tower(text, usual.text),
  )
  found = Sizes(
    seen,
    read,
    image_size=vision.get('image_size', usual.image_size),
    patch=vision.get('patch_size', usual.patch),
    embed=_embedding_width(kind, stored, text, seen, read),
    channels=vision.get('num_channels', usual.channels),
    vocabulary=text.get('vocab_size', usual.vocabulary),
    context=text.get('max_position_embeddings', usual.context),
    end=text.get('eos_token_id', usual.end),
    kind=kind,
  )
  return check_sizes(found, str(path))


def find_config(path: os.PathLike | str) -> pathlib.Path | None:
  """The config.json in the folder of a weights file, or None."""
  found = pathlib.Path(path).expanduser().parent / 'config.json'
  return found if found.is_file() else None


def check_sizes(sizes: Sizes, where: str) -> Sizes:
  """The sizes themselves, if a network can have them.

  Raises:
    UserError: names the first size that cannot be.
  """
  for part, tower in (('vision', sizes.vision), ('text', sizes.text)):
    for name, value in tower._asdict().items():
      _check_positive(f'{where}: {name} of the {part} tower', value, name)
    errors.check(
      tower.width % tower.heads == 0,
      f'{where}: {tower.heads} heads do not divide width {tower.width} of the '
      f'{part} tower; correct one of them',
    )
    if tower.activation not in ACTIVATIONS:
      raise errors.unknown_name(
        f'hidden_act in {where}', str(tower.activation), ACTIVATIONS
      )
  for name, value in sizes._asdict().items():
    if name not in ('vision', 'text', 'end', 'kind'):
      _check_positive(f'{where}: {name}', value, name)
  errors.check(
    isinstance(sizes.end, int),
    f'{where}: eos_token_id is {sizes.end!r}; it must be a number',
  )
  errors.check(
    sizes.kind == 'clip' or sizes.embed == sizes.vision.width,
    f'{where}: texts of {sizes.embed} numbers and pictures of '
    f'{sizes.vision.width} cannot be compared; correct projection_size',
  )
  errors.check(
    sizes.image_size >= sizes.patch,
    f'{where}: patches of {sizes.patch} pixels are larger than pictures of '
    f'{sizes.image_size}; correct one of them',
  )
  return sizes


def _check_positive(what: str, value: Any, name: str) -> None:
  kinds = (int, float) if name == 'epsilon' else (int,)
  errors.check(
    name == 'activation'
    or (isinstance(value, kinds) and not isinstance(value, bool) and value > 0),
    f'{what} is {value!r}; it must be a number above 0',
  )


def _read_part(stored: Mapping, name: str, path: Any) -> Mapping[str, Any]:
  # Configs of 2022 hold both, and what is under the longer name counts.
  parts = [stored.get(key) or {} for key in (name, f'{name}_dict')]
  errors.check(
    all(isinstance(part, dict) for part in parts),
    f'{path}: {name} is no JSON object; correct it',
  )
  return {**parts[0], **parts[1]}


def _embedding_width(
  kind: str, stored: Mapping, text: Mapping, seen: Tower, read: Tower
) -> Any:
  """The width of the common space; SigLIP's image tower projects nothing."""
  if kind == 'clip':
    return stored.get('projection_dim', 512)
  alone = 'text_config' not in stored
  return seen.width if alone else text.get('projection_size', read.width)


def _parse_tower(part: Mapping[str, Any], default: Tower) -> Tower:
  given = {
    field: part.get(name, getattr(default, field))
    for field, name in _TOWER.items()
  }
  return Tower(
    **given,
    activation=part.get('hidden_act', default.activation),
    epsilon=part.get('layer_norm_eps', default.epsilon),
  )


def to_config(sizes: Sizes) -> dict[str, Any]:
  """The config.json from which `from_config` reads these sizes."""

  def tower(one: Tower) -> dict[str, Any]:
    return {
      **{name: getattr(one, field) for field, name in _TOWER.items()},
      'hidden_act': one.activation,
      'layer_norm_eps': one.epsilon,
    }

  text = {'projection_size': sizes.embed} if sizes.kind == 'siglip' else {}
  return {
    'model_type': sizes.kind,
    'projection_dim': sizes.embed,
    'vision_config': {
      **tower(sizes.vision),
      'image_size': sizes.image_size,
      'patch_size': sizes.patch,
      'num_channels': sizes.channels,
    },
    'text_config': {
      **text,
      **tower(sizes.text),
      'vocab_size': sizes.vocabulary,
      'max_position_embeddings': sizes.context,
      'eos_token_id': sizes.end,
    },
  }
