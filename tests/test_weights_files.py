"""Weights files of every kind: several files, pickles, bfloat16 in an .npz."""

import json
import pathlib
import pickle
import shlex
import subprocess
import sys
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safe_numpy

from cmu_jax.core import errors
from cmu_jax.networks import weights
from cmu_jax.networks.shipped import user_data
from cmu_jax.networks.weights import stored


def sharded(folder, parts, table=None, name='net.safetensors.index.json'):
  """Files of arrays, and an index; `table` differs from what they hold."""
  for file, arrays in parts.items():
    safe_numpy.save_file(arrays, folder / file, {'format': 'pt'})
  held = {n: file for file, arrays in parts.items() for n in arrays}
  index = {'metadata': {'total_size': 9}, 'weight_map': table or held}
  (folder / name).write_text(json.dumps(index))
  return folder / name


def number(value, shape=(2, 3)):
  return np.full(shape, value, np.float32)


@pytest.mark.parametrize('right', ('p-00001-of-00003.safetensors', 'q', 'r'))
def test_each_array_comes_from_the_file_that_the_index_names(tmp_path, right):
  files = ('p-00001-of-00003.safetensors', 'q', 'r')
  parts = {
    f: {'w': number(i), f'own{i}': number(9)} for i, f in enumerate(files)
  }
  table = {f'own{i}': f for i, f in enumerate(files)} | {'w': right}
  content = weights.read(sharded(tmp_path, parts, table))
  assert list(content.arrays) == list(table)
  assert np.array_equal(content.arrays['w'], number(files.index(right)))
  # What is left out is said, and the file's header is kept.
  (note,) = content.notes
  assert note.count('w in ') == 2 and f'w in {right}' not in note
  assert content.metadata == {'format': 'pt'}
  weights.write(tmp_path / 'whole.safetensors', content)
  again = weights.read(tmp_path / 'whole.safetensors')
  assert again.metadata == {'format': 'pt'} and not again.notes


def test_all_that_is_missing_is_named(tmp_path):
  parts = {'a': {'x': number(1)}, 'b': {'y': number(2)}}
  table = {'x': 'a', 'y': 'b', 'z1': 'b', 'z2': 'a'}
  index = sharded(tmp_path, parts, table)
  with pytest.raises(errors.UserError, match="'z1' in b, 'z2' in a, which are"):
    weights.read(index)
  many = {f'v{i}': 'a' for i in range(9)}
  with pytest.raises(errors.UserError, match="'v4' in a and 4 more"):
    weights.read(sharded(tmp_path, parts, many))
  many = {f'v{i}': f'file{i}' for i in range(7)}
  with pytest.raises(errors.UserError, match='file4 and 2 more, which are not'):
    weights.read(sharded(tmp_path, parts, many))


@pytest.mark.parametrize('file', ('../a', '/a', 'b/a', '', '..', 7, None))
def test_an_index_does_not_lead_out_of_its_folder(tmp_path, file):
  index = sharded(tmp_path, {'a': {'x': number(1)}}, {'x': file})
  with pytest.raises(errors.UserError, match="the file of 'x' is"):
    weights.read(index)


def test_one_of_several_files_is_not_taken_for_all(tmp_path):
  name = 'net-00002-of-00002.safetensors'
  sharded(tmp_path, {name: {'x': number(1)}, 'b': {'y': number(1)}})
  with pytest.raises(
    errors.UserError, match=r'a part of .* give .*index\.json'
  ):
    weights.read(tmp_path / name)


def test_the_side_file_of_an_index_is_not_the_index(tmp_path):
  index = sharded(tmp_path, {'a': {'x': number(1)}})
  assert user_data.read_side_file(index) == {}
  (tmp_path / 'net.json').write_text('{"std": 1}')
  assert user_data.read_side_file(index) == {'std': [1]}
  (tmp_path / 'net.safetensors.json').write_text('{"mean": 0}')
  assert user_data.read_side_file(index) == {'mean': [0]}


def torch_zip(path):
  """The outline of a file of torch.save since version 1.6."""
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('archive/data.pkl', pickle.dumps({}))


SUFFIXES = ['.th', '.pt', '.pth', '.bin', '.ckpt', '.pkl', '.PTH']
SUFFIXES += ['.pth.tar', '.pickle', '.joblib', '.bin.index.json']


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_a_pickle_of_any_name_gets_the_command(tmp_path, suffix):
  path = tmp_path / f"my net's{suffix}"
  path.write_bytes(b'anything')
  with pytest.raises(errors.UserError, match='is a pickle') as caught:
    weights.read(path)
  assert stored.conversion_command(path) in str(caught.value)
  assert '\n' not in str(caught.value)
  # The shell's words: spaces and quotes of the name survive.
  words = shlex.split(stored.conversion_command(path))
  assert words[:2] == ['python', '-c'] and words[3] == path.name
  assert words[4] == "my net's.safetensors"
  compile(words[2], 'the command', 'exec')


@pytest.mark.parametrize('suffix', ('', '.model', '.npz', '.safetensors'))
@pytest.mark.parametrize('protocol', (2, 3, 4, 5, 'zip'))
def test_a_pickle_is_known_by_its_bytes(tmp_path, suffix, protocol):
  path = tmp_path / f'w{suffix}'
  if protocol == 'zip':
    torch_zip(path)
  else:
    path.write_bytes(pickle.dumps({'a': 1}, protocol))
  with pytest.raises(errors.UserError, match='is a pickle'):
    weights.read(path)


@pytest.mark.parametrize('length', (640, 896, 1152, 1408))
def test_a_header_that_begins_like_a_pickle_is_none(tmp_path, length):
  path = tmp_path / 'w.safetensors'
  empty = safe_numpy.save({'x': number(1)}, {'note': ''})
  note = 'n' * (length - int.from_bytes(empty[:8], 'little'))
  path.write_bytes(safe_numpy.save({'x': number(1)}, {'note': note}))
  assert path.read_bytes()[:2] == length.to_bytes(2, 'little')
  assert np.array_equal(weights.read(path).arrays['x'], number(1))


CHECKPOINT = """
import sys, torch
from torch import serialization
# As written by a machine with CUDA: the storages say 'cuda:0'.
serialization.location_tag = lambda storage: 'cuda:0'
shared = torch.arange(6.0)
state = {'fc.weight': shared.view(2, 3), 'tied': shared.view(2, 3).t()}
optimizer = {'state': {0: {'m': torch.ones(2)}}, 'param_groups': [{'lr': 1}]}
kinds = {
  'bare': state,
  'state_dict': {'epoch': 7, 'state_dict': state, 'optimizer': optimizer},
  'net': {'best': 0.9, 'optimizer': optimizer, 'net': state},
}
for name, content in kinds.items():
  torch.save(content, f'{sys.argv[1]}/{name}.th')
"""


@pytest.mark.slow
@pytest.mark.parametrize('kind', ('bare', 'state_dict', 'net'))
def test_the_command_converts_a_checkpoint_of_cuda(tmp_path, kind):
  pytest.importorskip('torch', reason='PyTorch is not installed')
  program = [sys.executable, '-c', CHECKPOINT, str(tmp_path)]
  subprocess.run(program, check=True)
  command = stored.conversion_command(tmp_path / f'{kind}.th')
  words = [sys.executable, *shlex.split(command)[1:]]
  subprocess.run(words, check=True, cwd=tmp_path)
  arrays = weights.read(tmp_path / f'{kind}.safetensors').arrays
  expected = np.arange(6, dtype=np.float32).reshape(2, 3)
  assert arrays.keys() == {'fc.weight', 'tied'}
  assert np.array_equal(arrays['fc.weight'], expected)
  assert np.array_equal(arrays['tied'], expected.T)


def test_the_documentation_has_the_command():
  root = pathlib.Path(__file__).parents[1]
  text = (root / 'docs/any_network.md').read_text(encoding='utf-8')
  assert stored._RECIPE in ' '.join(text.split())


@pytest.mark.parametrize('suffix', ('.npz', '.safetensors', '.msgpack', ''))
def test_bfloat16_goes_through_every_format(tmp_path, suffix):
  values = np.array([[1.0, -2.5], [3.0, 2**-126]]).astype(jnp.bfloat16)
  content = stored.StoredWeights({'a/b': values}, {}, suffix)
  path = tmp_path / f'w{suffix}'
  for _ in range(2):
    weights.write(path, content)
    content = weights.read(path)
    array = content.arrays['a/b']
    assert array.dtype == jnp.bfloat16 and array.shape == (2, 2)
    assert np.array_equal(array.astype(np.float32), values.astype(np.float32))


@pytest.mark.parametrize(
  'values',
  (
    np.ones(3).astype(jnp.float8_e4m3fn),
    np.zeros(3, 'V4'),
    np.zeros(3, [('a', 'u1'), ('b', 'u1')]),
    np.ones(3, complex),
    np.array(['x']),
  ),
)
def test_other_types_are_refused_with_the_remedy(tmp_path, values):
  np.savez(tmp_path / 'w.npz', a=values)
  with pytest.raises(errors.UserError, match=r"'a' is .* store it as float32"):
    weights.read(tmp_path / 'w.npz')
