"""A CLIP forgets: settings, cells, tables, and a whole run in memory."""

import json
import pathlib

import clip_case
import jax
import numpy as np
import pytest
from jax import numpy as jnp

from cmu_jax.core import config, errors, provenance
from cmu_jax.core.types import Batch
from cmu_jax.data import input_step
from cmu_jax.networks import clip
from cmu_jax.networks.clip import architecture, heads, zero_shot
from cmu_jax.report import frame
from cmu_jax.studies.engine import recipes, run
from cmu_jax.studies.negation import report, settings, study
from cmu_jax.studies.negation.world import DataSet, Task, World
from cmu_jax.training import small_clip

STEP = input_step.make(zero_shot.MEAN, zero_shot.STD)
SIDE = 8
CONFIG = f'{pathlib.Path(__file__).parents[1]}/configs/negation_clip.py'
SIZES = small_clip.small_sizes(SIDE, 4, 16, 1)


def _coloured(colours, count, seed):
  """Images of one colour a class, with noise."""
  rng = np.random.default_rng(seed)
  label = np.arange(count) % len(colours)
  image = np.asarray(colours)[label][:, None, None, :]
  noise = rng.integers(-40, 40, (count, SIDE, SIDE, 3))
  pixels = np.clip(image + noise, 0, 255).astype(np.uint8)
  return Batch(jnp.asarray(pixels), jnp.asarray(label, jnp.int32))


WARM = ('red', 'orange'), [(220, 30, 30), (230, 160, 40)]
COLD = ('blue', 'green'), [(40, 40, 220), (40, 200, 60)]


@pytest.mark.slow  # compiled with all optimisations
def test_a_small_clip_learns_or_says_that_it_did_not():
  names, colours = (a + b for a, b in zip(WARM, COLD, strict=True))
  data = small_clip.CaptionedImages(
    _coloured(colours, 256, 0), names, ('a {} picture.',)
  )
  fit = lambda steps: small_clip.train_small_clip(
    jax.random.key(0), SIZES, data, STEP, steps=steps, learning_rate=3e-3
  )
  found = fit(60)
  unseen = data._replace(batch=_coloured(colours, 64, 1))
  assert small_clip.check_accuracy(found, unseen, STEP) > 0.9
  # The table of tokens is what it was; the rest is not.
  first = clip.bind(SIZES).init(jax.random.split(jax.random.key(0))[0])
  table = lambda v: v.params['text_model']['embeddings']['token_embedding']
  assert np.allclose(
    table(found.variables)['embedding'], table(first)['embedding'], atol=1e-6
  )
  swapped = unseen._replace(class_names=names[1:] + names[:1])
  with pytest.raises(errors.UserError, match='less than 3 times chance'):
    small_clip.check_accuracy(found, swapped, STEP)


def test_what_was_trained_here_is_read_like_any_other(tmp_path):
  variables = clip_case.variables(SIZES)
  found = clip.LoadedClip(SIZES, variables, *clip.export(variables))
  path = clip_case.ship(
    tmp_path, found.stored.arrays, config=architecture.to_config(SIZES)
  )
  back = clip.load(path)
  assert back.sizes == SIZES
  assert all(
    np.array_equal(a, b)
    for a, b in zip(
      jax.tree.leaves(back.variables), jax.tree.leaves(variables), strict=True
    )
  )
  odd = clip_case.SIZES
  (tmp_path / 'config.json').write_text(json.dumps(architecture.to_config(odd)))
  assert architecture.from_config(tmp_path / 'config.json') == odd


MISTAKES = {
  'control': ({'forget': ('imagenet2012',), 'epochs': (1,)}, 'is the control'),
  'epochs': ({'forget': ('mnist', 'dtd')}, '8 numbers for 2 data sets'),
  'method': ({'methods': ('negmerg',)}, "did you mean 'negmerge'"),
  'floor': ({'floor': 1.5}, 'config.floor is 1.5'),
  'lambdas': ({'lambdas': 1}, 'config.lambdas is 1'),
  'ways': ({'ways': ((1.0, 0.0, 0.1, 0),)}, 'above 0'),
  'twice': ({'forget': ('mnist', 'mnist'), 'epochs': ()}, 'different data'),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_settings_that_cannot_be_are_one_line(name):
  changes, words = MISTAKES[name]
  made = settings.base('x')
  settings.check(made)
  made.update(changes)
  with pytest.raises(errors.UserError, match=words) as caught:
    settings.check(made)
  assert '\n' not in str(caught.value)


def test_each_seed_fine_tunes_in_its_own_way():
  made = settings.base('x')
  found = [settings.tuning_recipe(made, 3, seed) for seed in range(7)]
  # The fourth set is trained on for 11 passes.
  assert [one.epochs for one in found[:3]] == [11, 16, 6]
  assert [one.learning_rate for one in found[:3]] == [1e-5, 5e-6, 2e-5]
  assert [one.weight_decay for one in found[:3]] == [0.1, 0.1, 0.0]
  assert [settings.crop_padding(made, seed) for seed in range(3)] == [0, 2, 2]
  assert config.to_json(found[6]) == config.to_json(found[0])
  made.ways = ()
  assert settings.tuning_recipe(made, 3, 1) == settings.tuning_recipe(
    made, 3, 0
  )
  assert settings.crop_padding(made, 1) == 0
  made.epochs, made.train.epochs, made.train.steps = (), 0, 7
  made.ways = ((1.0, 0.01, 0.0, 0),)
  assert settings.tuning_recipe(made, 0, 0).steps == 1


def test_the_published_sets_and_the_cells_of_a_run():
  loaded = config.load(CONFIG).config
  assert len(loaded.forget) == 8 and loaded.dataset == 'imagenet2012'
  assert loaded.lambdas == 21 and loaded.floor == 0.95
  vectors = [v for i in range(8) for v in study.list_vectors(loaded, i)]
  assert len(vectors) == 8 * (3 + 2) == len(set(vectors))
  one = config.load(CONFIG, {'seeds': '4'}).config
  assert {v.method for v in study.list_vectors(one, 0)} == {'task_vector'}


def _results(**changes):
  row = {
    'forget_set': 'mnist',
    'method': 'task_vector',
    'seed': 0,
    'strength': 0.4,
    'feasible': True,
    'tuned_accuracy': 0.99,
    'forget_accuracy_before': 0.5,
    'forget_accuracy': 0.2,
    'control_accuracy_before': 0.6,
    'control_accuracy': 0.57,
  }
  rows = [row, {**row, 'seed': 1, 'forget_accuracy': 0.3}]
  rows.append({**row, 'method': 'negmerge', 'seed': None, 'strength': 1.0})
  rows += [{**r, 'forget_set': 'dtd', 'forget_accuracy': 0.1} for r in rows]
  return {'rows': rows, 'control': 'cifar10', 'finished': True, **changes}


def test_tables_are_means_over_seeds_and_sets():
  table = {row[:2]: row[2:] for row in report.summary_rows(_results())}
  assert table['mnist', 'a task vector'][3] == '0.250'
  assert table['mean of 2', 'a task vector'][3] == '0.175'
  assert table['mean of 2', 'NegMerge'][3] == '0.150'
  said = report.describe(_results()).label
  assert 'NegMerge' in said and '50.0% to 15.0%' in said and '95.0%' in said
  nothing = {**_results(), 'rows': []}
  assert report.describe(nothing).label == 'No cell is done yet'


def _task(found, names, colours, seed):
  sentences = ('a {} picture.',)
  parts = [_coloured(colours, n, seed + i) for i, n in enumerate((64, 40, 40))]
  data = DataSet(names[0], *parts, names, sentences)
  head = heads.make(found, names, sentences)
  start = zero_shot.variables(found.variables, head.kernel)
  return Task(data, zero_shot.model(found.sizes, 2), start)


@pytest.mark.slow  # a whole program
def test_a_run_forgets_within_the_floor_and_continues(tmp_path):
  names, colours = (a + b for a, b in zip(WARM, COLD, strict=True))
  data = small_clip.CaptionedImages(
    _coloured(colours, 256, 0), names, ('a {} picture.',)
  )
  found = small_clip.train_small_clip(
    jax.random.key(0), SIZES, data, STEP, steps=60, learning_rate=3e-3
  )
  made = settings.shrink(settings.base('negation_test'))
  made.forget, made.dataset = ('red',), 'blue'
  made.train = recipes.training(steps=12, batch_size=32, learning_rate=3e-3)
  tasks = (_task(found, *WARM, 10), _task(found, *COLD, 20))
  world = World(STEP, tasks[1], tasks[:1], 'sum')
  context = run.make_context(made, world, tmp_path)
  results, finished = run.follow_plan(study.STUDY, context)
  assert finished and len(results['rows']) == 4
  for row, curve in zip(results['rows'], results['curves'], strict=True):
    assert row['feasible'] and row['forget_accuracy_before'] > 0.9
    at = curve['strength'].index(row['strength'])
    assert curve['control_accuracy'][at] >= curve['threshold']
    allowed = [
      f
      for f, c in zip(
        curve['forget_accuracy'], curve['control_accuracy'], strict=True
      )
      if c >= curve['threshold']
    ]
    assert curve['forget_accuracy'][at] == min(allowed)
  # Every cell comes from its file.
  assert run.follow_plan(study.STUDY, context) == (results, True)
  header = provenance.results_header(made, finished)
  (tmp_path / 'results.json').write_text(json.dumps({**header, **results}))
  page = frame.show(report.REPORT, tmp_path).read_text()
  assert 'Subtracting' in page and 'src="http' not in page
  assert (tmp_path / 'tables/summary.md').is_file()
