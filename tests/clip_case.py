"""A tiny CLIP of odd sizes: random weights, and its files of three layouts."""

import functools
import json

import jax
import numpy as np
from jax import numpy as jnp

from cmu_jax.networks import clip, weights
from cmu_jax.networks.clip import loading, zero_shot
from cmu_jax.networks.weights import matching

# Nothing is a power of two, no two sizes are the same, and 17 pixels are three
# patches and something left over.
SIZES = clip.Sizes(
  clip.Tower(24, 2, 3, 40, 'quick_gelu', 1e-5),
  clip.Tower(20, 3, 5, 36, 'gelu', 1e-4),
  image_size=17,
  patch=5,
  embed=14,
  vocabulary=101,
  context=11,
  end=100,
)
CONFIG = {
  'model_type': 'clip',
  'projection_dim': 14,
  'vision_config': {
    'hidden_size': 24,
    'num_hidden_layers': 2,
    'num_attention_heads': 3,
    'intermediate_size': 40,
    'image_size': 17,
    'patch_size': 5,
  },
  'text_config': {
    'hidden_size': 20,
    'num_hidden_layers': 3,
    'num_attention_heads': 5,
    'intermediate_size': 36,
    'hidden_act': 'gelu',
    'layer_norm_eps': 1e-4,
    'vocab_size': 101,
    'max_position_embeddings': 11,
    'eos_token_id': 100,
  },
}


@functools.cache
def variables(sizes=SIZES):
  """Random weights, no two leaves alike."""
  leaves, structure = jax.tree.flatten(clip.variable_shapes(sizes))
  rng = np.random.default_rng(3)
  drawn = [
    jnp.asarray(rng.uniform(-0.3, 0.3, x.shape), jnp.float32) for x in leaves
  ]
  return jax.tree.unflatten(structure, drawn)


def paths(found):
  return {
    '/'.join(str(getattr(k, 'key', getattr(k, 'name', k))) for k in path): x
    for path, x in jax.tree_util.tree_leaves_with_path(found)
  }


def stored(kind, found=None):
  """Arrays by the names of 'hf', 'flax' or 'openai'."""
  found = variables() if found is None else found
  leaves = paths(found)
  if kind == 'flax':
    return {p.removeprefix('params/'): np.asarray(x) for p, x in leaves.items()}
  if kind == 'openai':
    layout = loading.openai_layout(list(leaves))
  else:
    table = matching.torch_names(found, loading.torch_name)
    layout = matching.Layout(table, True)
  arrays = {
    layout.names[p]: np.zeros(
      matching._stored_shape(p, x.shape, layout), np.float32
    )
    for p, x in leaves.items()
  }
  return weights.put_back(found, arrays, layout)


def ship(folder, arrays, name='model.safetensors', config=CONFIG):
  """Writes weights and config.json; returns the path of the weights."""
  folder.mkdir(exist_ok=True)
  suffix = '.' + name.rpartition('.')[2]
  weights.write(folder / name, weights.StoredWeights(arrays, {}, suffix))
  if config:
    (folder / 'config.json').write_text(json.dumps(config))
  return folder / name


def normalise(image):
  """Pixels as CLIP takes them, by NumPy in float32."""
  mean, std = np.float32([zero_shot.MEAN, zero_shot.STD])
  return (image.astype(np.float32) / np.float32(255) - mean) / std
