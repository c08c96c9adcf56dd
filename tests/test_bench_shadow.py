"""The parts of the benchmark of shadow models that are not timings."""

import importlib
import pathlib

import jax
import numpy as np
import pytest

from cmu_jax.audits import shadow

EXPERIMENTS = pathlib.Path(__file__).parents[1] / 'experiments'


@pytest.fixture
def load(monkeypatch):
  monkeypatch.syspath_prepend(str(EXPERIMENTS))
  return importlib.import_module


def test_accuracy_is_of_points_that_a_model_did_not_see(load):
  inside = np.array([[True, True, False, False], [False, False, True, True]])
  hits = np.array([[True, True, False, True], [False, False, True, True]])
  unseen = load('bench_shadow_cases').unseen(hits, inside)
  np.testing.assert_array_equal(unseen, [0.5, 0.0])


def test_both_sides_train_on_the_same_points_for_as_long(load):
  pytest.importorskip('torch')
  posed, theirs = load('bench_shadow_cases'), load('bench_torch_shadow')
  rows = theirs.torch.arange(10)[::2]
  order = theirs._order(rows, steps=7, batch=5)
  assert order.shape == (7, 5)
  # Batches are cut from permutations: each point once an epoch.
  assert all(sorted(epoch) == [0, 2, 4, 6, 8] for epoch in order.tolist())
  assert {'mlp32', 'mlp128', 'mlp784'} == set(posed.CASES)


def test_the_figure(load, tmp_path):
  rows = [
    {'case': 'mlp32', 'models': k, 'group': g, 'steady': k, 'peak_mib': 9.0}
    for g in (0, 8)
    for k in (2, 4)
  ]
  load('bench_shadow').plot(rows, tmp_path / 'a.png')
  assert (tmp_path / 'a.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.slow
def test_our_side_learns(load):
  posed = load('bench_shadow_cases')
  size = len(posed.data(8).label)
  inside = shadow.assign_halves(jax.random.key(0), 4, size)
  _, hits = posed.ours('mlp32', inside, 0)
  assert posed.unseen(hits, inside).mean() > 0.93
