"""Forgetting a class: what is given, what is measured, what is chosen."""

import class_unlearning_case as case
import numpy as np
import pytest

from cmu_jax import audits
from cmu_jax.core import errors
from cmu_jax.studies.classes import (
  leakage,
  measure,
  nearness,
  retrained,
  roster,
  settings,
  shadows,
  world,
)
from cmu_jax.studies.classes.addresses import Cell
from cmu_jax.studies.classes.sweep import Found

F, NEAR = 1, 4


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  small = case.config(
    methods='ft,mask', noises='', train_limit='500', test_limit='200'
  )
  return world.load(small, tmp_path_factory.mktemp('place'))


def test_training_validation_and_test_images_are_apart(place):
  parts = [
    world.trained(place), world.unseen(place, False),
    world.unseen(place, True),
  ]  # fmt: skip
  assert (np.sum(parts, axis=0) == 1).all()
  label = world.labels(place)
  np.testing.assert_array_equal(label[parts[0]], place.dataset.train.label)
  np.testing.assert_array_equal(label[parts[1]], place.dataset.test.label)
  share = parts[2].sum() / (parts[0].sum() + parts[2].sum())
  assert abs(share - place.config.validation) < 0.02
  for part in parts:
    assert set(label[part]) == set(range(10))


def test_a_class_is_given_whole_and_all_classes_in_one_shape(place):
  shapes = set()
  label = np.asarray(place.dataset.train.label)
  for number in range(10):
    found = world.give(place, number, ('retain', 'forget'))
    shapes.add((found.retain.valid.shape, found.forget.valid.shape))
    own = np.asarray(found.forget.batch.label)
    assert (own == number).all()
    assert found.forget.valid.sum() == (label == number).sum()
    assert found.retain.valid.sum() == (label != number).sum()
    assert not (np.asarray(found.retain.batch.label) == number).any()
  assert len(shapes) == 1
  assert world.give(place, 3, ('retain',)).forget is None


def answers(place, f_goes_to, seed, sharp=6.0, share=1.0):
  """Logits that are right, but give images of F to other classes."""
  draws = np.random.default_rng(seed)
  label = world.labels(place)
  goes = np.where(draws.random(label.size) < share, f_goes_to, 7)
  told = np.where(label == F, goes, label)
  logits = 0.3 * draws.normal(size=(label.size, 10)).astype(np.float32)
  logits[np.arange(label.size), told] += sharp
  logits[:, F] -= sharp
  return logits.astype(np.float32)


@pytest.fixture(scope='module')
def known(place):
  logits = np.stack([answers(place, NEAR, i, share=0.7) for i in range(3)])
  return measure.reference(place, logits, F, False), logits


def test_what_retrained_networks_make_of_a_class(place, known):
  found, logits = known
  label, test = world.labels(place), world.unseen(place, False)
  assert found.nearest == NEAR
  np.testing.assert_array_equal(found.near, test & (label == NEAR))
  np.testing.assert_array_equal(found.where.unseen, test & (label == F))
  odds = np.exp(logits[0][test & (label == F)].astype(float))
  wanted = (odds / odds.sum(1, keepdims=True)).mean(0)
  np.testing.assert_allclose(found.answer[0], wanted, rtol=1e-6)
  other = measure.reference(place, logits, F, True)
  validation = world.unseen(place, True)
  np.testing.assert_array_equal(other.where.unseen, validation & (label == F))


def test_a_retrained_network_is_measured_beside_the_others(place, known):
  found, logits = known
  row = measure.values(place, logits[2], found, 2)
  assert row['retain_accuracy'] == 1
  assert row['forget_accuracy'] == row['train_forget_accuracy'] == 0
  rest = found.answer[:2].mean(0)
  assert row['tv'] == pytest.approx(np.abs(found.answer[2] - rest).sum() / 2)
  gap = abs(found.accuracy[2] - found.accuracy[:2].mean())
  assert row['mia_nn_gap'] == pytest.approx(gap)
  assert row['tv_inside'] is None
  rows = retrained.rows(
    place, F, retrained.Outputs(logits, np.ones(3), np.ones(3)), found
  )
  assert [cell.seed for cell, _ in rows] == [0, 1, 2]
  assert rows[2][1]['tv'] == row['tv']
  floor = np.mean([row['tv'] for _, row in rows])
  assert floor == pytest.approx(row['tv_floor'])


def test_one_more_like_them_is_near_and_others_are_not(place, known):
  found, _ = known
  alike = measure.values(place, answers(place, NEAR, 9, share=0.7), found)
  assert alike['tv'] < 0.25
  away = measure.values(place, answers(place, 7, 9), found)
  assert away['tv'] > 0.5 > away['tv_floor']
  assert not away['tv_inside']
  # It gives images of F to class 7: they are told from those of class 4.
  assert away['mia_nn_accuracy'] > 0.95
  assert away['mia_nn_gap'] > 0.1
  assert not away['mia_nn_inside']
  logits = answers(place, NEAR, 9)
  logits[world.labels(place) == F, F] = 30
  kept = measure.values(place, logits, found)
  assert kept['forget_accuracy'] == 1
  assert kept['forget_probability'] > 0.99
  assert kept['tv'] > 0.98


def test_loss_and_entropy_tell_images_that_were_trained_on(place, known):
  logits = answers(place, NEAR, 11)
  trained = world.trained(place) & (world.labels(place) == F)
  logits[trained] *= 3
  row = measure.values(place, logits, known[0])
  assert row['entropy_auc'] > 0.95
  assert row['loss_auc'] < 0.05


def test_statistics_are_of_forgotten_images_only(place, known):
  found, logits = known
  all_of_them = measure.statistics(place, logits, found)
  rows = np.flatnonzero(found.where.forget)
  assert all_of_them['own'].shape == (3, rows.size)
  chosen = np.asarray(logits[1][rows], float)
  rest = np.log(np.exp(np.delete(chosen, NEAR, 1)).sum(1))
  wanted = chosen[:, NEAR] - rest
  np.testing.assert_allclose(all_of_them['nearest'][1], wanted, rtol=1e-4)
  masked = logits[0].copy()
  masked[:, F] = -1e4
  one = measure.statistics(place, masked, found)
  assert (one['own'] == -audits.CONFIDENCE_CLIP).all()
  assert np.isfinite(one['nearest']).all()


def found_of(place, known, methods):
  """A run whose networks answer as `methods` says: name -> three networks."""
  reference, logits = known
  rows = []
  for method, networks in methods.items():
    for seed, one in enumerate(networks):
      told = measure.statistics(place, one, reference)
      rows.append((Cell(seed, F, method), {'statistics': told}))
  outputs = retrained.Outputs(logits, np.ones(len(logits)), np.ones(3))
  return Found(rows, [], [], {F: outputs}, {}, True, {})


def test_ulira_tells_what_masks_the_class_and_not_what_is_retrained(place):
  logits = np.stack([answers(place, NEAR, i, share=0.7) for i in range(6)])
  known = measure.reference(place, logits, F, False), logits
  masked, alike = [], []
  for seed in range(20, 23):
    whole = answers(place, NEAR, seed, share=0.7)
    alike.append(whole)
    hidden = whole.copy()
    hidden[:, F] = -1e4
    masked.append(hidden)
  run = found_of(place, known, {'mask': masked, 'alike': alike})
  place = place._replace(config=case.config(forget_classes=f'{F},'))
  found = {
    (row['method'], row['statistic']): row for row in leakage.rows(place, run)
  }
  assert found['mask', 'own']['ulira_auc'] == 1
  for method in ('alike', 'retrain'):
    assert abs(found[method, 'own']['ulira_auc'] - 0.5) < 0.15
  # By the nearest class a mask is what it hides: the same network.
  assert abs(found['mask', 'nearest']['ulira_auc'] - 0.5) < 0.15
  assert found['retrain', 'own']['unlearned'] == 3
  few = found_of(place, known, {'mask': masked[:2]})
  assert {row['method'] for row in leakage.rows(place, few)} == {'retrain'}


def test_shadow_models_take_the_place_of_the_runs_own(place):
  logits = np.stack([answers(place, NEAR, i, share=0.7) for i in range(6)])
  known = measure.reference(place, logits, F, False), logits
  run = found_of(place, known, {'mask': [logits[0]] * 3})
  place = place._replace(config=case.config(forget_classes=f'{F},'))
  draws = np.random.default_rng(0)
  drawn = lambda shift: dict.fromkeys(
    measure.STATISTICS, draws.normal(shift, 1, (8, 90))
  )
  told = shadows.Told({'ft': drawn(3.0), 'none': drawn(0.0)}, drawn(0.0))
  rows = leakage.rows(place, run._replace(shadows={F: told}))
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
  found = nearness.gap([row(0, 0.8, 0.2)], BEST[:1])
  assert found.parts == pytest.approx((10, 0, 20))
  assert found.of_runs == pytest.approx(10)
  near = [row(0, 0.9, 0.1), row(7, 0.5, 0.1)]
  swapped = [row(0, 0.5, 0.1), row(7, 0.9, 0.1)]
  gone = [row(0, 0.9, 0.0), {'forget_class': 7, 'diverged': True}]
  assert nearness.choose([swapped, near, gone], BEST) == 1
  assert nearness.choose([gone, swapped], BEST) == 1
  assert nearness.choose([gone, gone], BEST) == 1


def test_every_method_has_what_it_is_tried_with():
  known = roster.entries()
  small = case.config()
  assert set(small.methods) <= set(known)
  for name in roster.KNOWN:
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
    ({'retrained': '2'}, r'config\.retrained is 2; the noise floor needs 3'),
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
