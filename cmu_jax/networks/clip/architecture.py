"""The architecture of a CLIP or SigLIP: published, or read from config.json."""

import os
import pathlib
from collections.abc import Callable, Mapping
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
# An end token of 2 means the largest token of a text: HF's configs before 2023
# say 2 although the end token is 49407, the largest of the vocabulary.
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
  """All that the shapes and the arithmetic of a CLIP depend on.

  Attributes:
    vision: the image tower.
    text: the text tower.
    image_size: side of a picture, in pixels.
    patch: side of a patch, in pixels.
    embed: width of the space that both towers embed into.
    channels: of a picture.
    vocabulary: number of tokens.
    context: tokens of a text, start and end included.
    end: the token at which a text is read off, or LARGEST_TOKEN. SigLIP reads
      the last token.
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
# HF leaves out of a config.json the values that equal these.
_DEFAULTS = {
  'clip': PUBLISHED['clip-vit-b32'],
  'siglip': PUBLISHED['siglip-vit-b16'],
}
_MODEL_TYPES = {
  'clip': 'clip',
  'clip_vision_model': 'clip',
  'siglip': 'siglip',
  'siglip_vision_model': 'siglip',
}
# Fields of a tower and their names in a config.json.
_TOWER = {
  'width': 'hidden_size',
  'depth': 'num_hidden_layers',
  'heads': 'num_attention_heads',
  'inner': 'intermediate_size',
  'activation': 'hidden_act',
  'epsilon': 'layer_norm_eps',
}
_VISION = {
  'image_size': 'image_size',
  'patch': 'patch_size',
  'channels': 'num_channels',
}
_TEXT_FIELDS = {
  'vocabulary': 'vocab_size',
  'context': 'max_position_embeddings',
  'end': 'eos_token_id',
}


def config_path(path: os.PathLike | str) -> pathlib.Path:
  """The name of the config that belongs to a single weights file."""
  # A folder of results has a config.json of its own: that of the run.
  weights = files.expand(path)
  return weights.with_name(f'{weights.name}.config.json')


def find_config(path: os.PathLike | str) -> pathlib.Path | None:
  """Finds the config of weights: FILE.config.json, or their config.json."""
  specific = config_path(path)
  options = (specific, specific.with_name('config.json'))
  return next((config for config in options if config.is_file()), None)


def config_writer(path: os.PathLike | str) -> Callable[[pathlib.Path], None]:
  """Reads the config of weights; returns (other weights) -> copies it there.

  Raises:
    UserError: the config is broken.
  """
  config = find_config(path)
  assert config is not None
  # Read at once: what fails at the end of a run would lose its work.
  content = files.read_json(config)
  return lambda written: files.write_json(config_path(written), content)


def from_config(path: os.PathLike | str) -> Sizes:
  """Reads the sizes of a CLIP from its config.json.

  Args:
    path: JSON with `text_config`, `vision_config` and `projection_dim`, or
      that of an image tower alone (clip_vision_model).

  Raises:
    UserError: no such JSON, or sizes that cannot be.
  """
  stored = files.read_json(path)
  named = stored.get('model_type', 'clip') if isinstance(stored, dict) else ''
  errors.check(
    named in _MODEL_TYPES,
    f'{path} is no config of a CLIP or SigLIP; take the config.json that '
    'belongs to the weights',
  )
  kind = _MODEL_TYPES[named]
  # An image tower alone has the fields of vision_config at the top.
  if named.endswith('_vision_model'):
    stored = {**stored, 'vision_config': stored}
  vision, text = (
    _read_part(stored, name, path) for name in ('vision_config', 'text_config')
  )
  # SigLIP's embedding is the output of its attention head.
  errors.check(
    vision.get('vision_use_head', True),
    f'{path}: vision_use_head is false; an image tower without a head gives no '
    'embedding of a picture, take one that has it',
  )
  default = _DEFAULTS[kind]
  towers = (
    _parse_tower(vision, default.vision),
    _parse_tower(text, default.text),
  )
  sizes = Sizes(
    vision=towers[0],
    text=towers[1],
    embed=_embedding_width(kind, stored, text, towers),
    kind=kind,
    **_parse_fields(vision, default, _VISION),
    **_parse_fields(text, default, _TEXT_FIELDS),
  )
  return check_sizes(sizes, str(path))


def to_config(sizes: Sizes) -> dict[str, Any]:
  """The config.json from which `from_config` reads these sizes."""
  text = {'projection_size': sizes.embed} if sizes.kind == 'siglip' else {}
  return {
    'model_type': sizes.kind,
    'projection_dim': sizes.embed,
    'vision_config': {
      **_name_fields(sizes.vision, _TOWER),
      **_name_fields(sizes, _VISION),
    },
    'text_config': {
      **text,
      **_name_fields(sizes.text, _TOWER),
      **_name_fields(sizes, _TEXT_FIELDS),
    },
  }


def _parse_fields(
  part: Mapping[str, Any], default: Tower | Sizes, names: Mapping[str, str]
) -> dict[str, Any]:
  return {
    field: part.get(name, getattr(default, field))
    for field, name in names.items()
  }


def _name_fields(
  values: Tower | Sizes, names: Mapping[str, str]
) -> dict[str, Any]:
  return {name: getattr(values, field) for field, name in names.items()}


def _parse_tower(part: Mapping[str, Any], default: Tower) -> Tower:
  return Tower(**_parse_fields(part, default, _TOWER))


def _read_part(stored: Mapping, name: str, path: Any) -> Mapping[str, Any]:
  # Configs of 2022 hold both names, and the longer name takes precedence.
  short, long = (stored.get(key) or {} for key in (name, f'{name}_dict'))
  errors.check(
    isinstance(short, dict) and isinstance(long, dict),
    f'{path}: {name} is no JSON object; correct it',
  )
  return {**short, **long}


def _embedding_width(
  kind: str, stored: Mapping, text: Mapping, towers: tuple[Tower, Tower]
) -> Any:
  """The width of the common space."""
  if kind == 'clip':
    return stored.get('projection_dim', 512)
  # SigLIP's image tower has no projection: its own width is the embedding's.
  if 'text_config' not in stored:
    return towers[0].width
  return text.get('projection_size', towers[1].width)


def check_sizes(sizes: Sizes, source: str) -> Sizes:
  """Returns sizes that a network can have.

  Raises:
    UserError: names the first size that cannot be.
  """
  for kind, tower in (('vision', sizes.vision), ('text', sizes.text)):
    for name, value in tower._asdict().items():
      _check_positive(f'{source}: {name} of the {kind} tower', value, name)
    errors.check(
      tower.width % tower.heads == 0,
      f'{source}: {tower.heads} heads do not divide width {tower.width} of the '
      f'{kind} tower; correct one of them',
    )
    if tower.activation not in ACTIVATIONS:
      raise errors.unknown_name(
        f'hidden_act in {source}', str(tower.activation), ACTIVATIONS
      )
  # A config.json is a user's file: a wrong size fails here by its name, not
  # inside JAX by a shape.
  for name, value in sizes._asdict().items():
    if name not in ('vision', 'text', 'end', 'kind'):
      _check_positive(f'{source}: {name}', value, name)
  errors.check(
    isinstance(sizes.end, int),
    f'{source}: eos_token_id is {sizes.end!r}; it must be a number',
  )
  # CLIP projects both towers, SigLIP the text tower alone.
  errors.check(
    sizes.kind == 'clip' or sizes.embed == sizes.vision.width,
    f'{source}: texts of {sizes.embed} numbers and pictures of '
    f'{sizes.vision.width} cannot be compared; correct projection_size',
  )
  errors.check(
    sizes.image_size >= sizes.patch,
    f'{source}: patches of {sizes.patch} pixels are larger than pictures of '
    f'{sizes.image_size}; correct one of them',
  )
  return sizes


def _check_positive(label: str, value: Any, name: str) -> None:
  types = (int, float) if name == 'epsilon' else (int,)
  # bool is a subclass of int, and JSON's true is no size.
  number = isinstance(value, types) and not isinstance(value, bool)
  errors.check(
    name == 'activation' or (number and value > 0),
    f'{label} is {value!r}; it must be a number above 0',
  )
