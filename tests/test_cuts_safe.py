"""CUTS with a safe alpha: fold vectors, what judges them, stopping, rules."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_run
import test_cuts

from cmu_jax.core import config as configs
from cmu_jax.core import errors, rng, store, tree
from cmu_jax.core.types import Network, Training, Variables
from cmu_jax.data import proxy_sets
from cmu_jax.methods.cuts import (
  alpha_rules,
  alpha_search,
  cross_fitting,
  safe_alpha,
)
from cmu_jax.studies.cuts import scene, settings, stages
from cmu_jax.training import train

TRAINING = Training(test_cuts.ADAM, steps=12, batch_size=8)
MODEL = test_cuts.MODELS['fc']
STEP = test_cuts.STEP


@pytest.fixture(scope='module')
def variables():
  start = MODEL.init(jax.random.key(0), jnp.zeros((1, *test_cuts.SHAPE)))
  return train.fit(
    jax.random.key(1),
    Network(MODEL, STEP),
    start,
    test_cuts.pool(seed=1),
    training=Training(optimizer=test_cuts.ADAM, steps=40, batch_size=16),
  ).variables


def vectors(variables, folds, **options):
  return safe_alpha.fit_fold_vectors(
    jax.random.key(5),
    Network(MODEL, STEP),
    variables,
    folds,
    TRAINING,
    **options,
  )


@pytest.fixture(scope='module')
def split():
  whole = test_cuts.noisy_proxy()
  return whole, cross_fitting.split(jax.random.key(4), whole, 2)


def test_a_fold_vector_is_the_direction_of_its_own_proxy(variables, split):
  _, folds = split
  tau = vectors(variables, folds).tau
  keys = jax.random.split(jax.random.key(5), 4)
  for fold in range(2):
    ends = [
      train.fit(
        keys[row],
        Network(MODEL, STEP),
        variables,
        proxy_sets.draw_copy(folds.proxy, row),
        training=TRAINING,
      ).variables.params
      for row in (2 * fold, 2 * fold + 1)
    ]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *ends)
    chex.assert_trees_all_close(
      tree.index(tau, fold),
      tree.task_vector(variables.params, mean),
      atol=2e-5,
    )


def test_the_estimate_is_the_published_score_of_unseen_images(variables, split):
  whole, folds = split
  tau = vectors(variables, folds).tau
  rule = alpha_search.Selection(alphas=(0.0, 0.5, 1.0))
  found = safe_alpha.measure_evidence(
    jax.random.key(6),
    Network(MODEL, STEP),
    variables,
    folds,
    tau,
    selection=rule,
    replicates=5,
  )
  assert found.score.shape == found.rate.shape == (6, 2, 3)
  for fold, held in enumerate(folds.held_out):
    image = STEP.eval(whole.image[held], None)
    for position, alpha in enumerate(rule.alphas):
      edited = Variables(
        tree.edit(variables.params, tree.index(tau, fold), alpha),
        variables.batch_stats,
      )
      logits = MODEL.apply(edited, image)
      one = alpha_rules.agreement(MODEL.features(edited, image), logits, k=3)
      np.testing.assert_allclose(
        found.score[0, fold, position], one.J, atol=2e-4
      )
      hits = np.argmax(logits, 1)[None] == np.asarray(whole.label)[:, held]
      np.testing.assert_allclose(
        found.rate[0, fold, position], hits.mean(), atol=1e-6
      )


def test_poison_is_judged_by_triggers_that_are_unseen(variables):
  whole = test_cuts.poisoned_proxy()
  folds = cross_fitting.split(jax.random.key(4), whole, 2)
  zero = jax.tree.map(lambda x: jnp.zeros((2, *x.shape)), variables.params)
  found = safe_alpha.measure_evidence(
    jax.random.key(6),
    Network(MODEL, STEP),
    variables,
    folds,
    zero,
    selection=alpha_search.Selection(kind='poison', alphas=(1.0,), target=0),
    replicates=3,
  )
  for fold, held in enumerate(folds.held_out):
    image = whole.image[held]
    predicted = lambda stamp, image=image: np.argmax(
      MODEL.apply(variables, STEP.eval(image, stamp)), 1
    )
    others = np.isin(held, np.asarray(whole.positions))
    hit = predicted(jnp.ones(len(held), bool))[others] == 0
    np.testing.assert_allclose(found.score[0, fold], hit.mean(), atol=1e-6)
    share = np.mean(predicted(None) == 0)
    np.testing.assert_allclose(found.rate[0, fold], share, atol=1e-6)


class Stopped(Exception):
  """A training that was stopped."""


def test_stopped_fold_fine_tunings_end_as_if_they_had_not_been(
  variables, split
):
  kept = []

  def save(state, step):
    kept.append((jax.tree.map(np.array, state), step))
    if len(kept) == 1:
      raise Stopped

  restore = lambda template: kept[-1] if kept else None
  where = store.Checkpoint(restore, save, -1.0)
  with pytest.raises(Stopped):
    vectors(variables, split[1], checkpoint=where)
  assert 0 < kept[0][1] < TRAINING.steps
  after = vectors(variables, split[1], checkpoint=where)
  chex.assert_trees_all_equal(after.tau, vectors(variables, split[1]).tau)


DIGITS = f'{small_run.NOISE},width=16'


def small(**fields):
  text = {'proxy_train.steps': '5', 'select.replicates': '20', **fields}
  config = configs.load(DIGITS, text).config
  world = scene.load_world(config)
  return config, world, scene.draw_scene(config, world, 0)


def start(world, place):
  image = world.inputs.eval(world.dataset.test.image[:1], None)
  return world.model.init(rng.fold_in(place.key, 'init'), image)


def test_a_pool_too_small_to_split_leaves_the_model_as_it_is():
  config, world, place = small(**{'select.folds': '8'})
  found, fitted = stages.choose_safe_alpha(
    scene.Case(config, world, place, start(world, place), 0)
  )
  assert fitted is None and not found.choice.selected
  size = place.proxy.image.shape[0]
  assert found.record['reason'] == f'{size} proxy images, 160 needed'


@pytest.mark.slow
def test_the_rule_safe_is_what_the_row_cuts_takes(tmp_path):
  fields = {'select.rule': 'safe', 'finetune.steps': '2'}
  config, world, place = small(**fields)
  where = stages.locate_checkpoints(config, tmp_path)
  found, info, fits = stages.repair(
    scene.Case(
      *(config, world, place, start(world, place), 0),
      lambda stage: stages.make_checkpoint(where, stage, 0),
    )
  )
  assert found['cuts'].facts == found['cuts_safe'].facts
  assert info['alpha'] == found['cuts_safe'].facts['alpha']
  assert len(info['safe']['J_cf']) == 81
  assert fits['cuts_folds'].history.shape == (4, 5, 2)
  assert (tmp_path / 'checkpoints' / 'cuts_folds' / 'seed_0').is_dir()


@pytest.mark.parametrize(
  'field, value, match',
  [
    ('folds', '1', 'select.folds is 1'),
    ('folds', '-2', 'at least 0'),
    ('rule', 'sage', 'select.rule'),
    ('confidence', '1.0', 'above 0 and below 1'),
    ('replicates', '1', 'at least 2'),
  ],
)
def test_settings_that_cannot_be(field, value, match):
  config = configs.load(DIGITS, {f'select.{field}': value}).config
  with pytest.raises(errors.UserError, match=match):
    settings.check(config)


def test_the_safe_rule_needs_folds():
  fields = {'select.folds': '0', 'select.rule': 'safe'}
  with pytest.raises(errors.UserError, match='use 2 or more'):
    settings.check(configs.load(DIGITS, fields).config)
