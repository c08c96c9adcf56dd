"""CLIP: sizes, files of three layouts, mistakes, agreement with PyTorch."""

import copy
import json

import clip_case
import jax
import ml_dtypes
import numpy as np
import pytest
import torch_twin
from jax import numpy as jnp

from cmu_jax import networks
from cmu_jax.core import errors
from cmu_jax.networks import clip, weights
from cmu_jax.networks.clip import architecture


def count(tree):
  return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
  'name,visual,total',
  (
    ('clip-vit-b32', 87_849_216, 151_277_313),
    ('clip-vit-b16', 86_192_640, 149_620_737),
    ('clip-vit-l14', None, 427_616_513),
  ),
)
def test_parameter_counts_of_the_published_sizes(name, visual, total):
  shapes = clip.variable_shapes(clip.PUBLISHED[name])
  assert networks.parameter_count(shapes) == total
  params = shapes.params
  seen = count([params['vision_model'], params['visual_projection']])
  if visual:
    assert seen == visual
    assert total - seen == 63_428_097


@pytest.mark.parametrize(
  'kind,name',
  (
    ('hf', 'model.safetensors'),
    ('flax', 'flax_model.msgpack'),
    ('openai', 'ViT.npz'),
  ),
)
def test_each_layout_gives_the_same_weights_and_goes_back(tmp_path, kind, name):
  arrays = clip_case.stored(kind)
  path = clip_case.ship(tmp_path, arrays, name)
  found = clip.load(path)
  assert found.sizes == clip_case.SIZES
  clip_case.assert_equal(found.variables, clip_case.variables())
  doubled = jax.tree.map(lambda x: 2 * x, found.variables)
  back = weights.put_back(doubled, found.stored.arrays, found.layout)
  assert back.keys() == arrays.keys()
  assert all(np.array_equal(back[n], 2 * arrays[n]) for n in arrays)


@pytest.mark.parametrize('kind', ('hf', 'openai'))
@pytest.mark.parametrize('dtype', (ml_dtypes.bfloat16, np.float16))
def test_half_precision_is_read_as_float32_and_written_as_it_came(
  tmp_path, kind, dtype
):
  arrays = {n: x.astype(dtype) for n, x in clip_case.stored(kind).items()}
  arrays['vision_model.embeddings.position_ids'] = np.arange(10)[None]
  found = clip.load(clip_case.ship(tmp_path, arrays))
  kernel = found.variables.params['visual_projection']['kernel']
  exact = clip_case.variables().params['visual_projection']['kernel']
  assert kernel.dtype == jnp.float32
  assert np.array_equal(kernel, np.asarray(exact).astype(dtype).astype('f4'))
  back = weights.put_back(found.variables, found.stored.arrays, found.layout)
  assert all(
    back[n].dtype == x.dtype and np.array_equal(back[n], x)
    for n, x in arrays.items()
  )


def test_an_image_tower_alone_loads(tmp_path):
  arrays = {
    n: x
    for n, x in clip_case.stored('hf').items()
    if n.startswith(('vision_model', 'visual'))
  }
  found = clip.load(clip_case.ship(tmp_path, arrays))
  assert not found.has_text
  assert set(found.variables.params) == {'vision_model', 'visual_projection'}


HEADS = 'vision_model.encoder.layers.1.self_attn.q_proj.weight'
CHANGES = {
  'missing': (lambda a: a.pop(HEADS), f"'{HEADS}' is missing"),
  'extra': (
    lambda a: a.update(lora=np.zeros(2, np.float32)),
    "'lora' belongs to no part",
  ),
  'shape': (
    lambda a: a.update({HEADS: np.zeros((24, 23), np.float32)}),
    f"'{HEADS}' has shape (24, 23), the network has (24, 24)",
  ),
  'NaN': (lambda a: a.update({HEADS: a[HEADS] * np.nan}), 'holds NaN'),
}


@pytest.mark.parametrize('name', CHANGES)
def test_what_does_not_fit_is_one_line_that_names_it(tmp_path, name):
  change, words = CHANGES[name]
  arrays = clip_case.stored('hf')
  change(arrays)
  path = clip_case.ship(tmp_path, arrays)
  with pytest.raises(errors.UserError) as caught:
    clip.load(path)
  assert words in str(caught.value) and '\n' not in str(caught.value)
  assert str(caught.value).startswith('model.safetensors: ')


def test_a_stacked_matrix_that_is_missing_is_named_once(tmp_path):
  arrays = clip_case.stored('openai')
  del arrays['transformer.resblocks.0.attn.in_proj_weight']
  with pytest.raises(errors.UserError, match='in_proj_weight') as caught:
    clip.load(clip_case.ship(tmp_path, arrays, 'a.npz'))
  assert '\n' not in str(caught.value)


def _vision(**changes):
  config = copy.deepcopy(clip_case.CONFIG)
  config['vision_config'].update(changes)
  return config


CONFIGS = {
  'heads': (_vision(num_attention_heads=5), '5 heads do not divide width 24'),
  'patch': (_vision(patch_size=18), 'patches of 18 pixels are larger'),
  'activation': (_vision(hidden_act='quickgelu'), "did you mean 'quick_gelu'"),
  'text': (_vision(hidden_size='24'), "width of the vision tower is '24'"),
  'zero': (_vision(num_hidden_layers=0), 'depth of the vision tower is 0'),
  'other': ({'model_type': 'siglip2'}, 'no config of a CLIP or SigLIP'),
  'headless': (
    {'model_type': 'siglip', 'vision_config': {'vision_use_head': False}},
    'vision_use_head is false',
  ),
  'widths': (
    {'model_type': 'siglip', 'text_config': {'projection_size': 12}},
    'texts of 12 numbers and pictures of 768 cannot be compared',
  ),
  'list': ([1], 'no config of a CLIP'),
  'part': ({'vision_config': [1]}, 'vision_config is no JSON object'),
}


@pytest.mark.parametrize('name', CONFIGS)
def test_a_config_that_cannot_be_is_one_line(tmp_path, name):
  config, words = CONFIGS[name]
  (tmp_path / 'config.json').write_text(json.dumps(config))
  with pytest.raises(errors.UserError, match=r'config\.json') as caught:
    clip.resolve_sizes(tmp_path / 'model.safetensors')
  assert words in str(caught.value) and '\n' not in str(caught.value)


def test_which_clip_it_is_and_who_decides(tmp_path):
  path = tmp_path / 'model.safetensors'
  assert (
    clip.resolve_sizes(path, 'clip-vit-b16') == clip.PUBLISHED['clip-vit-b16']
  )
  larger = clip.resolve_sizes(path, 'clip-vit-l14', image_size=336)
  assert larger.image_size == 336 and larger.vision.depth == 24
  with pytest.raises(errors.UserError, match=r'put its config\.json beside'):
    clip.resolve_sizes(path)
  with pytest.raises(errors.UserError, match="did you mean 'clip-vit-b16'"):
    clip.resolve_sizes(path, 'clip-vit-b_16')
  with pytest.raises(errors.UserError, match="did you mean 'patch'"):
    clip.resolve_sizes(path, 'clip-vit-b16', patches=8)
  # A config.json of weights that were trained with another activation.
  named = {'patch_size': 16, 'hidden_act': 'gelu'}
  (tmp_path / 'config.json').write_text(json.dumps({'vision_config': named}))
  assert clip.resolve_sizes(path, 'clip-vit-b16').vision.activation == 'gelu'
  with pytest.raises(errors.UserError, match='says patch 16, clip-vit-b32'):
    clip.resolve_sizes(path, 'clip-vit-b32')


def test_the_config_of_an_image_tower_alone(tmp_path):
  alone = clip_case.CONFIG['vision_config'] | {'projection_dim': 14}
  config = {**alone, 'model_type': 'clip_vision_model'}
  (tmp_path / 'config.json').write_text(json.dumps(config))
  found = architecture.from_config(tmp_path / 'config.json')
  assert found.vision == clip_case.SIZES.vision
  assert (found.image_size, found.embed) == (17, 14)


def test_a_config_of_2022_says_it_twice(tmp_path):
  config = {
    'projection_dim': 768,
    'text_config_dict': {'hidden_size': 768, 'num_attention_heads': 12},
    'text_config': {'hidden_size': 768, 'intermediate_size': 3072},
  }
  (tmp_path / 'config.json').write_text(json.dumps(config))
  found = architecture.from_config(tmp_path / 'config.json')
  assert found.text == clip.PUBLISHED['clip-vit-l14'].text


def test_a_broken_msgpack_is_one_line(tmp_path):
  for i, content in enumerate(
    (b'', b'\x00', b'\xc1abc', b'\x81\xa1a', b'\x93')
  ):
    path = tmp_path / f'{i}.msgpack'
    path.write_bytes(content)
    with pytest.raises(errors.UserError, match=path.name) as caught:
      weights.read(path)
    assert '\n' not in str(caught.value)


def _inputs(n=3):
  rng = np.random.default_rng(5)
  image = rng.standard_normal((n, 17, 17, 3)).astype(np.float32)
  ids = rng.integers(0, 99, (n, 11))
  for row, end in zip(ids, (4, 10, 7), strict=True):
    row[end:] = 100
  return image, ids


@pytest.mark.slow  # importing them takes as long as all the others
@pytest.mark.filterwarnings('ignore')  # what importing transformers raises
def test_towers_are_those_of_transformers(tmp_path):
  torch = pytest.importorskip('torch', reason='needs [bench]')
  torch_twin.torchvision()  # which transformers imports
  transformers = pytest.importorskip('transformers', reason='needs [bench]')
  with torch.no_grad():
    network = transformers.CLIPModel(
      transformers.CLIPConfig.from_dict(copy.deepcopy(clip_case.CONFIG))
    ).eval()
    for parameter in network.parameters():
      parameter.uniform_(-0.3, 0.3)
    network.save_pretrained(tmp_path)
    found = clip.load(tmp_path / 'model.safetensors')
    image, ids = _inputs()
    theirs = network(
      pixel_values=torch.tensor(image.transpose(0, 3, 1, 2)),
      input_ids=torch.tensor(ids),
    )
  clip_case.assert_parity(found, image, ids, theirs, 1e-4)
  # The other activation is another network: parity is no accident.
  wrong = found.sizes._replace(
    vision=found.sizes.vision._replace(activation='gelu')
  )
  other = clip.bind(wrong).image(found.variables, image)
  assert (
    np.abs(clip_case.unit(other) - theirs.image_embeds.numpy()).max() > 1e-4
  )


def test_text_is_read_at_its_end_and_padding_does_not_matter():
  ours = clip.bind(clip_case.SIZES)
  _, ids = _inputs()
  padded = np.where(np.arange(11)[None] > np.array([4, 10, 7])[:, None], 0, ids)
  largest = clip.bind(clip_case.SIZES._replace(end=architecture.LARGEST_TOKEN))
  v = clip_case.variables()
  a = jax.jit(ours.text)(v, jnp.asarray(ids))
  b = jax.jit(ours.text)(v, jnp.asarray(padded))
  c = jax.jit(largest.text)(v, jnp.asarray(ids))
  assert np.allclose(a, b, atol=1e-6) and np.allclose(a, c, atol=1e-6)
  assert not np.allclose(a[0], a[1], atol=1e-2)
