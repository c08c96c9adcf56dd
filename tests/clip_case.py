"""A tiny CLIP of odd sizes: random weights, and its files of three layouts."""

import functools
import json

import jax
import numpy as np
import PIL.Image
from jax import numpy as jnp

from cmu_jax.networks import clip, weights
from cmu_jax.networks.clip import loading, zero_shot
from cmu_jax.networks.weights import matching, names

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


COLOURS = ((83, 235, 157), (203, 59, 237), (44, 4, 231))


@functools.cache
def variables(sizes=SIZES):
  """Random weights, no two leaves alike."""
  leaves, structure = jax.tree.flatten(clip.variable_shapes(sizes))
  rng = np.random.default_rng(3)
  draw = lambda x: jnp.asarray(rng.uniform(-0.3, 0.3, x.shape), jnp.float32)
  return jax.tree.unflatten(structure, [draw(x) for x in leaves])


def drop_constants(tree):
  """Weights whose image tower tells random pictures apart.

  Random biases and embeddings outweigh the pixels, so that every picture has
  the same class, which `repair` refuses.
  """

  def even(path, x):
    name = jax.tree_util.keystr(path)
    if 'vision_model' not in name:
      return x
    if name.endswith("['scale']"):
      return jnp.ones_like(x)
    constant = ('bias', 'class_embedding', 'position_embedding')
    return x * (not any(word in name for word in constant))

  return jax.tree_util.tree_map_with_path(even, tree)


def stored(kind, tree=None):
  """Arrays by the names of 'hf', 'flax' or 'openai'."""
  tree = variables() if tree is None else tree
  if kind == 'hf':
    return clip.export(tree)[0].arrays
  leaves = names.leaves(tree)
  if kind == 'flax':
    return {p.removeprefix('params/'): np.asarray(x) for p, x in leaves.items()}
  layout = loading.openai_layout(list(leaves))
  arrays = {
    layout.names[p]: np.zeros(
      matching._stored_shape(p, x.shape, layout), np.float32
    )
    for p, x in leaves.items()
  }
  return weights.put_back(tree, arrays, layout)


def ship(folder, arrays, name='model.safetensors', config=CONFIG):
  """Writes weights and config.json; returns the path of the weights."""
  folder.mkdir(exist_ok=True)
  suffix = '.' + name.rpartition('.')[2]
  weights.write(folder / name, weights.StoredWeights(dict(arrays), {}, suffix))
  if config:
    (folder / 'config.json').write_text(json.dumps(config))
  return folder / name


def ship_pictures(folder, class_names):
  """Four pictures of odd shapes a class, in class folders.

  Each class has a colour of its own, so that its pictures are neighbours.
  """
  rng = np.random.default_rng(0)
  for name, colour in zip(class_names, COLOURS, strict=True):
    (folder / name).mkdir(parents=True)
    for i in range(4):
      noise = rng.integers(-10, 11, (20, 19 + i, 3))
      pixels = np.clip(colour + noise, 0, 255).astype(np.uint8)
      PIL.Image.fromarray(pixels).save(folder / name / f'{i}.png')


def repair_flags(path, out, **changes):
  """Flags of a short repair of weights beside a folder 'bad'."""
  values = {
    'weights': path,
    'model': 'clip',
    'proxy': path.parent / 'bad',
    'kind': 'label_noise',
    'out': out,
    'rule': 'published',
    'steps': 4,
    **changes,
  }
  return [f'--{k}={v}' for k, v in values.items()]


def normalise(image):
  """Pixels as CLIP takes them, by NumPy in float32."""
  mean, std = np.float32([zero_shot.MEAN, zero_shot.STD])
  return (image.astype(np.float32) / np.float32(255) - mean) / std


def assert_equal(tree, other):
  """Both trees have the same structure and equal leaves."""
  assert jax.tree.structure(tree) == jax.tree.structure(other)
  for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
    assert np.array_equal(a, b)


def assert_parity(loaded, image, ids, theirs, tolerance):
  """Unit embeddings and logits are those of a network of transformers."""
  ours = clip.bind(loaded.sizes)
  compare = jax.jit(
    lambda v, x, t: (ours.image(v, x), ours.text(v, t), ours.logits(v, x, t))
  )
  images, texts, logits = compare(loaded.variables, image, jnp.asarray(ids))
  for got, expected in (
    (images, theirs.image_embeds),
    (texts, theirs.text_embeds),
  ):
    assert np.abs(unit(got) - expected.numpy()).max() <= 1e-5
  assert np.abs(logits - theirs.logits_per_image.numpy()).max() <= tolerance


def unit(rows):
  return rows / np.linalg.norm(rows, axis=1, keepdims=True)
