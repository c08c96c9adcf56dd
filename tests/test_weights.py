"""Weights from files: formats, names, mismatches, a network of someone else."""

import io
import json
import pathlib
import struct
import zipfile

import jax
import numpy as np
import pytest
import torch_twin
from jax import numpy as jnp
from safetensors import numpy as safe_numpy

from cmu_jax import networks
from cmu_jax.core import errors
from cmu_jax.core.types import Batch, Network
from cmu_jax.data import input_step
from cmu_jax.networks import weights
from cmu_jax.networks.weights import names
from cmu_jax.training import metrics

SHARED = pathlib.Path(__file__).parents[2] / 'shared' / 'data'
FAMILY = networks.REGISTRY['resnet20']
MODEL = networks.make('resnet20', 10, (32, 32, 3))
SUFFIXES = ('.npz', '.safetensors', '')


def template(model=MODEL, shape=(1, 32, 32, 3)):
  return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))


@pytest.fixture(scope='module')
def variables():
  """A small ResNet-20 whose leaves all differ."""
  leaves, structure = jax.tree.flatten(template())
  rng = np.random.default_rng(0)
  drawn = [jnp.asarray(rng.random(x.shape), jnp.float32) for x in leaves]
  return jax.tree.unflatten(structure, drawn)


@pytest.fixture(scope='module')
def stored(variables):
  """The same as a PyTorch state dict, with counters."""
  arrays = torch_twin.state_dict(variables, FAMILY.torch_name)
  return {**arrays, 'bn1.num_batches_tracked': np.int64(7)}


def fitted(arrays, torch_name=FAMILY.torch_name):
  return weights.fit(arrays, template(), torch_name, 'w.npz')


def same(a, b):
  return all(
    np.array_equal(x, y)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


@pytest.mark.parametrize('depth,blocks', ((20, 3), (32, 5), (44, 7), (56, 9)))
def test_depth_is_6n_plus_2(depth, blocks):
  shapes = template(networks.make(f'resnet{depth}', 10, (32, 32, 3)))
  kernels = [x for x in jax.tree.leaves(shapes.params) if x.ndim > 1]
  assert len(kernels) == depth == 6 * blocks + 2


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_files_give_back_what_was_written(tmp_path, variables, stored, suffix):
  if suffix:
    arrays = stored
  else:
    arrays = {p: np.asarray(x) for p, x in names.leaves(variables).items()}
  path = tmp_path / f'w{suffix}'
  meta = {'note': 'mine'} if suffix == '.safetensors' else {}
  weights.write(path, weights.StoredWeights(arrays, meta, suffix))
  found = weights.read(path)
  assert (found.suffix, found.metadata) == (suffix, meta)
  assert found.arrays.keys() == arrays.keys()
  read, layout = fitted(found.arrays)
  assert same(read, variables)
  assert layout.torch == bool(suffix)
  back = weights.put_back(read, found.arrays, layout)
  assert all(np.array_equal(back[name], arrays[name]) for name in arrays)


@pytest.mark.parametrize('prefix', ('module.', '_orig_mod.'))
def test_prefixes_of_wrappers_and_names_of_the_head(variables, stored, prefix):
  renamed = {
    prefix + name.replace('linear.', 'fc.'): x for name, x in stored.items()
  }
  assert same(fitted(renamed)[0], variables)


def test_half_precision_comes_back_as_half_precision(stored):
  arrays = {
    name: x.astype(np.float16) if x.dtype == np.float32 else x
    for name, x in stored.items()
  }
  read, layout = fitted(arrays)
  assert jax.tree.leaves(read)[0].dtype == jnp.float32
  back = weights.put_back(read, arrays, layout)
  assert {x.dtype for x in back.values()} == {np.dtype('f2'), np.dtype('i8')}


def _without(arrays, name):
  return {k: v for k, v in arrays.items() if k != name}


@pytest.mark.parametrize(
  'change,words',
  (
    (lambda a: _without(a, 'layer2.0.conv1.weight'), 'is missing'),
    (lambda a: {**a, 'layer9.weight': a['bn1.weight']}, 'no part of'),
    (lambda a: {**a, 'bn1.bias': a['bn1.bias'] * np.nan}, 'holds NaN'),
    (lambda a: {**a, 'bn1.bias': np.zeros(3)}, r'has shape \(3,\).* \(16,\)'),
    (
      lambda a: {**a, 'bn1.running_var': np.full(16, -1.0)},
      'negative variance',
    ),
  ),
)
def test_a_mismatch_is_one_line_that_names_it(stored, change, words):
  with pytest.raises(errors.UserError, match=words) as caught:
    fitted(change(stored))
  assert '\n' not in str(caught.value)
  assert str(caught.value).startswith('w.npz: ')


def test_mismatches_are_listed_one_by_one(stored):
  few = {k: v for k, v in stored.items() if 'layer3' not in k}
  with pytest.raises(errors.UserError) as caught:
    fitted(few)
  lines = str(caught.value).splitlines()
  assert len(lines) == 21 and lines[-1] == 'w.npz: and 10 more'
  assert all("'layer3." in line for line in lines[:-1])


def test_a_pickle_is_never_opened(tmp_path):
  path = tmp_path / 'w.pth'
  path.write_bytes(b'\x80\x04')
  with pytest.raises(errors.UserError, match='is a pickle'):
    weights.read(path)
  archive = tmp_path / 'w.npz'
  np.savez(archive, a=np.array([{}], object))
  with pytest.raises(errors.UserError, match=r'w\.npz'):
    weights.read(archive)


def _tensor(kind, size):
  """A safetensors file of so many numbers of a type of one byte."""
  fields = {'dtype': kind, 'shape': [size], 'data_offsets': [0, size]}
  header = json.dumps({'a': fields}).encode()
  return struct.pack('<Q', len(header)) + header + bytes(size)


def _archive(name, content):
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w') as archive:
    archive.writestr(name, content)
  return file.getvalue()


def _claims(count):
  """The header of an array of which nothing follows."""
  file = io.BytesIO()
  fields = {'descr': '<f8', 'fortran_order': False, 'shape': (count,)}
  np.lib.format.write_array_header_1_0(file, fields)
  return file.getvalue()


@pytest.mark.parametrize(
  'name,content',
  (
    ('w.safetensors', struct.pack('<Q', 10 * 2**30) + b'{}'),
    ('w.safetensors', b''),
    ('w.safetensors', struct.pack('<Q', 4) + b'null'),
    ('w.safetensors', _tensor('F8_E4M3', 2)),
    ('w.npz', _archive('torch/data.pkl', b'not an array')),
    ('w.npz', _archive('a.npy', _claims(10**11))),
    ('w.npz', b'PK\x03\x04 cut short'),
    ('w.npz', b''),
    ('w.onnx', b'what'),
    ('w', b'what'),
  ),
)
def test_malformed_files_are_one_line(tmp_path, name, content):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(errors.UserError) as caught:
    weights.read(tmp_path / name)
  assert name in str(caught.value) and '\n' not in str(caught.value)


def test_an_empty_file_a_missing_one_and_a_folder_of_something_else(tmp_path):
  empty = tmp_path / 'e.safetensors'
  empty.write_bytes(safe_numpy.save({}))
  (tmp_path / 'folder').mkdir()
  for path in (empty, tmp_path / 'gone.npz', tmp_path / 'folder'):
    with pytest.raises(errors.UserError, match=path.name):
      weights.read(path)


@pytest.mark.skipif(not SHARED.is_dir(), reason='no ../shared/data')
@pytest.mark.parametrize(
  'images,low,high',
  (
    (1000, 0.90, 0.94),
    pytest.param(10_000, 0.9168, 0.9178, marks=pytest.mark.slow),
  ),
)
def test_resnet20_of_someone_else_reaches_its_accuracy(images, low, high):
  import tensorflow_datasets as tfds

  found = weights.read(SHARED / 'weights/resnet20_cifar10.npz')
  read, layout = fitted(found.arrays)
  back = weights.put_back(read, found.arrays, layout)
  assert all(np.array_equal(back[n], x) for n, x in found.arrays.items())
  source = tfds.data_source(
    'cifar10', split='test', data_dir=SHARED / 'tfds', download=False
  )
  samples = [source[i] for i in range(images)]
  image = jnp.asarray(np.stack([s['image'] for s in samples]))
  label = np.array([s['label'] for s in samples])
  step = input_step.make((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
  batch = Batch(image, jnp.asarray(label, jnp.int32))
  hit = metrics.predict(Network(MODEL, step), read, batch, 500) == label
  assert low <= hit.mean() <= high


@pytest.mark.parametrize('outputs', (0, 1))
def test_a_head_of_fewer_than_two_outputs_is_no_classifier(outputs):
  arrays = {'fc.weight': np.zeros((outputs, 4), np.float32)}
  with pytest.raises(errors.UserError, match=f'has {outputs} output'):
    names.count_classes(arrays)


@pytest.mark.parametrize(
  'name', [n for n, f in networks.REGISTRY.items() if f.torch_name]
)
def test_the_classes_are_counted_off_the_files_of_every_family(name):
  known = names.head_names(networks.REGISTRY[name].torch_name)
  head = networks.REGISTRY[name].torch_name('head')
  arrays = {
    'features.classifier.0.weight': np.zeros((5, 4), np.float32),
    f'module.{head}.bias': np.zeros(7, np.float32),
    f'module.{head}.weight': np.zeros((7, 4), np.float32),
  }
  assert names.count_classes(arrays, known) == 7


def _sharded(folder):
  parts = {'a.safetensors': {'x': np.ones(3, np.float32)}}
  parts['b.safetensors'] = {'y': np.zeros((2, 2), np.float32)}
  for name, arrays in parts.items():
    safe_numpy.save_file(arrays, folder / name)
  table = {n: file for file, arrays in parts.items() for n in arrays}
  index = folder / 'model.safetensors.index.json'
  index.write_text(json.dumps({'metadata': {}, 'weight_map': table}))
  return index


def test_weights_in_several_files_are_read_by_their_index(tmp_path):
  found = weights.read(_sharded(tmp_path))
  assert found.suffix == '.safetensors'
  assert {n: x.shape for n, x in found.arrays.items()} == {
    'x': (3,),
    'y': (2, 2),
  }
  with pytest.raises(errors.UserError, match=r'several files, give .*index'):
    weights.read(tmp_path / 'model.safetensors')


@pytest.mark.parametrize(
  'change,words',
  (
    (lambda p: (p.parent / 'b.safetensors').unlink(), 'b.safetensors, which'),
    (lambda p: p.write_text('{"weight_map": {}}'), 'has no weight_map'),
    (lambda p: p.write_text('[]'), 'has no weight_map'),
    (
      lambda p: p.write_text('{"weight_map": {"z": "a.safetensors"}}'),
      "names 'z' in a.safetensors, which is not there",
    ),
    (
      lambda p: (p.parent / 'a.safetensors').write_bytes(b'cut'),
      'not a whole safetensors file',
    ),
  ),
)
def test_a_broken_index_is_one_line(tmp_path, change, words):
  index = _sharded(tmp_path)
  change(index)
  with pytest.raises(errors.UserError, match=words) as caught:
    weights.read(index)
  assert '\n' not in str(caught.value)
