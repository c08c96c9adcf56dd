"""Audits of wrong labels in a run: what is asked, of whom, where it shows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_run

from cmu_jax.core import config as configs
from cmu_jax.core import errors, rng
from cmu_jax.core.types import Variables
from cmu_jax.report import frame
from cmu_jax.studies.cuts import evaluate, report, scene, words
from cmu_jax.studies.engine import checks
from cmu_jax.training import metrics, train


@pytest.fixture(scope='module')
def world():
  loaded = configs.load(
    small_run.NOISE,
    {'audit': 'rmia', 'train_limit': '300', 'model.width': '8'},
  )
  found = scene.load_world(loaded.config)
  return loaded.config, found, scene.draw_scene(loaded.config, found, 0)


def networks(world, count):
  """Networks that were never trained: they saw no label at all."""
  image = world.inputs.eval(world.dataset.test.image[:1], None)
  init = jax.jit(world.model.init)
  return [init(rng.fold_in(i), image) for i in range(count)]


def fits(some):
  return [train.Fit(one, jnp.zeros((1, 2)), None) for one in some]


def test_true_labels_are_kept_beside_what_was_trained_on(world):
  config, _, place = world
  given, truth = np.asarray(place.train.label), np.asarray(place.truth)
  assert given.shape == truth.shape
  share = np.mean(given != truth)
  assert abs(share - config.noise_rate) < 0.02


def test_networks_that_saw_nothing_are_near_chance(world):
  config, stage, place = world
  first, *rest = networks(stage, 4)
  look = evaluate.make_audit(config, stage, place, fits([first, *rest]), 0)
  found = look(first)
  assert tuple(found) == evaluate.COLUMNS
  assert found['label_recovery_low'] < 0.5 < found['label_recovery_high']
  assert found == look(first)
  # Its own oracle is no reference, and one seed alone has none.
  alone = evaluate.make_audit(config, stage, place, fits([first]), 0)
  assert 0.3 < alone(first)['label_recovery_rate'] < 0.7


def test_a_network_that_says_what_it_was_told_is_found(world, monkeypatch):
  config, stage, place = world
  given = np.asarray(place.train.label)
  wrong = np.flatnonzero(given != np.asarray(place.truth))

  def told(network, variables, batch, size):
    np.testing.assert_array_equal(batch.label, given[wrong])
    strength = float(variables.params)
    return strength * np.eye(10, dtype=np.float32)[batch.label]

  monkeypatch.setattr(metrics, 'logits', told)
  some = fits([Variables(0.0, {})] * 3)
  look = evaluate.make_audit(config, stage, place, some, 1)
  assert look(Variables(5.0, {}))['label_recovery_rate'] == 1
  assert look(Variables(0.0, {}))['label_recovery_rate'] == 0.5
  assert look(Variables(-5.0, {}))['label_recovery_rate'] == 0


def test_without_wrong_labels_or_without_asking_there_is_nothing(world):
  config, stage, place = world
  same = place._replace(truth=place.train.label)
  look = evaluate.make_audit(config, stage, same, [], 0)
  assert look(None) == dict.fromkeys(evaluate.COLUMNS)
  silent = configs.load(small_run.NOISE).config
  assert evaluate.make_audit(silent, stage, place, [], 0)(None) == {}


@pytest.mark.parametrize(
  ('audit', 'classes', 'said'),
  [('rmai', 10, "did you mean 'rmia'"), ('rmia', 2, 'there are 2 classes')],
)
def test_audits_that_cannot_be(audit, classes, said):
  config = configs.load(small_run.NOISE, {'audit': audit}).config
  with pytest.raises(errors.UserError, match=said):
    checks.check_label_audit(config, classes)


def test_words_say_what_it_shows_and_what_it_does_not():
  rows = [
    {'method': m, 'seed': s, 'label_recovery_rate': value}
    for m, value in (('corrupted', 0.9), ('cuts', 0.8), ('oracle', 0.51))
    for s in (0, 1)
  ]
  told = words.describe_audit({'rows': rows, 'task': 'label_noise'})
  assert '0.900 before the repair, 0.800 after CUTS' in told[0]
  assert '0.510 in the oracle' in told[0]
  assert 'not that nothing is left' in told[1]
  assert words.describe_audit({'rows': [], 'task': 'label_noise'}) == []


@pytest.mark.slow
def test_a_run_with_an_audit(tmp_path, monkeypatch):
  small_run.keep_environment(monkeypatch)
  fields = {'audit': 'rmia', 'seeds': '0,1', 'train_limit': 300}
  found = small_run.run(small_run.NOISE, tmp_path, fields)
  audited = {r['method'] for r in found['rows'] if 'label_recovery_rate' in r}
  assert {'corrupted', 'cuts', 'oracle'} <= audited
  assert 'label recovery' in (tmp_path / 'tables/results.md').read_text()
  page = frame.show(report.REPORT, tmp_path).read_text()
  assert 'Are the wrong labels still in there?' in page
