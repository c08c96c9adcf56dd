"""DINOv2 from HF's files: parity, positions of other sizes, mistakes."""

import functools
import json

import jax
import numpy as np
import pytest
import torch_twin
from close import assert_close
from jax import numpy as jnp

from cmu_jax import networks
from cmu_jax.core import errors
from cmu_jax.networks import shipped, weights
from cmu_jax.networks.families import dinov2

TINY = {'patch': 5, 'width': 12, 'depth': 2, 'heads': 3, 'ratio': 2, 'side': 21}
CONFIG = {
  'model_type': 'dinov2',
  'patch_size': 5,
  'hidden_size': 12,
  'num_hidden_layers': 2,
  'num_attention_heads': 3,
  'mlp_ratio': 2,
  'image_size': 21,
}
# Three patches by two, and pixels left over: not the four by four of the table.
SHAPE = (17, 13, 3)


def _image(shape=SHAPE):
  rng = np.random.default_rng(2)
  return jnp.asarray(rng.standard_normal((2, *shape), np.float32))


@functools.cache
def _arrays(prefix='', **options):
  """What HF would store, by its names; the model and its variables."""
  model = networks.make('dinov2', 4, SHAPE, **TINY, **options)
  variables = torch_twin.random_variables(model, _image())
  arrays = torch_twin.state_dict(variables, dinov2.torch_name)
  found = {
    name if name.startswith('classifier') else prefix + name: array
    for name, array in arrays.items()
  }
  found[f'{prefix}embeddings.mask_token'] = np.zeros((1, 12), np.float32)
  return model, variables, found


def _ship(folder, arrays, config=CONFIG):
  path = folder / 'model.safetensors'
  weights.write(path, weights.StoredWeights(dict(arrays), {}, '.safetensors'))
  (folder / 'config.json').write_text(json.dumps(config))
  return path


@pytest.mark.parametrize(
  'width,heads,depth,count',
  (
    (384, 6, 12, 22_056_192),
    pytest.param(768, 12, 12, 86_579_712, marks=pytest.mark.slow),
    pytest.param(1024, 16, 24, 304_367_616, marks=pytest.mark.slow),
  ),
)
def test_parameter_counts_of_the_published_sizes(width, heads, depth, count):
  model = networks.make(
    'dinov2', 1, (224, 224, 3), width=width, heads=heads, depth=depth
  )
  image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), image)
  assert networks.parameter_count(shapes) == count + 2 * width + 1


@pytest.mark.parametrize('antialias', (False, True))
@pytest.mark.parametrize('old,new', ((4, 7), (9, 4), (5, 5), (37, 16)))
def test_positions_are_resized_as_in_pytorch(old, new, antialias):
  torch = pytest.importorskip('torch')
  table = np.random.default_rng(0).standard_normal((old * old, 3))
  square = torch.tensor(table).reshape(1, old, old, 3).permute(0, 3, 1, 2)
  expected = torch.nn.functional.interpolate(
    square, (new, new + 2), mode='bicubic', antialias=antialias
  )
  down, across = (
    dinov2.interpolation_matrix(old, n, antialias) for n in (new, new + 2)
  )
  got = np.einsum('hi,wj,ijd->dhw', down, across, table.reshape(old, old, 3))
  assert_close(got, expected[0].numpy(), 1e-6)


def test_positions_of_the_same_grid_stay_and_constants_stay_constant():
  table = jnp.arange(12.0).reshape(4, 3)
  assert np.array_equal(dinov2.interpolate(table, (2, 2), True), table)
  for antialias in (False, True):
    for old, new in ((3, 8), (8, 3)):
      total = dinov2.interpolation_matrix(old, new, antialias).sum(1)
      np.testing.assert_allclose(total, 1, atol=1e-12)


OPTIONS = {
  'plain': ({}, {}, SHAPE),
  'gated': ({'gated': True}, {'use_swiglu_ffn': True}, (21, 21, 3)),
  'registers': ({'registers': 3}, {'num_register_tokens': 3}, SHAPE),
}


@pytest.mark.slow  # importing transformers takes as long as all the others
@pytest.mark.filterwarnings('ignore')  # what importing them raises
@pytest.mark.parametrize('name', OPTIONS)
def test_logits_are_those_of_transformers(name, tmp_path):
  torch = pytest.importorskip('torch', reason='needs [bench]')
  torch_twin.torchvision()  # which transformers imports
  hf = pytest.importorskip('transformers', reason='needs [bench]')
  options, said, shape = OPTIONS[name]
  kind = 'Dinov2WithRegisters' if options.get('registers') else 'Dinov2'
  fields = {**CONFIG, **said, 'num_labels': 4}
  del fields['model_type']
  config = getattr(hf, f'{kind}Config')(**fields)
  network = getattr(hf, f'{kind}ForImageClassification')(config).eval()
  torch_twin.randomize(network)
  network.save_pretrained(tmp_path)
  stored = weights.read(tmp_path / 'model.safetensors')
  read = dinov2.read_options(tmp_path / 'config.json')
  assert read == {**TINY, 'gated': False, 'registers': 0, **options}
  model = networks.make('dinov2', 4, shape, **read)
  variables, _ = weights.fit(
    stored.arrays,
    jax.eval_shape(model.init, jax.random.key(0), _image(shape)),
    dinov2.torch_name,
    'HF',
  )
  got = torch_twin.quick(model.apply, variables, _image(shape))
  with torch.no_grad():
    pixels = np.array(_image(shape)).transpose(0, 3, 1, 2).copy()
    expected = network(torch.from_numpy(pixels)).logits.numpy()
  assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize('prefix', ('', 'dinov2.', 'dinov2_with_registers.'))
def test_names_with_and_without_the_prefix_of_classifiers(tmp_path, prefix):
  _, variables, arrays = _arrays(prefix)
  path = _ship(tmp_path, arrays)
  found = shipped.load_backbone(path, 'dinov2', 7, SHAPE)
  got, expected = found.variables.params, variables.params
  assert got['head']['kernel'].shape == (24, 7)
  assert not np.asarray(got['head']['kernel']).any()
  for a, b in zip(
    jax.tree.leaves(got['body']), jax.tree.leaves(expected['body']), strict=True
  ):
    assert np.array_equal(a, b)
  back = weights.put_back(found.variables, arrays, found.layout)
  assert all(np.array_equal(back[n], x) for n, x in arrays.items())


def test_features_are_class_token_and_mean_patch_and_parts_make_the_whole():
  model = networks.make('dinov2', 4, SHAPE, **TINY | {'depth': 1})
  image = _image()
  variables = torch_twin.random_variables(model, _image())

  def parts(v, x):
    stem = model.stem(v, x)
    return stem, model.head(v, model.trunk(v, stem)), model.features(v, x)

  stem, through, features = torch_twin.quick(parts, variables, image)
  assert stem.shape == (2, 6, 12) and features.shape == (2, 24)
  whole = torch_twin.quick(model.apply, variables, image[:, :15, :10])
  assert_close(through, whole, 1e-5)


CHANGES = {
  'missing': lambda a: a.pop('encoder.layer.1.mlp.fc1.weight'),
  'extra': lambda a: a.update(lora=np.zeros(2, np.float32)),
  'shape': lambda a: a.update({'layernorm.weight': np.zeros(13, np.float32)}),
}
WORDS = {
  'missing': "'encoder.layer.1.mlp.fc1.weight' is missing",
  'extra': "'lora' belongs to no part",
  'shape': r"'layernorm.weight' has shape \(13,\), the network has \(12,\)",
}


@pytest.mark.parametrize('name', CHANGES)
def test_what_does_not_fit_is_one_line(tmp_path, name):
  arrays = dict(_arrays()[2])
  CHANGES[name](arrays)
  with pytest.raises(errors.UserError, match=WORDS[name]) as caught:
    shipped.load_backbone(_ship(tmp_path, arrays), 'dinov2', 4, SHAPE)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  'change,words',
  (
    ({'model_type': 'vit'}, 'no config of a DINOv2'),
    ({'hidden_act': 'relu'}, "hidden_act is 'relu'; only 'gelu'"),
    ({'qkv_bias': False}, 'qkv_bias is false'),
    ({'image_size': [21, 21]}, r'image_size is \[21, 21\]; only a number'),
    ({'num_attention_heads': 5}, '5 heads do not divide width 12'),
    ({'patch_size': 19}, 'patches of 19 pixels are larger'),
  ),
)
def test_configs_that_cannot_be_are_refused(tmp_path, change, words):
  path = _ship(tmp_path, _arrays()[2], {**CONFIG, **change})
  with pytest.raises(errors.UserError, match=words) as caught:
    shipped.load_backbone(path, 'dinov2', 4, SHAPE)
  assert '\n' not in str(caught.value)
