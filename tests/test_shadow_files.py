"""Shadow models that are stopped, go on, and lie in files; several devices."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import shadow_case as case

from cmu_jax.audits import shadow
from cmu_jax.core import errors, store
from cmu_jax.training import train

HERE = pathlib.Path(__file__).parent


def plan(folder, **options):
  """Groups of four; every segment is saved."""
  return shadow.Plan(group=4, folder=folder, save_seconds=0.0, **options)


def same(found, wanted):
  assert found.statistics.keys() == wanted.statistics.keys()
  for signal, values in wanted.statistics.items():
    np.testing.assert_array_equal(found.statistics[signal], values)


def stop_after(monkeypatch, count):
  """Ends the process, as far as it can tell, after so many saved states."""
  left = [count]
  saving = store.npz_checkpoint

  def counted(*args):
    checkpoint = saving(*args)

    def save(state, step):
      checkpoint.save(state, step)
      left[0] -= 1
      if not left[0]:
        raise KeyboardInterrupt

    return checkpoint._replace(save=save)

  monkeypatch.setattr(store, 'npz_checkpoint', counted)


@pytest.mark.parametrize('count', [2, pytest.param(7, marks=pytest.mark.slow)])
def test_stopped_in_the_middle_of_a_group(tmp_path, monkeypatch, count):
  whole = case.trained(k=6)
  with monkeypatch.context() as patch:
    patch.setattr(train, '_SEGMENT_SECONDS', 0.0)  # A step a segment.
    stop_after(patch, count)
    with pytest.raises(KeyboardInterrupt):
      case.trained(k=6, plan=plan(tmp_path))
  states = list((tmp_path / 'originals').iterdir())
  assert len(states) == 1
  same(case.trained(k=6, plan=plan(tmp_path)), whole)
  assert list((tmp_path / 'originals').iterdir()) == []
  assert len(list((tmp_path / 'shadow').iterdir())) == 2


def test_what_is_done_is_read(tmp_path, monkeypatch):
  first = case.trained(k=6, plan=plan(tmp_path), weights=True)
  monkeypatch.setattr(train, 'run_segments', None)
  again = case.trained(k=6, plan=plan(tmp_path), weights=True)
  same(again, first)
  for one, other in zip(
    jax.tree.leaves(again.variables),
    jax.tree.leaves(first.variables),
    strict=True,
  ):
    assert one.shape[0] == 6
    np.testing.assert_array_equal(one, other)


def test_other_models_have_other_files(tmp_path):
  case.trained(k=4, plan=plan(tmp_path))
  case.trained(k=4, plan=plan(tmp_path, address='another network'))
  case.trained(k=4, plan=plan(tmp_path), signals={})
  names = {path.name for path in (tmp_path / 'shadow').iterdir()}
  assert len(names) == 3


def test_methods_start_from_the_same_models(tmp_path, monkeypatch):
  inside = shadow.assign_halves(case.KEY, 6, 31)
  forget = inside & (np.arange(31) < 9)[None, :]

  def method(scale):
    halved = lambda key, variables, rest, gone: jax.tree.map(
      lambda x: x * scale, variables
    )
    return {'forget': forget, 'unlearn': halved}

  alone = case.trained(k=6, **method(0.5))
  first = case.trained(k=6, plan=plan(tmp_path, method='a'), **method(0.5))
  monkeypatch.setattr(train, 'run_segments', None)
  other = case.trained(k=6, plan=plan(tmp_path, method='b'), **method(2.0))
  again = case.trained(k=6, plan=plan(tmp_path, method='a'), **method(9.0))
  plain = case.trained(k=6, plan=plan(tmp_path), weights=True)
  for found in (first, other, again, plain):
    same(found, alone)
  for name, values in alone.unlearned.items():
    np.testing.assert_array_equal(first.unlearned[name], values)
    np.testing.assert_array_equal(again.unlearned[name], values)
    assert (other.unlearned[name] != values).any()
  assert first.variables is None
  # Two groups, as trained and for each of two methods.
  assert len(list((tmp_path / 'shadow').iterdir())) == 6


def test_a_broken_file_is_named(tmp_path):
  case.trained(k=4, plan=plan(tmp_path))
  (path,) = (tmp_path / 'shadow').iterdir()
  path.write_bytes(path.read_bytes()[:100])
  with pytest.raises(errors.UserError, match=f'{path.name}.*remove it'):
    case.trained(k=4, plan=plan(tmp_path))


TWO_DEVICES = """
import jax, numpy as np, shadow_case as case
from cmu_jax.audits import shadow
assert len(jax.devices()) == 2
both = case.trained(k=6, weights=True)
one = case.trained(k=6, plan=shadow.Plan(devices=tuple(jax.devices()[:1])))
for signal, values in one.statistics.items():
  np.testing.assert_allclose(both.statistics[signal], values, atol=1e-5)
assert jax.tree.leaves(both.variables)[0].shape[0] == 6
print('agree')
"""


@pytest.mark.slow
def test_two_devices_share_the_models():
  environment = {
    **os.environ,
    'XLA_FLAGS': '--xla_force_host_platform_device_count=2',
    'PYTHONPATH': f'{HERE}{os.pathsep}{HERE.parent}',
  }
  done = subprocess.run(
    [sys.executable, '-c', TWO_DEVICES],
    capture_output=True,
    text=True,
    env=environment,
    check=False,
  )
  assert done.stdout.strip() == 'agree', done.stderr
