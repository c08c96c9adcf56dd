"""Checkpoints when the process is killed or the disk is full."""

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import time

import jax
import pytest
from states import ENTRY, entry, same, steps

from cmu_jax.core import checkpoint, errors

SAVER = """
import sys
import jax.numpy as jnp
from cmu_jax.core import checkpoint
folder = sys.argv[1]
like = {'step': jnp.zeros((), jnp.int32), 'w': jnp.zeros(3)}
found = checkpoint.restore(folder, like, 'a')
step = 0
if found is not None:
  state, step = found
  assert int(state['step']) == step and float(state['w'][2]) == step
print('restored', step, flush=True)
while True:
  step += 1
  state = {'step': jnp.asarray(step), 'w': jnp.full(3, float(step))}
  checkpoint.save(folder, step, state, 'a')
  print('saved', step, flush=True)
"""


def _no_room(*unused):
  raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
  checkpoint.save(tmp_path, 1, entry(1), 'a', keep=1)
  monkeypatch.setattr(checkpoint.ocp, 'save', _no_room)
  with pytest.raises(errors.UserError, match='No space left') as caught:
    checkpoint.save(tmp_path, 2, entry(2), 'a', keep=1)
  assert '\n' not in str(caught.value)
  assert steps(tmp_path) == [1]
  same(entry(1), checkpoint.restore(tmp_path, ENTRY, 'a')[0])


def test_a_write_that_fails_inside_orbax_is_one_line(tmp_path, capfd):
  noise = jax.random.normal(jax.random.key(0), (200, 200))
  checkpoint.save(tmp_path, 1, entry(1), 'a', keep=1)
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
  try:
    with pytest.raises(errors.UserError, match='File too large'):
      checkpoint.save(tmp_path, 2, {'w': noise}, 'a', keep=1)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert 'Traceback' not in capfd.readouterr().err
  assert steps(tmp_path) == [1]
  assert checkpoint.restore(tmp_path, ENTRY, 'a')[1] == 1


def test_a_folder_that_cannot_be_made(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(errors.UserError, match='cannot write checkpoint'):
    checkpoint.save(tmp_path / 'file' / 'sub', 1, entry(1), 'a')


def test_killed_at_any_moment(tmp_path):
  saved = 0
  for seed in range(2):
    process = subprocess.Popen(
      [sys.executable, '-c', SAVER, str(tmp_path)],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    first = process.stdout.readline().split()
    assert first[0] == 'restored'
    # A kill between the rename and the print leaves one more than was told.
    assert saved <= int(first[1]) <= saved + 1
    time.sleep(random.Random(seed).uniform(0.3, 1.0))
    process.send_signal(signal.SIGKILL)
    told, said = process.communicate()
    assert 'Traceback' not in said
    saved = max(
      [int(first[1])] + [int(x.split()[1]) for x in told.split('\n') if x]
    )
  assert saved > 0
  state, step = checkpoint.restore(tmp_path, ENTRY, 'a')
  same(entry(step), state)
