"""Folded networks: layer lists, their mistakes, and weights made elsewhere."""

import functools
import importlib.util
import itertools
import json
import pathlib

import jax
import numpy as np
import PIL.Image
import pytest
import torch_twin
from close import assert_close
from jax import lax
from jax import numpy as jnp

from cmu_jax import networks
from cmu_jax.core import errors
from cmu_jax.methods.projection import activations

ROOT = pathlib.Path(__file__).parents[1]
_SPEC = importlib.util.spec_from_file_location(
  'folded', ROOT / 'experiments' / 'folded.py'
)
folded = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(folded)
DATA = ROOT.parent / 'shared' / 'data'
WEIGHTS = DATA / 'weights'


def _layer(kind, name, inputs, output, shape=None, stride=1, relu6=True):
  entry = {'type': kind, 'name': name, 'in': inputs, 'out': output}
  if shape:
    entry |= {'w_shape': shape, 'stride': stride, 'relu6': relu6}
  return entry


def _small():
  """Every kind of layer on images of 6x6."""
  return {
    'input_size': 6,
    'feature': 'f',
    'logits': 'y',
    'layers': [
      _layer('conv', 'c0', 'x', 'a', [4, 3, 3, 3], 2),
      _layer('depthwise', 'd0', 'a', 'b', [4, 1, 3, 3]),
      _layer('conv', 'c1', 'b', 'c', [4, 4, 1, 1], relu6=False),
      _layer('add', None, ['c', 'a'], 's'),
      _layer('global_average_pool', None, 's', 'f'),
      _layer('conv', 'c2', 'f', 'y', [5, 4, 1, 1], relu6=False),
    ],
  }


def _arrays(spec):
  rng = np.random.default_rng(0)
  found = {}
  for layer in spec['layers']:
    if 'w_shape' in layer:
      shape = layer['w_shape']
      found[f'{layer["name"]}_w'] = rng.standard_normal(shape, np.float32)
      found[f'{layer["name"]}_b'] = rng.standard_normal(shape[0], np.float32)
  return found


def _saved(folder, spec, arrays):
  paths = folder / 'net.json', folder / 'net.npz'
  paths[0].write_text(json.dumps(spec))
  np.savez(paths[1], **arrays)
  return paths


def _by_hand(arrays, image):
  """The small network without any of our layers, NCHW."""

  def layer(x, name, stride=1, groups=1):
    y = lax.conv_general_dilated(
      x,
      arrays[f'{name}_w'],
      (stride, stride),
      'SAME',
      feature_group_count=groups,
    )
    return y + arrays[f'{name}_b'][None, :, None, None]

  a = jnp.clip(layer(jnp.transpose(image, (0, 3, 1, 2)), 'c0', 2), 0, 6)
  s = layer(jnp.clip(layer(a, 'd0', groups=4), 0, 6), 'c1') + a
  features = jnp.mean(s, (2, 3))
  head = arrays['c2_w'][:, :, 0, 0]
  return features, features @ head.T + arrays['c2_b'][None]


def test_a_small_network_computes_its_layers(tmp_path):
  spec = _small()
  arrays = _arrays(spec)
  model, variables = folded.load(*_saved(tmp_path, spec, arrays))
  rng = np.random.default_rng(1)
  image = jnp.asarray(rng.standard_normal((2, 6, 6, 3), np.float32))

  def all_of(variables, image):
    stem = model.stem(variables, image)
    return (
      (model.features(variables, image), model.apply(variables, image)),
      model.trunk(variables, stem),
      model.update(variables, image),
    )

  got, through, (trained, stats) = torch_twin.quick(all_of, variables, image)
  expected = _by_hand(arrays, image)
  assert_close(got, expected, 1e-5)
  assert_close((through, trained), expected, 1e-5)
  assert stats == {}
  assert networks.parameter_count(variables) == sum(
    array.size for array in arrays.values()
  )


def test_what_a_folded_convolution_sees_times_its_kernel_is_its_output(
  tmp_path,
):
  spec = _small()
  paths = _saved(tmp_path, spec, _arrays(spec))
  model, variables = folded.load(*paths)
  rng = np.random.default_rng(2)
  image = jnp.asarray(rng.standard_normal((2, 6, 6, 3), np.float32))

  def seen(variables, image):
    found = activations.layer_inputs(model, variables, image)
    return found, model.stem(variables, image)

  found, stem = torch_twin.quick(seen, variables, image)
  # A depthwise convolution is no product with one matrix.
  assert set(found) == {('body', 'c0'), ('body', 'c1'), ('head',)}
  first = variables.params['body']['c0']
  product = found['body', 'c0'] @ first['kernel'].reshape(-1, 4)
  assert_close(
    product.reshape(stem.shape), stem - first['bias'][None, None, None, :], 1e-5
  )


def test_another_head_keeps_the_body(tmp_path):
  spec = _small()
  paths = _saved(tmp_path, spec, _arrays(spec))
  _, stored = folded.load(*paths)
  network = folded.build(folded.read_spec(paths[0]), 2)
  made = jax.eval_shape(
    networks.bind(network).init, jax.random.key(0), jnp.zeros((1, 6, 6, 3))
  )
  assert made.params['head']['kernel'].shape == (4, 2)
  shapes = [
    jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), v.params['body'])
    for v in (made, stored)
  ]
  assert shapes[0] == shapes[1]


def test_the_signal_survives_many_depthwise_layers():
  def convolution(kind, number, shape):
    reads, makes = f'v{number}', f'v{number + 1}'
    name = f'c{number}'
    return folded.LayerSpec(kind, (reads,), makes, name, 1, True, shape)

  shapes = {'depthwise': (32, 1, 3, 3), 'conv': (32, 32, 1, 1)}
  kinds = ('depthwise', 'conv') * 8
  pool = 'global_average_pool'
  body = (
    convolution('conv', 0, (32, 3, 3, 3)),
    *(convolution(k, i, shapes[k]) for i, k in enumerate(kinds, 1)),
    folded.LayerSpec(pool, (f'v{len(kinds) + 1}',), 'features'),
  )
  head = folded.LayerSpec(
    'conv', ('features',), 'y', 'head', 1, False, (5, 32, 1, 1)
  )
  network = folded.build(folded.NetworkSpec(6, body, head))
  model = networks.bind(network)
  image = jax.random.normal(jax.random.key(0), (4, 6, 6, 3))

  def features(image):
    return model.features(model.init(jax.random.key(1), image), image)

  # Fan-out weights leave less than a millionth of it.
  assert 0.01 < float(jnp.std(torch_twin.quick(features, image))) < 6


def _change(index, **entries):
  def change(spec, arrays):
    spec['layers'][index] |= entries

  return change


def _drop(name):
  return lambda spec, arrays: arrays.pop(name)


def _put(name, array):
  return lambda spec, arrays: arrays.update({name: np.asarray(array)})


@pytest.mark.parametrize(
  'change,words',
  (
    (_drop('d0_b'), "net.npz has no 'd0_b'"),
    (_put('c1_w', np.zeros((4, 1, 1, 4))), r"'c1_w' has shape \(4, 1, 1, 4\)"),
    (_put('c2_b', [np.nan] * 5), "'c2_b' is not all finite floats"),
    (_put('c2_b', [1] * 5), "'c2_b' is not all finite floats"),
    (_put('c2_b', np.array([{}], object)), 'not a readable .npz'),
    (_change(2, type='dense'), "a layer of type 'dense'"),
    (_change(2, stride=0), "stride or relu6 of layer 'c1'"),
    (_change(2, name='d0'), 'do not lead'),
    (_change(2, name=7), 'the name 7'),
    (_change(3, **{'in': ['c', 'q']}), "'q' is read before it is made"),
    (_change(3, **{'in': ['c', 'x']}), r'\(3, 6\), \(4, 3\), which do not fit'),
    (_change(1, w_shape=[3, 1, 3, 3]), 'layer d0 .* which do not fit'),
    (_change(1, w_shape=[4, 4, 3, 3]), 'layer d0 .* which do not fit'),
    (_change(5, relu6=True), "to the features 'f'"),
    (lambda spec, arrays: spec.pop('feature'), "KeyError: 'feature'"),
    (lambda spec, arrays: spec.update(layers=3), 'is no layer list'),
    (lambda spec, arrays: spec.update(input_size='6'), "input_size '6'"),
  ),
)
def test_mistakes_are_named_in_one_line(tmp_path, change, words):
  spec = _small()
  arrays = _arrays(spec)
  change(spec, arrays)
  with pytest.raises(errors.UserError, match=words) as caught:
    folded.load(*_saved(tmp_path, spec, arrays))
  assert '\n' not in str(caught.value)


def test_files_that_are_not_what_they_should_be(tmp_path):
  layers, arrays = _saved(tmp_path, _small(), _arrays(_small()))
  np.save(tmp_path / 'one.npy', np.zeros(3))
  arrays.write_bytes(arrays.read_bytes()[:-200])
  for path, words in (
    (arrays, 'not a readable .npz'),
    (tmp_path / 'none.npz', 'No such file'),
    (tmp_path / 'one.npy', 'one array'),
  ):
    with pytest.raises(errors.UserError, match=words):
      folded.load(layers, path)


@functools.cache
def _pictures(split, per_class):
  """Pixels and labels of the first images of each class in order of `id`."""
  if not (DATA / 'tfds' / 'cifar10').is_dir():
    pytest.skip(f'no CIFAR-10 in {DATA}')
  tfds = pytest.importorskip('tensorflow_datasets')
  source = tfds.data_source(
    'cifar10', split=split, data_dir=DATA / 'tfds', download=False
  )
  # Only the first thousand ids are decoded: they are enough.
  low = f'{split}_00'.encode()
  decode = source.dataset_info.features.deserialize_example_np
  records = source.data_source.__getitems__(range(len(source)))
  rows = [decode(record) for record in records if low in record]
  chosen = []
  for _, group in itertools.groupby(
    sorted(rows, key=lambda row: (row['label'], row['id'])),
    key=lambda row: row['label'],
  ):
    chosen += list(group)[:per_class]
  assert len(chosen) == 10 * per_class
  label = np.array([row['label'] for row in chosen])
  return np.stack([row['image'] for row in chosen]), label


def _features(model, variables, pixels, size, batch):
  """Pooled features of pixels resized as the weights want them."""
  bicubic = PIL.Image.Resampling.BICUBIC
  resized = [
    PIL.Image.fromarray(p).resize((size, size), bicubic) for p in pixels
  ]
  image = np.stack([np.asarray(p) for p in resized])
  step = jax.jit(
    lambda raw: model.features(variables, raw.astype(jnp.float32) / 127.5 - 1)
  )
  parts = [step(image[i : i + batch]) for i in range(0, len(image), batch)]
  return np.concatenate(parts)


def _nearest(train, train_label, test, test_label):
  """Accuracy of 10 cosine neighbours, votes weighted by exp(s / 0.07)."""
  unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, test)]
  score = unit[1] @ unit[0].T
  near = np.argsort(-score, axis=1)[:, :10]
  weight = np.exp(np.take_along_axis(score, near, 1) / 0.07)
  votes = np.eye(10)[train_label[near]] * weight[..., None]
  return np.mean(votes.sum(1).argmax(1) == test_label)


@pytest.mark.slow
@pytest.mark.parametrize(
  'name,accuracy,width',
  (
    ('mobilenet_v1_025', 0.596, 256),
    ('mobilenet_v2', 0.740, 1280),
  ),
)
def test_neighbours_of_stored_weights(name, accuracy, width):
  layers = WEIGHTS / f'{name}_imagenet.spec.json'
  if not layers.is_file():
    pytest.skip(f'no {layers.name} in {WEIGHTS}')
  model, variables = folded.load(layers, WEIGHTS / f'{name}_imagenet.npz')
  size = folded.read_spec(layers).input_size
  train, train_label = _pictures('train', 60)
  test, test_label = _pictures('test', 25)
  features = _features(
    model, variables, np.concatenate([train, test]), size, 50
  )
  assert features.shape == (850, width)
  got = _nearest(features[:600], train_label, features[600:], test_label)
  print(f'{name}: {got:.4f}')
  assert abs(got - accuracy) <= 0.02
