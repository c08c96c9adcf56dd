"""Weights in several files, by HF's index."""

import json

import numpy as np
import pytest
from safetensors import numpy as safe_numpy

from cmu_jax.core import errors
from cmu_jax.networks import weights


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
      "names 'z', which its files do not hold",
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
