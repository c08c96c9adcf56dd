"""The table that says whether it is the pre-training."""

import importlib
import pathlib

import numpy as np
import pytest

SCRIPTS = pathlib.Path(__file__).parents[1] / 'experiments'
# Accuracy of (corrupted, CUTS, oracle), a row a seed.
CELLS = {
  'pretrained': [(0.50, 0.58, 0.70), (0.52, 0.62, 0.70)],
  'norm_scratch': [(0.30, 0.30, 0.31), (0.31, 0.29, 0.31)],
}


@pytest.fixture
def table(monkeypatch):
  monkeypatch.syspath_prepend(str(SCRIPTS))
  return importlib.import_module('pretrained_table')


def _rows():
  for arm, seeds in CELLS.items():
    for seed, accuracies in enumerate(seeds):
      low, high = accuracies[0], accuracies[2]
      for method, accuracy in zip(
        ('corrupted', 'cuts', 'oracle'), accuracies, strict=True
      ):
        lost = high - low
        recovery = 100 * (accuracy - low) / lost if lost else None
        yield {
          'noise': '0.4',
          'arm': arm,
          'seed': seed,
          'method': method,
          'test_accuracy': accuracy,
          'recovery_percent': recovery,
        }


def test_gains_and_recovery_are_of_means(table):
  lines = {(x['arm'], x['method']): x for x in table.summary(list(_rows()))}
  cuts = lines['pretrained', 'cuts']
  assert cuts['gain_points']['mean'] == pytest.approx(9)
  # 9 of 19 points, not the mean of 40 % and 56 %.
  assert cuts['recovery_of_means'] == pytest.approx(100 * 9 / 19)
  half = 12.706 * np.std([8, 10], ddof=1) / np.sqrt(2)
  assert cuts['gain_points']['low'] == pytest.approx(9 - half, abs=1e-3)
  scratch = lines['norm_scratch', 'cuts']
  assert scratch['gain_points']['mean'] == pytest.approx(-1)
  assert scratch['pretrained_minus_this_points']['mean'] == pytest.approx(10)
  assert 'pretrained_minus_this_points' not in cuts


def test_nothing_to_recover_has_no_recovery(table, capsys):
  rows = [{**row, 'test_accuracy': 0.3} for row in _rows()]
  lines = table.summary(rows)
  assert all(line['recovery_of_means'] is None for line in lines)
  table.show(lines)
  assert '| norm_scratch | oracle | 2 | 0.300 |' in capsys.readouterr().out
