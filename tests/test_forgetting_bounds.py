"""AMUN's trainings under a bound on every layer's norm."""

import pathlib

import jax
import numpy as np
import pytest

from cmu_jax.core import config as configs
from cmu_jax.core import errors
from cmu_jax.robustness import spectral
from cmu_jax.studies.engine import bounds
from cmu_jax.studies.subsets import addresses, references, sweep, verdict, world

ROOT = pathlib.Path(__file__).parents[1]
SPEC = f'{ROOT}/configs/amun_digits.py:smoke,references=2,width=8'
FIELDS = {'train_limit': '60', 'test_limit': '40', 'clip.every': '1'}


def loaded(folder, clip, **fields):
  spec = f'{SPEC},clip={clip}'
  return world.load(configs.load(spec, FIELDS | fields).config, folder)


def norms(where, variables):
  layers = spectral.find_layers(where.model.apply, variables, (8, 8, 1))
  dense = [np.asarray(spectral.subtree(variables.params, x.path)['kernel'])
           for x in layers]  # fmt: skip
  return [float(np.linalg.svd(x, compute_uv=False)[0]) for x in dense]


def test_original_and_retrained_networks_keep_the_bound(tmp_path):
  free, held = loaded(tmp_path, 0.0), loaded(tmp_path, 0.5)
  assert max(norms(free, sweep.original(free, 0))) > 0.6
  network = sweep.original(held, 0)
  assert max(norms(held, network)) <= 0.5 * 1.0011
  assert bounds.largest(held.bounded, network) <= 0.5 * 1.0011
  assert bounds.largest(free.bounded, network) is None
  method = held.methods['retrain']
  given = world.give(held.dataset.train, np.arange(6), method.needs)
  key = jax.random.key(0)
  ready = method.prepare(key, network, given)
  found, _ = method.solve(key, network, given, ready, method.grid[0])
  assert max(norms(held, found)) <= 0.5 * 1.0011


def test_references_do_too_and_nothing_is_mixed_up(tmp_path):
  held = loaded(tmp_path, 0.5)
  low = references.references(held).probability
  high = references.references(loaded(tmp_path, 0.0)).probability
  # With norms of a half, 10 classes can hardly be told apart.
  assert low.max() < high.max()
  assert addresses.trained(held, 'x') != addresses.trained(
    loaded(tmp_path, 0.6), 'x'
  )


def test_rows_say_how_large_the_norms_are(tmp_path):
  run = sweep.begin(loaded(tmp_path, 0.5, methods='ft,'), None)
  cell = addresses.Cell(0, 0, 'none', 0)
  assert sweep._solved(run, cell, ({},))[0]['largest_norm'] <= 0.5 * 1.0011
  tuned = addresses.Cell(0, 0, 'ft', 0)
  (row,) = sweep._solved(run, tuned, ({'learning_rate': 0.1},))
  assert row['largest_norm'] > 0.5


def test_batch_norm_and_impossible_bounds_are_one_line(tmp_path):
  spec = f'{SPEC},clip=1.0'
  config = configs.load(spec, FIELDS).config
  config.unlock()
  config.model = {'name': 'resnet18', 'width': 2, 'dtype': 'float32'}
  with pytest.raises(errors.UserError, match=r'model\.norm=none'):
    world.load(config, tmp_path)
  for field, value in (('bound', '-1.0'), ('every', '0')):
    with pytest.raises(errors.UserError, match=f'config.clip.{field}'):
      loaded(tmp_path, 1.0, **{f'clip.{field}': value})


@pytest.mark.parametrize(('tied', 'blind'), [(0.999, True), (0.5, False)])
def test_the_verdict_says_where_rmia_is_blind(tied, blind):
  row = {
    'method': 'none',
    'ft_auc': 0.6,
    'rmia_tied': tied,
    'ft_auc_rmia_ratio': 0.72,
  }
  said = verdict._blind({'rows': [row]})
  assert bool(said) == blind
  assert ('72.0' in said) == blind
