"""What is said about long work where there is no terminal."""

import types

import pytest

from cmu_jax.core import progress


@pytest.fixture
def clock(monkeypatch):
  """Seconds that pass only when a test says so."""
  now = types.SimpleNamespace(seconds=0.0)
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now.seconds)
  return now


def _said(capsys, clock, total, moves, start=0):
  """The lines after moves of (seconds, units)."""
  with progress.bar('work', total, start=start) as advance:
    for seconds, units in moves:
      clock.seconds += seconds
      advance(units)
  return capsys.readouterr().err.splitlines()


def test_the_first_of_many_steps_is_no_measure_of_the_rest(capsys, clock):
  first, second = _said(capsys, clock, 1000, [(9, 1), (6, 299)])
  assert first == 'work: 1/1000 steps, 9 s, estimating'
  # 299 steps in 6 seconds, not 300 in 15.
  assert second == 'work: 300/1000 steps, 15 s, about 14 s left'


def test_few_long_steps_are_measured_from_the_first_on(capsys, clock):
  lines = _said(capsys, clock, 4, [(10, 1), (20, 1)])
  assert [line.split(', ')[2] for line in lines] == [
    'about 30 s left',
    'about 30 s left',
  ]


def test_steps_of_an_earlier_run_took_no_time_in_this_one(capsys, clock):
  lines = _said(capsys, clock, 100, [(8, 20)], start=60)
  assert lines == ['work: 80/100 steps, 8 s, about 8 s left']


def test_short_work_says_nothing(capsys, clock):
  assert _said(capsys, clock, 3, [(1, 1), (1, 1), (1, 1)]) == []


def test_nothing_is_said_where_somebody_else_does(capsys, clock):
  with progress.mute():
    assert _said(capsys, clock, 2, [(9, 1), (9, 1)]) == []


def test_a_listener_hears_of_trainings_inside_its_block_alone():
  heard = []
  progress.report_images(1, 1.0)
  with progress.listen(lambda *work: heard.append(work)), progress.mute():
    progress.report_images(64, None)
    progress.report_images(128, 2.0)
  progress.report_images(1, 1.0)
  assert heard == [(64, None), (128, 2.0)]
