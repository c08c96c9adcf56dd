"""Forgetting a class: what is given, what is measured, what is chosen."""

import dataclasses

import class_unlearning_case as case
import numpy as np
import pytest

from cmu_jax import audits
from cmu_jax.core import errors
from cmu_jax.studies.classes import (
  measure,
  retrained,
  settings,
  shadows,
  world,
)
from cmu_jax.studies.classes.trials import ClassTrial
from cmu_jax.studies.engine import run

F, NEAR = 1, 4


@pytest.fixture(scope='module')
def context(tmp_path_factory):
  small = case.config(
    methods='ft,mask', noises='', train_limit='500', test_limit='200'
  )
  folder = tmp_path_factory.mktemp('context')
  return run.make_context(small, world.load(small, folder), folder)


def test_training_validation_and_test_images_are_apart(context):
  parts = [
    world.training_images(context.world),
    world.unseen_images(context.world, False),
    world.unseen_images(context.world, True),
  ]
  assert (np.sum(parts, axis=0) == 1).all()
  label = world.pool_labels(context.world)
  np.testing.assert_array_equal(
    label[parts[0]], context.world.dataset.train.label
  )
  np.testing.assert_array_equal(
    label[parts[1]], context.world.dataset.test.label
  )
  share = parts[2].sum() / (parts[0].sum() + parts[2].sum())
  assert abs(share - context.config.validation) < 0.02
  for part in parts:
    assert set(label[part]) == set(range(10))


def test_a_class_is_given_whole_and_all_classes_in_one_shape(context):
  shapes = set()
  label = np.asarray(context.world.dataset.train.label)
  for number in range(10):
    found = world.select_class(context.world, number, ('retain', 'forget'))
    shapes.add((found.retain.valid.shape, found.forget.valid.shape))
    own = np.asarray(found.forget.batch.label)
    assert (own == number).all()
    assert found.forget.valid.sum() == (label == number).sum()
    assert found.retain.valid.sum() == (label != number).sum()
    assert not (np.asarray(found.retain.batch.label) == number).any()
  assert len(shapes) == 1
  assert world.select_class(context.world, 3, ('retain',)).forget is None


def answers(context, f_goes_to, seed, sharp=6.0, share=1.0):
  """Logits that are right, but give images of F to other classes."""
  draws = np.random.default_rng(seed)
  label = world.pool_labels(context.world)
  goes = np.where(draws.random(label.size) < share, f_goes_to, 7)
  told = np.where(label == F, goes, label)
  logits = 0.3 * draws.normal(size=(label.size, 10)).astype(np.float32)
  logits[np.arange(label.size), told] += sharp
  logits[:, F] -= sharp
  return logits.astype(np.float32)


@pytest.fixture(scope='module')
def known(context):
  logits = np.stack([answers(context, NEAR, i, share=0.7) for i in range(3)])
  return measure.measure_reference(context, logits, F, False), logits


def test_what_retrained_networks_make_of_a_class(context, known):
  found, logits = known
  label, test = (
    world.pool_labels(context.world),
    world.unseen_images(context.world, False),
  )
  assert found.nearest == NEAR
  np.testing.assert_array_equal(found.near, test & (label == NEAR))
  np.testing.assert_array_equal(found.groups.unseen, test & (label == F))
  odds = np.exp(logits[0][test & (label == F)].astype(float))
  wanted = (odds / odds.sum(1, keepdims=True)).mean(0)
  np.testing.assert_allclose(found.answer[0], wanted, rtol=1e-6)
  other = measure.measure_reference(context, logits, F, True)
  validation = world.unseen_images(context.world, True)
  np.testing.assert_array_equal(other.groups.unseen, validation & (label == F))


def test_a_retrained_network_is_measured_beside_the_others(context, known):
  found, logits = known
  row = measure.measure(context, logits[2], found, 2)
  assert row['retain_accuracy'] == 1
  assert row['forget_accuracy'] == row['train_forget_accuracy'] == 0
  rest = found.answer[:2].mean(0)
  assert row['tv'] == pytest.approx(np.abs(found.answer[2] - rest).sum() / 2)
  gap = abs(found.accuracy[2] - found.accuracy[:2].mean())
  assert row['mia_nn_gap'] == pytest.approx(gap)
  assert row['tv_inside'] is None
  outputs = retrained.Outputs(logits, np.ones(3), np.ones(3))
  rows = list(retrained.list_rows(context, outputs, found))
  assert [cell.seed for cell, _ in rows] == [0, 1, 2]
  assert rows[2][1]['tv'] == row['tv']
  floor = np.mean([row['tv'] for _, row in rows])
  assert floor == pytest.approx(row['tv_floor'])


def test_one_more_like_them_is_near_and_others_are_not(context, known):
  found, _ = known
  alike = measure.measure(context, answers(context, NEAR, 9, share=0.7), found)
  assert alike['tv'] < 0.25
  away = measure.measure(context, answers(context, 7, 9), found)
  assert away['tv'] > 0.5 > away['tv_floor']
  assert not away['tv_inside']
  # It gives images of F to class 7: they are told from those of class 4.
  assert away['mia_nn_accuracy'] > 0.95
  assert away['mia_nn_gap'] > 0.1
  assert not away['mia_nn_inside']
  logits = answers(context, NEAR, 9)
  logits[world.pool_labels(context.world) == F, F] = 30
  kept = measure.measure(context, logits, found)
  assert kept['forget_accuracy'] == 1
  assert kept['forget_probability'] > 0.99
  assert kept['tv'] > 0.98


def test_loss_and_entropy_tell_images_that_were_trained_on(context, known):
  logits = answers(context, NEAR, 11)
  trained = world.training_images(context.world) & (
    world.pool_labels(context.world) == F
  )
  logits[trained] *= 3
  row = measure.measure(context, logits, known[0])
  assert row['entropy_auc'] > 0.95
  assert row['loss_auc'] < 0.05


def test_statistics_are_of_forgotten_images_only(context, known):
  found, logits = known
  all_of_them = measure.statistics(context, logits, found)
  rows = np.flatnonzero(found.groups.forget)
  assert all_of_them['own'].shape == (3, rows.size)
  chosen = np.asarray(logits[1][rows], float)
  rest = np.log(np.exp(np.delete(chosen, NEAR, 1)).sum(1))
  wanted = chosen[:, NEAR] - rest
  np.testing.assert_allclose(all_of_them['nearest'][1], wanted, rtol=1e-4)
  masked = logits[0].copy()
  masked[:, F] = -1e4
  one = measure.statistics(context, masked, found)
  assert (one['own'] == -audits.CONFIDENCE_CLIP).all()
  assert np.isfinite(one['nearest']).all()


def own_statistics(context, known, methods, monkeypatch):
  """Of a run whose networks answer as `methods` says: name -> networks."""
  reference, logits = known
  rows = []
  for method, networks in methods.items():
    for seed, network in enumerate(networks):
      told = measure.statistics(context, network, reference)
      rows.append((ClassTrial(seed, F, method), {'statistics': told}))
  outputs = retrained.Outputs(logits, np.ones(len(logits)), np.ones(3))
  monkeypatch.setattr(retrained, 'get_reference', lambda *_: reference)
  monkeypatch.setattr(retrained, 'read_outputs', lambda *_: outputs)
  return shadows.collect_own_statistics(context, F, rows)


def test_ulira_tells_what_masks_the_class_and_not_what_is_retrained(
  context, monkeypatch
):
  logits = np.stack([answers(context, NEAR, i, share=0.7) for i in range(6)])
  known = measure.measure_reference(context, logits, F, False), logits
  masked, alike = [], []
  for seed in range(20, 23):
    whole = answers(context, NEAR, seed, share=0.7)
    alike.append(whole)
    hidden = whole.copy()
    hidden[:, F] = -1e4
    masked.append(hidden)
  methods = {'mask': masked, 'alike': alike}
  rows = shadows.list_rows(
    F, own_statistics(context, known, methods, monkeypatch)
  )
  found = {(row['method'], row['statistic']): row for row in rows}
  assert found['mask', 'own']['ulira_auc'] == 1
  for method in ('alike', 'retrain'):
    assert abs(found[method, 'own']['ulira_auc'] - 0.5) < 0.15
  # By the nearest class a mask is what it hides: the same network.
  assert abs(found['mask', 'nearest']['ulira_auc'] - 0.5) < 0.15
  assert found['retrain', 'own']['unlearned'] == 3
  few = own_statistics(context, known, {'mask': masked[:2]}, monkeypatch)
  assert {row['method'] for row in shadows.list_rows(F, few)} == {'retrain'}


def test_shadow_models_beside_those_that_never_saw_the_class():
  draws = np.random.default_rng(0)
  drawn = lambda shift: dict.fromkeys(
    measure.STATISTICS, draws.normal(shift, 1, (8, 90))
  )
  told = shadows.ShadowStatistics(
    {'ft': drawn(3.0), 'none': drawn(0.0)}, drawn(0.0)
  )
  rows = shadows.list_rows(F, told)
  found = {row['method']: row for row in rows if row['statistic'] == 'nearest'}
  assert set(found) == {'retrain', 'ft', 'none'}
  assert (found['ft']['unlearned'], found['ft']['retrained']) == (8, 8)
  assert found['ft']['ulira_auc'] == pytest.approx(
    audits.ulira_of_class(
      told.unlearned['ft']['own'], told.retrained['own']
    ).by_model.mean(),
    abs=0.02,
  )
  assert found['ft']['ulira_auc'] > 0.95
  for method in ('none', 'retrain'):
    assert abs(found[method]['ulira_auc'] - 0.5) < 0.12


def test_absent_shadow_models_are_no_statistics(context):
  made = dataclasses.replace(context, config=case.config(shadows='3'))
  assert shadows.collect_statistics(made, F, {'ft': []}) is None
  assert shadows.collect_statistics(made, F, {'ft': [{}] * 3}) is None


def row(number, acc, tv, diverged=False):
  return {
    'forget_class': number,
    'retain_accuracy': acc,
    'forget_accuracy': 0.0,
    'tv': tv,
    'diverged': diverged,
  }


BEST = [row(0, 0.9, 0.05), row(7, 0.5, 0.05)]


def test_a_gap_is_to_networks_without_the_same_class():
  found = retrained.compute_gap([row(0, 0.8, 0.2)], BEST[:1])
  assert found.parts == pytest.approx((10, 0, 20))
  assert found.of_runs == pytest.approx(10)
  near = [row(0, 0.9, 0.1), row(7, 0.5, 0.1)]
  swapped = [row(0, 0.5, 0.1), row(7, 0.9, 0.1)]
  gone = [row(0, 0.9, 0.0), {'forget_class': 7, 'diverged': True}]
  assert retrained.choose_point([swapped, near, gone], BEST) == 1
  assert retrained.choose_point([gone, swapped], BEST) == 1
  assert retrained.choose_point([gone, gone], BEST) == 1


def test_every_method_has_what_it_is_tried_with():
  known = settings.entries()
  small = case.config()
  assert set(small.methods) <= set(known)
  for name in settings.METHODS:
    assert known[name].says


def test_rwft_is_trw_without_a_tilt(tmp_path):
  made = world.load(case.config(), tmp_path).methods
  assert made['rwft'].solve is made['trw'].solve
  assert {point['beta'] for point in made['rwft'].grid} == {0.0}
  rates = [point['learning_rate'] for point in made['rwft'].grid]
  assert rates == list(case.config().learning_rates)


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'retrained': '2'}, r'config\.retrained is 2; it must be at least 3'),
    ({'shadows': '2'}, r'config\.shadows is 2; U-LiRA needs 3'),
    ({'tuning_classes': '1,'}, r'share \[1\]'),
    ({'forget_classes': '1,1'}, r'config\.forget_classes'),
    ({'validation': '0'}, r'config\.validation is 0'),
    ({'methods': 'ft,trv'}, "did you mean 'trw'"),
    ({'methods': 'ft,'}, 'needs the method trw'),
    ({'noises': '-1.,'}, r'config\.noises'),
    ({'betas': '-1.,'}, r'config\.betas'),
    ({'dimensions': '0,'}, r'config\.dimensions'),
    ({'learning_rates': '0.,'}, r'config\.learning_rates'),
    ({'evaluate__folds': '1'}, r'config\.evaluate\.folds is 1'),
  ],
)
def test_settings_that_cannot_be(changes, said):
  with pytest.raises(errors.UserError, match=said):
    settings.check(case.config(**changes))


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'forget_classes': '12,'}, 'has classes 0 to 9'),
    ({'test_limit': '30'}, 'test images for 5 folds'),
  ],
)
def test_classes_of_which_there_is_too_little(tmp_path, changes, said):
  with pytest.raises(errors.UserError, match=said):
    world.load(case.config(**changes), tmp_path)
