"""Compiled programs that were cut short do not stay for ever."""

import os
import zlib

from cmu_jax.commands import shell

WHOLE = zlib.compress(os.urandom(5000))


def test_only_what_is_cut_short_goes(tmp_path):
  entries = {
    'whole': WHOLE,
    'cut': WHOLE[:-9],
    'empty': b'',
    'other': b'\x28\xb5\x2f\xfd',  # another compression is left alone
    'damaged': WHOLE[:100] + bytes(100) + WHOLE[200:],
  }
  for name, data in entries.items():
    (tmp_path / f'{name}-cache').write_bytes(data)
  (tmp_path / 'note').write_bytes(b'')
  assert shell.remove_truncated_programs(tmp_path) == 3
  left = {p.name for p in tmp_path.iterdir()}
  assert left == {'whole-cache', 'other-cache', 'note', '.checked'}


def test_an_entry_is_read_once(tmp_path):
  path = tmp_path / 'a-cache'
  path.write_bytes(WHOLE)
  os.utime(path, (1, 1))
  assert shell.remove_truncated_programs(tmp_path) == 0
  path.write_bytes(WHOLE[:50])
  os.utime(path, (2, 2))
  assert shell.remove_truncated_programs(tmp_path) == 0
  os.utime(path)
  assert shell.remove_truncated_programs(tmp_path) == 1
  assert shell.remove_truncated_programs(tmp_path) == 0
