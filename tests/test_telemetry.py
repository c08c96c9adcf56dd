"""The two records of a run hold the same scalars, and hold them once."""

import json
import pathlib
import struct
import subprocess
import sys

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies
from hypothesis.extra import numpy as hypothesis_numpy
from tensorboardX import crc32c
from tensorboardX.proto import event_pb2

from cmu_jax.core import errors
from cmu_jax.studies.cuts import telemetry


def _masked(data: bytes) -> int:
  crc = crc32c.crc32c(data)
  return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _events(workdir: pathlib.Path) -> list[event_pb2.Event]:
  """Reads the one event file by the record format, checking both checksums."""
  (path,) = (workdir / 'tensorboard').iterdir()
  data, events = path.read_bytes(), []
  while data:
    (size,) = struct.unpack('<Q', data[:8])
    head, body = data[8:12], data[12 : 12 + size]
    tail = data[12 + size : 16 + size]
    assert struct.unpack('<I', head)[0] == _masked(data[:8])
    assert struct.unpack('<I', tail)[0] == _masked(body)
    events.append(event_pb2.Event.FromString(body))
    data = data[16 + size :]
  return events


def _from_events(workdir: pathlib.Path) -> list[tuple[str, int, float]]:
  first, *events = _events(workdir)
  assert first.file_version == 'brain.Event:2'
  return [
    (value.tag, event.step, value.simple_value)
    for event in events
    for value in event.summary.value
  ]


def _from_lines(workdir: pathlib.Path) -> list[tuple[str, int, float]]:
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  found = [json.loads(line) for line in lines]
  assert all(set(line) == {'step', 'tag', 'value'} for line in found)
  return [(line['tag'], line['step'], line['value']) for line in found]


def _series(*lengths: int) -> list:
  return [
    (f'train/seed_{i}/loss', np.arange(n) * 10, np.exp(-np.arange(n) / 7.0))
    for i, n in enumerate(lengths)
  ]


def test_both_files_hold_the_same_scalars(tmp_path):
  telemetry.write(tmp_path, _series(3, 50))
  lines, events = _from_lines(tmp_path), _from_events(tmp_path)
  assert len(lines) == 53
  assert [p[:2] for p in lines] == [p[:2] for p in events]
  single = [float(np.float32(value)) for *_, value in lines]
  assert single == [value for *_, value in events]
  np.testing.assert_allclose(single[3:], _series(3, 50)[1][2], rtol=1e-6)


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(
  hypothesis_numpy.arrays(
    np.float64, strategies.integers(0, 12), elements=strategies.floats()
  )
)
def test_any_double_survives_as_single_or_null(tmp_path_factory, values):
  workdir = tmp_path_factory.mktemp('run')
  telemetry.write(workdir, [('a', np.arange(len(values)), values)])
  with np.errstate(over='ignore'):
    expected = values.astype(np.float32).astype(float)
  events = np.array([value for *_, value in _from_events(workdir)])
  np.testing.assert_array_equal(events.reshape(-1), expected)
  for (*_, line), single in zip(_from_lines(workdir), expected, strict=True):
    if np.isfinite(single):
      assert np.float32(line) == np.float32(single)
    else:
      assert line is None


def test_non_finite_values_are_null_in_strict_json(tmp_path):
  values = np.array([1.0, np.nan, np.inf, -np.inf])
  telemetry.write(tmp_path, [('a', np.arange(4), values)])
  text = (tmp_path / 'metrics.jsonl').read_text()
  assert 'NaN' not in text and 'Infinity' not in text
  assert [v for *_, v in _from_lines(tmp_path)] == [1.0, None, None, None]


@pytest.mark.parametrize('n', [999, 1000, 1001, 25_000])
def test_long_series_are_thinned_and_keep_their_ends(tmp_path, n):
  telemetry.write(tmp_path, _series(n))
  steps = [step for _, step, _ in _from_lines(tmp_path)]
  assert len(steps) == min(n, telemetry.MOST_POINTS)
  assert steps[0] == 0 and steps[-1] == 10 * (n - 1)
  assert len(set(steps)) == len(steps)
  gaps = np.diff(steps)
  assert gaps.max() <= 2 * gaps.min()


def test_writing_again_repeats_nothing_and_forgets_the_old(tmp_path):
  telemetry.write(tmp_path, _series(7, 7))
  before = (tmp_path / 'metrics.jsonl').read_bytes()
  events = _from_events(tmp_path)
  telemetry.write(tmp_path, _series(7, 7))
  assert (tmp_path / 'metrics.jsonl').read_bytes() == before
  assert _from_events(tmp_path) == events
  telemetry.write(tmp_path, _series(2))
  assert len(_from_events(tmp_path)) == len(_from_lines(tmp_path)) == 2
  found = {path.name for path in tmp_path.iterdir()}
  assert found == {'metrics.jsonl', 'tensorboard'}


def test_same_series_same_bytes(tmp_path):
  folders = [tmp_path / name for name in ('a', 'b')]
  for folder in folders:
    telemetry.write(folder, _series(20))
  a, b = (next((f / 'tensorboard').iterdir()) for f in folders)
  assert a.name == b.name and a.read_bytes() == b.read_bytes()


def test_steps_and_values_must_be_of_one_length(tmp_path):
  with pytest.raises((TypeError, ValueError)):
    telemetry.write(tmp_path, [('a', np.arange(3), np.zeros(2))])
  assert not (tmp_path / 'metrics.jsonl').exists()


def test_a_file_in_the_way_is_one_line(tmp_path):
  blocked = tmp_path / 'file'
  blocked.write_text('')
  with pytest.raises(errors.UserError, match='cannot write') as caught:
    telemetry.write(blocked, _series(2))
  assert '\n' not in str(caught.value)


def test_nothing_to_write_is_two_empty_records(tmp_path):
  telemetry.write(tmp_path, [])
  assert _from_lines(tmp_path) == _from_events(tmp_path) == []


def test_events_are_written_without_loading_torch(tmp_path):
  code = (
    'import sys; from cmu_jax.studies.cuts import telemetry; '
    f'telemetry.write({str(tmp_path)!r}, [("a", [0], [1.0])]); '
    'print("torch" in sys.modules, "tensorboardX" in sys.modules)'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  # Absent rather than None: whoever needs PyTorch afterwards can import it.
  assert done.stdout.split() == ['False', 'True']
  assert _from_events(tmp_path) == [('a', 0, 1.0)]


def test_a_stop_leaves_the_events_that_were_there(tmp_path, monkeypatch):
  telemetry.write(tmp_path, _series(5))
  before = _events(tmp_path)

  def stop(path, points):
    path.write_bytes(b'half')
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(telemetry, '_write_events', stop)
    with pytest.raises(KeyboardInterrupt):
      telemetry.write(tmp_path, _series(9))
  assert _events(tmp_path) == before
