"""AMUN's trainings under a bound on every layer's norm."""

import pathlib

import jax
import numpy as np
import pytest

from cmu_jax.core import config as configs
from cmu_jax.core import errors
from cmu_jax.robustness import spectral
from cmu_jax.studies.engine import bounds, pool, references, run
from cmu_jax.studies.engine.store import TimeIsUp
from cmu_jax.studies.subsets import report, settings, trials, world

ROOT = pathlib.Path(__file__).parents[1]
SPEC = f'{ROOT}/configs/amun_digits.py:smoke,references=2,width=8'
FEW = {'references': '0', 'attack': 'confidence'}
FIELDS = {'train_limit': '60', 'test_limit': '40', 'clip.every': '1'}


def loaded(folder, clip, **fields):
  spec = f'{SPEC},clip={clip}'
  config = configs.load(spec, FIELDS | fields).config
  settings.check(config)
  return run.make_context(config, world.load(config, folder), folder)


def norms(context, variables):
  apply = context.world.network.model.apply
  layers = spectral.find_layers(apply, variables, (8, 8, 1))
  dense = [np.asarray(spectral.subtree(variables.params, x.path)['kernel'])
           for x in layers]  # fmt: skip
  return [float(np.linalg.svd(x, compute_uv=False)[0]) for x in dense]


def test_original_and_retrained_networks_keep_the_bound(tmp_path):
  free, held = loaded(tmp_path, 0.0), loaded(tmp_path, 0.5)
  assert max(norms(free, pool.train_original(free, 0))) > 0.6
  network = pool.train_original(held, 0)
  assert max(norms(held, network)) <= 0.5 * 1.0011
  assert bounds.largest_norm(held.world.bounded, network) <= 0.5 * 1.0011
  assert bounds.largest_norm(free.world.bounded, network) is None
  method = held.world.methods['retrain']
  train = held.world.dataset.train
  data = pool.select_inputs(train, np.arange(6), method.needs)
  key = jax.random.key(0)
  ready = method.prepare(key, network, data)
  found, _ = method.solve(key, network, data, ready, method.grid[0])
  assert max(norms(held, found)) <= 0.5 * 1.0011


def train_references(context):
  """The probabilities of the label under the references."""
  for cell in references.list_groups(trials.reference_job(context)):
    cell.compute()
  return trials.get_references(context).probability


def test_references_do_too_and_nothing_is_mixed_up(tmp_path):
  contexts = [loaded(tmp_path, clip) for clip in (0.5, 0.0, 0.6)]
  low, high = map(train_references, contexts[:2])
  # With norms of a half, 10 classes can hardly be told apart.
  assert low.max() < high.max()
  names = {pool.network_address(context, 'x') for context in contexts}
  assert len(names) == 3


def test_references_are_read_and_never_trained_by_a_cell(tmp_path):
  context = loaded(tmp_path, 0.0)
  with pytest.raises(TimeIsUp):
    trials.get_references(context)


def test_rows_say_how_large_the_norms_are(tmp_path):
  context = loaded(tmp_path, 0.5, methods='ft,', **FEW)
  trial = trials.SubsetTrial(0, 0, 'none', 0)
  (row,) = trials.solve_trial(context, trial, ({},))
  assert row['largest_norm'] <= 0.5 * 1.0011
  trial = trials.SubsetTrial(0, 0, 'ft', 0)
  (row,) = trials.solve_trial(context, trial, ({'learning_rate': 0.1},))
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
  said = report._describe_ties({'rows': [row]})
  assert bool(said) == blind
  assert ('72.0' in said) == blind
