"""SigLIP from HF's files: parity, sizes, heads of ids, repair from files."""

import functools
import json

import clip_case
import numpy as np
import PIL.Image
import pytest
import torch_twin
from jax import numpy as jnp

from cmu_jax import __main__ as program
from cmu_jax import networks
from cmu_jax.core import errors
from cmu_jax.networks import clip, weights
from cmu_jax.networks.clip import architecture, heads, zero_shot

_ACTIVATION = 'gelu_pytorch_tanh'
SIZES = clip.Sizes(
  clip.Tower(24, 1, 3, 40, _ACTIVATION, 1e-6),
  clip.Tower(20, 2, 5, 36, _ACTIVATION, 1e-6),
  image_size=17,
  patch=5,
  embed=24,
  vocabulary=101,
  context=7,
  kind='siglip',
)
CONFIG = {
  'model_type': 'siglip',
  'vision_config': {
    'hidden_size': 24,
    'num_hidden_layers': 1,
    'num_attention_heads': 3,
    'intermediate_size': 40,
    'image_size': 17,
    'patch_size': 5,
  },
  'text_config': {
    'hidden_size': 20,
    'num_hidden_layers': 2,
    'num_attention_heads': 5,
    'intermediate_size': 36,
    'vocab_size': 101,
    'max_position_embeddings': 7,
    'projection_size': 24,
  },
}
NAMES = ('cat', 'dog', 'owl')


def _variables():
  return clip_case.variables(SIZES)


@functools.cache
def _arrays():
  return clip_case.stored('hf', _variables())


def _ship(folder, arrays=None):
  arrays = _arrays() if arrays is None else arrays
  return clip_case.ship(folder, arrays, config=CONFIG)


def _ids(classes=3, sentences=2):
  rng = np.random.default_rng(5)
  return rng.integers(0, 101, (classes, sentences, 7))


@pytest.mark.slow
def test_parameter_count_and_sparse_config_of_the_published_size(tmp_path):
  known = clip.PUBLISHED['siglip-vit-b16']
  assert networks.parameter_count(clip.variable_shapes(known)) == 203_155_970
  # What is published leaves out all that is HF's default.
  sparse = {'model_type': 'siglip', 'vision_config': {'image_size': 384}}
  (tmp_path / 'config.json').write_text(json.dumps(sparse))
  found = architecture.from_config(tmp_path / 'config.json')
  assert found == known._replace(image_size=384)


def test_weights_load_under_their_names_and_go_back(tmp_path):
  path = _ship(tmp_path)
  for name in ('siglip', 'clip'):
    found = clip.load(path, name)
    assert found.sizes == SIZES and found.has_text
  assert {
    'logit_bias',
    'text_model.head.bias',
    'vision_model.embeddings.patch_embedding.bias',
    'vision_model.head.attention.in_proj_weight',
    'vision_model.head.probe',
  } <= set(_arrays())
  clip_case.assert_equal(found.variables, _variables())
  back = weights.put_back(found.variables, found.stored.arrays, found.layout)
  for name, array in _arrays().items():
    assert np.array_equal(back[name], array)
    assert back[name].shape == array.shape
  (tmp_path / 'config.json').write_text(
    json.dumps(architecture.to_config(SIZES))
  )
  assert clip.resolve_sizes(path) == SIZES


IN_PROJ = 'vision_model.head.attention.in_proj_weight'
CHANGES = {
  'missing': (lambda a: a.pop(IN_PROJ), f"'{IN_PROJ}' is missing"),
  'extra': (
    lambda a: a.update(lora=np.zeros(2, np.float32)),
    "'lora' belongs to no part",
  ),
  'shape': (
    lambda a: a.update({IN_PROJ: np.zeros((72, 23), np.float32)}),
    'has shape (72, 23), the network has (72, 24)',
  ),
}


@pytest.mark.parametrize('name', CHANGES)
def test_what_does_not_fit_is_one_line(tmp_path, name):
  change, words = CHANGES[name]
  arrays = dict(_arrays())
  change(arrays)
  with pytest.raises(errors.UserError) as caught:
    clip.load(_ship(tmp_path, arrays))
  assert words in str(caught.value) and '\n' not in str(caught.value)


def test_a_clip_is_no_siglip(tmp_path):
  with pytest.raises(errors.UserError, match=r'says (kind|vision)'):
    clip.load(_ship(tmp_path), 'clip-vit-b16')


@pytest.mark.slow  # importing them takes as long as all the others
@pytest.mark.filterwarnings('ignore')  # what importing transformers raises
def test_towers_are_those_of_transformers(tmp_path):
  torch = pytest.importorskip('torch', reason='needs [bench]')
  torch_twin.torchvision()  # which transformers imports
  transformers = pytest.importorskip('transformers', reason='needs [bench]')
  with torch.no_grad():
    network = transformers.SiglipModel(
      transformers.SiglipConfig(
        text_config=CONFIG['text_config'], vision_config=CONFIG['vision_config']
      )
    ).eval()
    for parameter in network.parameters():
      parameter.uniform_(-0.3, 0.3)
    network.save_pretrained(tmp_path)
    found = clip.load(tmp_path / 'model.safetensors', 'siglip')
    image = np.random.default_rng(1).standard_normal((3, 17, 17, 3), np.float32)
    ids = _ids()[0]
    theirs = network(
      pixel_values=torch.tensor(image.transpose(0, 3, 1, 2).copy()),
      input_ids=torch.tensor(ids),
    )
  assert found.sizes == SIZES
  clip_case.assert_parity(found, image, ids, theirs, 1e-5)


def test_a_head_of_ids_ranks_classes_as_the_towers_do():
  found = clip.LoadedClip(SIZES, _variables(), None, None)
  ids = _ids(sentences=1)
  head = heads.make_from_tokens(found, ids, NAMES, ('{}',))
  image = np.random.default_rng(2).standard_normal((2, 17, 17, 3), np.float32)
  whole = torch_twin.quick(
    clip.bind(SIZES).logits, _variables(), image, jnp.asarray(ids[:, 0])
  )
  both = zero_shot.variables(_variables(), head.kernel)
  got = torch_twin.quick(zero_shot.model(SIZES, 3).apply, both, image)
  bias = _variables().params['logit_bias']
  assert np.abs(got + bias[None] - whole).max() < 1e-4


def test_heads_ask_for_the_right_tokens():
  found = clip.LoadedClip(SIZES, _variables(), None, None)
  with pytest.raises(errors.UserError, match='make_from_tokens') as caught:
    heads.make(found, NAMES)
  assert '\n' not in str(caught.value)
  with pytest.raises(errors.UserError, match='0 to 100: take their own'):
    heads.make_from_tokens(found, _ids() + 1, NAMES, ('{}', 'a {}'))
  with pytest.raises(errors.UserError, match=r'give \[3, 1, up to 7\]'):
    heads.make_from_tokens(found, _ids(), NAMES, ('{}',))


def test_pictures_are_squeezed_whole():
  pixels = np.zeros((10, 30, 3), np.uint8)
  pixels[:, :15] = 255
  picture = PIL.Image.fromarray(pixels)
  seen = zero_shot.squeeze(picture, 6)
  assert seen.shape == (6, 6, 3)
  assert seen[:, 0].min() == 255 and seen[:, -1].max() == 0


@pytest.mark.slow  # a whole program
def test_repair_of_a_siglip_with_a_head_of_its_own(tmp_path, capsys):
  variables = clip_case.drop_constants(_variables())
  path = _ship(tmp_path, clip_case.stored('hf', variables))
  rng = np.random.default_rng(0)
  head = heads.Head(
    jnp.asarray(rng.standard_normal((24, 3)), jnp.float32), NAMES, ('{}',)
  )
  heads.save(tmp_path / 'head.npz', head)
  clip_case.ship_pictures(tmp_path / 'bad', NAMES)
  model = f'siglip:head={tmp_path / "head.npz"}'
  words = clip_case.repair_flags(path, tmp_path / 'out', model=model)
  assert program.main(['repair', *words]) == 0, capsys.readouterr().err
  again = clip.load(tmp_path / 'out' / 'repaired.safetensors', 'siglip')
  assert again.sizes == SIZES
  text = lambda v: v.params['text_model']['head']['kernel']
  assert np.array_equal(text(again.variables), text(variables))
