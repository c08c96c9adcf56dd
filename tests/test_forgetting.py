"""Forget sets, references, gaps and settings; one method by hand."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest
import unlearning_case as case
from hypothesis import given, settings
from hypothesis import strategies as st

from cmu_jax.audits import shadow
from cmu_jax.core import config as configs
from cmu_jax.core import errors
from cmu_jax.core.types import (
  Batch,
  Method,
  MethodInputs,
  Network,
  Variables,
)
from cmu_jax.methods import ascent
from cmu_jax.studies.engine import catalogue, gaps, grids, pool, run
from cmu_jax.studies.subsets import measure, requests, trials, world
from cmu_jax.studies.subsets import settings as run_settings

ROOT = pathlib.Path(__file__).parents[1]


def config(**changes):
  """Settings of a tiny run; '__' stands for the dot."""
  spec = f'{ROOT}/configs/amun_digits.py:smoke,references=0,width=8'
  fields = {name.replace('__', '.'): v for name, v in changes.items()}
  return configs.load(spec, fields).config


@pytest.fixture(scope='module')
def context(tmp_path_factory):
  small = config(train_limit='60', test_limit='40', methods='ft,')
  folder = tmp_path_factory.mktemp('context')
  return run.make_context(small, world.load(small, folder), folder)


def test_forget_sets():
  small = config(fraction='0.25')
  found = world.draw_forget_set(small, 3, 41)
  assert found.shape == (10,)
  assert (np.diff(found) > 0).all()
  assert 0 <= found[0] <= found[-1] < 41
  np.testing.assert_array_equal(found, world.draw_forget_set(small, 3, 41))
  assert (world.draw_forget_set(small, 4, 41) != found).any()


@pytest.mark.parametrize('seed', [1, 10, 100])
def test_published_forget_sets_are_those_of_numpys_legacy_generator(seed):
  published = config(fraction='0.1', published_indices='true')
  found = world.draw_forget_set(published, seed, 50000)
  np.random.seed(seed)
  wanted = np.random.choice(50000, 5000, replace=False)
  np.testing.assert_array_equal(found, np.sort(wanted))


def test_methods_see_what_they_declare_and_nothing_twice():
  label = np.arange(20, dtype=np.int32)
  train = Batch(np.zeros((20, 2, 2, 1), np.uint8), label)
  forget = np.array([3, 7, 19])
  found = pool.select_inputs(train, forget, ('retain', 'forget'))
  np.testing.assert_array_equal(found.forget.batch.label, forget)
  rest = np.setdiff1d(label, forget)
  np.testing.assert_array_equal(found.retain.batch.label, rest)
  assert found.forget.identified.all()
  assert not found.retain.identified.any()
  assert found.retain.valid.all()
  alone = pool.select_inputs(train, forget, ('forget',))
  assert alone.retain is None


def row(ua, ra, ta, auc, diverged=False):
  values = (ua, ra, ta, auc)
  names = gaps.gap_columns('confidence')
  return {**dict(zip(names, values, strict=True)), 'diverged': diverged}


RETRAINED = [row(0.9, 1.0, 0.9, 0.48), row(0.92, 1.0, 0.88, 0.52)]


def test_a_gap_by_hand():
  rows = [row(0.93, 0.99, 0.89, 0.54), row(0.89, 0.99, 0.91, 0.46)]
  found = gaps.compute_gap(rows, RETRAINED, 'confidence')
  assert found.of_means == pytest.approx((0 + 1 + 1 + 0) / 4)
  assert found.parts == pytest.approx((2, 1, 1, 4))
  assert found.of_runs == pytest.approx(2)
  assert found.std == pytest.approx(np.std([1.75, 2.25], ddof=1))
  assert gaps.compute_gap(rows[:1], RETRAINED, 'confidence').std is None


RUNS = st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=5)


@settings(deadline=None, max_examples=50)
@given(RUNS, RUNS)
def test_the_mean_of_gaps_is_never_below_the_gap_of_means(rows, retrained):
  sides = [[row(*values) for values in side] for side in (rows, retrained)]
  found = gaps.compute_gap(*sides, 'confidence')
  assert found.of_runs >= found.of_means - 1e-9


def test_runs_that_diverged_are_left_out_of_a_gap():
  gone = {'diverged': True}
  rows = [RETRAINED[0], gone]
  alone = gaps.compute_gap(rows[:1], RETRAINED, 'confidence')
  assert gaps.compute_gap(rows, RETRAINED, 'confidence') == alone
  assert gaps.compute_gap([gone], RETRAINED, 'confidence') is None
  assert gaps.compute_gap(rows, RETRAINED, 'rmia') is None


def test_the_nearest_point_is_chosen_unless_it_diverged_once():
  near, far = RETRAINED, [row(0.1, 0.1, 0.1, 0.9)] * 2
  gone = [near[0], {'diverged': True}]
  choose = lambda *points: gaps.choose_point(points, RETRAINED, 'confidence')
  assert choose(far, near, far) == 1
  assert choose(far, gone, far) == 0
  assert choose(gone, gone, gone) == 2


def test_measures_of_a_network_that_knows_its_training_set(context):
  """Surest on D_R, right on half of D_F and on three quarters of D_T."""
  label = np.asarray(context.world.pool.label)
  trained = context.world.dataset.train.label.shape[0]
  forget = np.arange(0, 40, 10)
  test = np.arange(trained, label.size)
  where = measure.split_pool(context.world, forget)
  np.testing.assert_array_equal(np.flatnonzero(where.forget), forget)
  np.testing.assert_array_equal(np.flatnonzero(where.unseen), test)
  wrong = np.isin(np.arange(label.size), [*forget[::2], *test[::4]])
  logits = np.zeros((label.size, 10), np.float32)
  logits[np.arange(label.size), (label + wrong) % 10] = 3
  logits[where.retain] *= 3
  found = measure.measure(context, logits, forget, None)
  assert found['forget_accuracy'] == 0.5
  assert found['retain_accuracy'] == 1
  right = 1 - len(test[::4]) / len(test)
  assert found['test_accuracy'] == pytest.approx(right)
  assert found['rt_auc'] == found['fr_auc'] == 1
  above = 0.5 * (1 - right)
  equal = 0.5 * right + 0.5 * (1 - right)
  assert found['ft_auc'] == pytest.approx(above + equal / 2)
  assert found['mis'] == 1
  assert found['ft_auc_rmia'] is None
  assert found['ft_tpr_1_percent'] is None


def test_rmia_is_measured_with_references(context):
  size = context.world.pool.label.shape[0]
  forget = np.arange(0, 40, 5)
  logits = np.random.default_rng(1).normal(0, 2, (size, 10))
  logits = logits.astype(np.float32)
  inside = shadow.assign_halves(jax.random.key(0), 6, size)
  probability = pool.compute_signal(context.world, 'taylor_softmax', logits)[
    None, :
  ]
  known = measure.References(np.repeat(probability, 6, axis=0), inside)
  found = measure.measure(context, logits, forget, known)
  # The references say what the network says: nothing stands out.
  assert found['rmia_tied'] == 1
  assert found['ft_auc_rmia'] == found['rt_auc_rmia'] == 0.5


def test_requests_are_disjoint_and_drawn_once():
  small = config(requests='4', request_share='0.05', methods='ft,amun')
  found = requests.draw_requests(small, 2, 90)
  assert found.shape == (4, 4)
  assert np.unique(found).size == 16
  np.testing.assert_array_equal(found, requests.draw_requests(small, 2, 90))
  more = config(requests='5', request_share='0.05', methods='ft,amun')
  sorted_ = requests.draw_requests(more, 2, 90)[:4]
  np.testing.assert_array_equal(found, sorted_)


def test_requests_one_after_another(context, monkeypatch):
  """Each begins where the last ended, and is no longer retained after it."""
  small = config(
    train_limit='60', test_limit='40', methods='ft,amun', requests='2'
  )
  monkeypatch.setattr(requests, 'KINDS', {'ft': ('ft', False)})
  context = dataclasses.replace(context, config=small)
  cells = requests.list_cells(context, {'ft': {'learning_rate': 0.5}})
  rows = [
    (cell.item.method, row['request'])
    for cell in cells
    for row in cell.compute()['rows']
  ]
  assert rows == [('none', 1), ('none', 2), ('ft', 1), ('ft', 2)]
  trained = context.world.dataset.train.label.shape[0]
  index = requests.draw_requests(small, small.forget_seeds[0], trained)
  gone = measure.split_pool(context.world, index[1], index[0])
  assert not gone.retain[index[0]].any()
  assert not gone.forget[index[0]].any()
  assert gone.retain.sum() == trained - index.size
  # A method without hyperparameters has no cells yet.
  waiting = requests.list_cells(context, {})
  assert [cell.item.method for cell in waiting] == ['none']


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'fraction': '0'}, r'config\.fraction is 0'),
    ({'fraction': '1'}, r'config\.fraction is 1'),
    ({'methods': 'ft,amum'}, "did you mean 'amun'"),
    ({'methods': 'ft,ft'}, 'different ones'),
    ({'attack': 'rmia'}, 'needs references'),
    ({'attack': 'all'}, 'unknown config.attack'),
    ({'references': '3'}, 'an even number'),
    ({'runs': '0'}, 'at least 1'),
    ({'requests': '3', 'request_share': '0.4'}, 'something to retain'),
    ({'requests': '3', 'methods': 'ft,'}, 'needs the method amun'),
    ({'tuning_seeds': '0,7'}, r'share \[0\]'),
    ({'forget_seeds': '-1,'}, r'config\.forget_seeds'),
    ({'seeds': '1,1'}, r'config\.seeds'),
    ({'learning_rates': '0.1,0.'}, 'learning_rates'),
    ({'rmia__signal': 'loss'}, r'config\.rmia\.signal'),
    ({'unlearn__steps': '0'}, r'config\.unlearn'),
    ({'methods': 'amun_transferred,', 'seeds': '1,'}, 'of another seed'),
  ],
)
def test_settings_that_cannot_be(changes, said):
  with pytest.raises(errors.UserError, match=said):
    run_settings.check(config(**changes))


def test_a_fraction_of_which_nothing_is_left():
  for fraction, forgets in (('0.001', 0), ('0.999', 60)):
    with pytest.raises(errors.UserError, match=f'forgets {forgets}'):
      world.forget_count(config(fraction=fraction), 60)


def test_all_methods_have_the_learning_rates_as_grid():
  small = config()
  sizes = catalogue.Sizes(30, 10)
  model, inputs = case.network()[0], case.PIXELS
  for name in set(catalogue.ENTRIES) - {'retrain'}:
    method = catalogue.make(small, Network(model, inputs), sizes, name)
    rates = [point['learning_rate'] for point in method.grid]
    assert rates == list(small.learning_rates)
    alone = name.endswith(('_alone', '_forget'))
    assert alone == ('retain' not in method.needs)
    told = catalogue.describe_inputs(name, method)
    assert told == ('weights + D_F' if alone else told)
  retrain = catalogue.make(small, Network(model, inputs), sizes, 'retrain')
  assert retrain.grid == ({},)
  assert catalogue.describe_inputs('retrain', retrain) == 'D_R'


def test_ascent_between_epochs_by_hand():
  """A step down on D_R, one up on D_F, and again."""
  problem = case.given()
  _, _, found, info = case.solved(
    ascent.alternating_ascent, None, problem, steps=3
  )
  down = lambda params: case.ce(params, problem.retain)
  up = lambda params: -case.ce(params, problem.forget)
  wanted = case.descended([down, up, down], case.start())
  for a, b in zip(
    jax.tree.leaves(wanted), jax.tree.leaves(found.params), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=1e-5)
  assert info['gradient_evaluations'] == 3 * case.COUNT


def test_a_transferred_set_is_of_the_next_seed(context):
  trial = trials.SubsetTrial(1, 0, 'amun_transferred', 0)
  pair, three = (
    dataclasses.replace(context, config=config(seeds=seeds))
    for seeds in ('0,1', '0,1,2')
  )
  assert trials.donor_seed(pair, trial) == 0
  assert trials.donor_seed(three, trial) == 2
  assert trials.donor_seed(three, trial._replace(method='amun')) is None
  address = trials.trial_address
  assert address(pair, trial, ()) != address(three, trial, ())
  seen = []
  method = Method(
    (),
    lambda key, variables, given: seen.append(('prepare', variables)),
    lambda key, variables, *rest: (
      seen.append(('solve', variables)) or variables,
      {'gradient_evaluations': 0},
    ),
  )
  own, other = Variables({'w': 1}, {}), Variables({'w': 2}, {})
  for source, used in ((other, other), (None, own)):
    seen.clear()
    grids.solve_grid(
      case.KEY, method, own, MethodInputs(), ({},), lambda found: {}, source
    )
    assert seen == [('prepare', used), ('solve', own)]


def test_variants_are_one_word_of_the_config():
  spec = f'{ROOT}/configs/amun_digits.py:smoke,references=0,width=8,variants'
  made = configs.load(spec, {}).config
  run_settings.check(made)
  assert len(made.seeds) == 2
  assert {'amun_ffgsm', 'amun_transferred', 'rl_redrawn'} <= set(made.methods)
