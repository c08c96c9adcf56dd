"""The parts of `experiments/` that are not measurements."""

import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_cuts
from hypothesis import given, settings
from hypothesis import strategies as st

from cmu_jax.audits import shadow
from cmu_jax.core import jit, tree
from cmu_jax.core.types import Network, Variables
from cmu_jax.methods.cuts import alpha_rules, cross_fitting

FOLDER = pathlib.Path(__file__).parents[1] / 'experiments'


def load(name):
  """Imports a script; its folder is on the path only meanwhile."""
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(FOLDER))
    return importlib.import_module(name)


@pytest.mark.parametrize(
  'name', sorted(path.stem for path in FOLDER.glob('*.py'))
)
def test_every_script_can_be_imported(name):
  if name.startswith('bench_torch'):
    pytest.importorskip('torch')
  load(name)


# Benchmark of shadow models.


def test_accuracy_is_of_points_that_a_model_did_not_see():
  inside = np.array([[True, True, False, False], [False, False, True, True]])
  hits = np.array([[True, True, False, True], [False, False, True, True]])
  unseen = load('bench_shadow_cases').unseen(hits, inside)
  np.testing.assert_array_equal(unseen, [0.5, 0.0])


def test_both_sides_train_on_the_same_points_for_as_long():
  pytest.importorskip('torch')
  torch_side = load('bench_torch_shadow')
  rows = torch_side.torch.arange(10)[::2]
  order = torch_side._order(rows, steps=7, batch=5)
  assert order.shape == (7, 5)
  # Batches are cut from permutations: each point once an epoch.
  assert all(sorted(epoch) == [0, 2, 4, 6, 8] for epoch in order.tolist())
  assert {'mlp32', 'mlp128', 'mlp784'} == set(load('bench_shadow_cases').CASES)


def test_the_figure(tmp_path):
  rows = [
    {'case': 'mlp32', 'models': k, 'group': g, 'steady': k, 'peak_mib': 9.0}
    for g in (0, 8)
    for k in (2, 4)
  ]
  load('bench_shadow').plot(rows, tmp_path / 'a.png')
  assert (tmp_path / 'a.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.slow
def test_our_side_learns():
  cases = load('bench_shadow_cases')
  size = len(cases.digits(8).label)
  inside = shadow.assign_halves(jax.random.key(0), 4, size)
  _, hits = cases.train_shadows('mlp32', inside, 0)
  assert cases.unseen(hits, inside).mean() > 0.93


# The table of pre-trained networks. Accuracy of (corrupted, CUTS, oracle), a
# row a seed.
ACCURACIES = {
  'pretrained': [(0.50, 0.58, 0.70), (0.52, 0.62, 0.70)],
  'norm_scratch': [(0.30, 0.30, 0.31), (0.31, 0.29, 0.31)],
}


def table_rows():
  return [
    {
      'noise': '0.4',
      'arm': arm,
      'seed': seed,
      'method': method,
      'test_accuracy': accuracy,
    }
    for arm, seeds in ACCURACIES.items()
    for seed, accuracies in enumerate(seeds)
    for method, accuracy in zip(
      ('corrupted', 'cuts', 'oracle'), accuracies, strict=True
    )
  ]


def test_gains_and_recovery_are_of_means():
  lines = load('pretrained_table').summarize(table_rows())
  lines = {(line['arm'], line['method']): line for line in lines}
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


def test_nothing_to_recover_has_no_recovery(capsys):
  table = load('pretrained_table')
  lines = table.summarize(
    [{**row, 'test_accuracy': 0.3} for row in table_rows()]
  )
  assert all(line['recovery_of_means'] is None for line in lines)
  table.print_table(lines)
  assert '| norm_scratch | oracle | 2 | 0.300 |' in capsys.readouterr().out


# A coefficient for each block.

PARAMS = {
  'body': {
    'one': {'kernel': jnp.ones(3), 'bias': jnp.ones(2)},
    'two': {'kernel': 2 * jnp.ones(3)},
    'norm': {'scale': jnp.ones(2)},
  },
  'head': {'kernel': jnp.ones(4)},
  'steps': jnp.int32(7),
}
TAU = jax.tree.map(lambda x: jnp.ones_like(x) + 0.5, PARAMS)
TAU['body']['norm']['scale'] = jnp.zeros(2)
TAU['steps'] = PARAMS['steps']
BLOCKS = ('body/one', 'body/two', 'head')
GRID = np.array([0.0, 0.5, 1.0, 2.0])


def test_blocks_are_the_layers_that_the_task_vector_moves():
  script = load('block_alpha')
  assert script.block_names(TAU) == BLOCKS
  assert script.block_names({'w': jnp.ones(2)}) == ('w',)
  deep = {'body': {'stage': {'conv': {'kernel': jnp.ones(1)}}}}
  assert script.block_names(deep) == ('body/stage/conv',)
  assert script.block_names(deep, script.stage_of) == ('body/stage',)


@settings(max_examples=20, deadline=None)
@given(alphas=st.lists(st.floats(-4, 4, width=32), min_size=3, max_size=3))
def test_each_block_takes_its_own_step_and_nothing_else_moves(alphas):
  edit = load('block_alpha').edit
  edited = jax.jit(lambda a: edit(PARAMS, TAU, a, BLOCKS))(
    jnp.asarray(alphas, jnp.float32)
  )
  expected = [tree.edit(PARAMS, TAU, a) for a in alphas]
  pairs = [
    (edited['body'][name][leaf], expected[i]['body'][name][leaf])
    for i, name in enumerate(('one', 'two'))
    for leaf in PARAMS['body'][name]
  ]
  pairs.append((edited['head']['kernel'], expected[2]['head']['kernel']))
  for actual, desired in pairs:
    np.testing.assert_allclose(actual, desired, rtol=1e-5, atol=1e-5)
  np.testing.assert_array_equal(edited['body']['norm']['scale'], np.ones(2))
  assert edited['steps'] == 7


def bowl(alphas):
  """Highest at (2, 0, 1); the blocks do not interact."""
  return -((alphas - np.array([2.0, 0.0, 1.0])) ** 2).sum(axis=1)


def test_a_climb_ends_where_no_block_gains_and_counts_its_calls():
  calls = []

  def score(alphas):
    calls.append(alphas.shape)
    return bowl(alphas)

  climb = load('block_alpha').climb(score, BLOCKS, 0.75, GRID, sweeps=9)
  np.testing.assert_array_equal(climb.alphas, [2.0, 0.0, 1.0])
  assert climb.start == 0.75 and climb.J[0] == pytest.approx(-2.1875)
  assert climb.J[1:] == [0.0, 0.0]  # the second sweep moves nothing: the end
  assert calls == 6 * [(5, 3)]


def test_a_tie_is_no_move_and_a_sum_is_climbed_together():
  climb = load('block_alpha').climb
  flat = climb(lambda alphas: np.zeros(len(alphas)), BLOCKS, 0.75, GRID)
  np.testing.assert_array_equal(flat.alphas, 3 * [0.75])
  coupled = lambda alphas: -((alphas.sum(axis=1) - 4) ** 2)
  result = climb(coupled, BLOCKS, 1.0, GRID, sweeps=3)
  assert result.alphas.sum() == 4 and sorted(result.J) == result.J


@pytest.mark.slow
def test_the_score_is_the_cross_fitted_one_and_one_alpha_is_a_case_of_it():
  script, model = load('block_alpha'), test_cuts.MODELS['fc']
  image = jnp.zeros((1, *test_cuts.SHAPE))
  variables = jit.compile_cheaply(model.init)(jax.random.key(0), image)
  proxy = test_cuts.noisy_proxy()
  folds = cross_fitting.split(jax.random.key(4), proxy, 2)
  draw = lambda seed: jax.tree.map(
    lambda x: np.random.default_rng(seed).normal(0, 0.2, x.shape),
    variables.params,
  )
  tau = jax.tree.map(
    lambda a, b: jnp.asarray(np.stack([a, b]), jnp.float32), draw(1), draw(2)
  )
  blocks = script.block_names(tree.index(tau, 0))
  network = Network(model, test_cuts.STEP)
  score = script.scorer(network, variables, folds, tau, blocks)
  vectors = np.array([[0.5] * len(blocks), [0.0] * (len(blocks) - 1) + [2.0]])
  scores = score(vectors)
  held_out = [test_cuts.STEP.eval(proxy.image[x], None) for x in folds.held_out]
  classes = model.apply(variables, held_out[0]).shape[1]
  k = alpha_rules.neighbour_count(held_out[0].shape[0], classes)
  for row, alphas in enumerate(vectors):
    expected = []
    for fold, images in enumerate(held_out):
      direction = tree.index(tau, fold)
      params = tree.edit(variables.params, direction, 0.5)
      if row:
        params = dict(variables.params)
        params['head'] = tree.edit(
          params['head'], direction['head'], alphas[-1]
        )
      edited = Variables(params, variables.batch_stats)
      features = model.features(edited, images)
      logits = model.head(edited, features)
      expected.append(float(alpha_rules.agreement(features, logits, k=k).J))
    assert scores[row] == pytest.approx(np.mean(expected), abs=1e-3)
