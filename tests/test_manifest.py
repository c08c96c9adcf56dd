"""Checkpoints that are damaged, or of something else, are recognised."""

import json
import pathlib
import shutil

import jax.numpy as jnp
import pytest
from states import ENTRY, entry, same, steps

from cmu_jax.core import checkpoint


def _truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(bytes(data))


@pytest.mark.parametrize('damage', [_truncate, _flip, pathlib.Path.unlink])
def test_damage_to_any_file_is_recognised(tmp_path, capfd, damage):
  good = tmp_path / 'good'
  for step in (1, 2):
    checkpoint.save(good, step, entry(step), 'a')
  whole = [path for path in (good / '2').rglob('*') if path.is_file()]
  assert len(whole) > 3
  for path in whole:
    if not path.stat().st_size and damage is not pathlib.Path.unlink:
      continue
    shutil.rmtree(tmp_path / 'bad', ignore_errors=True)
    shutil.copytree(good, tmp_path / 'bad')
    damage(tmp_path / 'bad' / path.relative_to(good))
    state, step = checkpoint.restore(tmp_path / 'bad', ENTRY, 'a')
    assert step == 1, path
    same(entry(1), state)
    said = capfd.readouterr().err
    assert said.count('\n') == 1
    assert 'step 1 is used' in said


@pytest.mark.parametrize(
  ('template', 'fingerprint', 'said'),
  [
    (ENTRY, 'b', 'another configuration'),
    ({'step': ENTRY['step']}, 'a', 'holds 2 arrays'),
    (ENTRY | {'more': jnp.zeros(1)}, 'a', 'holds'),
    (ENTRY | {'w': jnp.zeros(4)}, 'a', '[4]'),
    (ENTRY | {'w': jnp.zeros(3, jnp.bfloat16)}, 'a', 'bfloat16'),
  ],
)
def test_a_checkpoint_of_something_else(
  tmp_path, capfd, template, fingerprint, said
):
  checkpoint.save(tmp_path, 4, entry(4), 'a')
  assert checkpoint.restore(tmp_path, template, fingerprint) is None
  message = capfd.readouterr().err
  assert said in message
  assert message.endswith('the stage starts afresh\n')
  assert steps(tmp_path) == [4]


@pytest.mark.parametrize(
  'text',
  ['', '[]', '3', '{"schema": 99}', '{"schema": 1, "files": []}', '\x00'],
)
def test_a_manifest_of_something_else(tmp_path, capfd, text):
  path = checkpoint.save(tmp_path, 4, entry(4), 'a')
  (path / checkpoint.MANIFEST).write_text(text)
  assert checkpoint.restore(tmp_path, ENTRY, 'a') is None
  assert 'no readable manifest.json' in capfd.readouterr().err


@pytest.mark.parametrize('change', ['step', 'tree', 'files', 'extra'])
def test_a_manifest_that_does_not_match(tmp_path, change):
  path = checkpoint.save(tmp_path, 4, entry(4), 'a')
  said = json.loads((path / checkpoint.MANIFEST).read_text())
  odd = {'step': 5, 'tree': [[1]], 'files': {'state/x': 3}}
  if change == 'extra':
    (path / 'state' / 'more').write_text('x')
  else:
    said[change] = odd[change]
    (path / checkpoint.MANIFEST).write_text(json.dumps(said))
  assert checkpoint.restore(tmp_path, ENTRY, 'a') is None
