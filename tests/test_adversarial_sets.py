"""D_A and the sets in its place: who is in them, under which label."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import unlearning_case as case
from hypothesis import given, settings
from hypothesis import strategies as st

from cmu_jax.core import errors
from cmu_jax.core.types import Network
from cmu_jax.data import input_step
from cmu_jax.data.corruption import triggers
from cmu_jax.robustness import adversarial_sets, attacks
from cmu_jax.training import metrics

pytestmark = pytest.mark.usefixtures('quick_compilation')

SAMPLES = case.samples(2, 8, True)
KEY = jax.random.key(0)


def _pairs(samples=SAMPLES, variables=None, step=case.PIXELS, **options):
  model, start = case.network()
  found = start if variables is None else variables
  return adversarial_sets.find_pairs(
    KEY, Network(model, step), found, samples, size=4, **options
  )


def _flat():
  """The network with all weights 0: class 0 everywhere, and no gradient."""
  return jax.tree.map(jnp.zeros_like, case.network()[1])


def test_pairs_carry_their_rows_and_the_labels_of_what_is_stored():
  model, variables = case.network()
  found = _pairs()
  rows = np.flatnonzero(np.asarray(SAMPLES.valid))
  np.testing.assert_array_equal(found.row[: case.COUNT], rows)
  np.testing.assert_array_equal(found.flags['valid'], np.arange(8) < case.COUNT)
  for got, wanted in zip(found.clean[:2], SAMPLES.batch[:2], strict=True):
    np.testing.assert_array_equal(got[: case.COUNT], wanted[rows])
  stored = found.clean._replace(image=found.image)
  predicted = metrics.predict(Network(model, case.PIXELS), variables, stored)
  np.testing.assert_array_equal(found.label, predicted)
  assert (
    found.usable[: case.COUNT].all() and not found.usable[case.COUNT :].any()
  )
  assert (found.label != found.clean.label)[: case.COUNT].all()


def test_distances_and_flags_are_those_of_the_perturbation():
  model, variables = case.network()
  found = _pairs()
  clean = np.asarray(found.clean.image, np.float64)
  delta = (np.asarray(found.image, np.float64) - clean) / 255
  length = np.linalg.norm(delta.reshape(8, -1), axis=1)
  np.testing.assert_allclose(found.distance, length, atol=1e-5)
  wrong = metrics.predict(Network(model, case.PIXELS), variables, found.clean)
  wrong = (wrong != found.clean.label)[: case.COUNT]
  np.testing.assert_array_equal(
    found.flags['misclassified'][: case.COUNT], wrong
  )
  assert 0 < wrong.sum() < case.COUNT
  np.testing.assert_allclose(length[: case.COUNT][wrong], 0, atol=1e-6)
  assert (length[: case.COUNT][~wrong] > 1e-3).all()
  facts = adversarial_sets.summarize_pairs(found)
  assert facts['misclassified_share'] == pytest.approx(wrong.mean())
  assert facts['adversarial_share'] == 1
  assert facts['distance'] == pytest.approx(np.median(length[: case.COUNT]))
  assert int(found.gradients) > case.COUNT


def _wanted(found, name):
  """Images and labels of a set by its definition, None where random."""
  clean, image = np.asarray(found.clean.image), np.asarray(found.image)
  own, other = np.asarray(found.clean.label), np.asarray(found.label)
  return {
    'adv': (image, other),
    'orig': (clean, own),
    'advl': (clean, other),
    'rl': (clean, None),
    'arl': (image, None),
    'ars': (None, other),
  }[name]


@pytest.mark.parametrize('name', adversarial_sets.SET_NAMES)
def test_sets_are_what_their_names_say(name):
  found = _pairs()
  made = adversarial_sets.build_set(KEY, found, name, case.CLASSES)
  image, label = _wanted(found, name)
  kept = np.asarray(found.usable)
  np.testing.assert_array_equal(made.valid, kept)
  assert made.identified.all() and made.batch.label.shape == (8,)
  if image is not None:
    np.testing.assert_array_equal(made.batch.image, image)
  if label is not None:
    np.testing.assert_array_equal(made.batch.label, label)
  if name in ('rl', 'arl'):
    third = 3 - np.asarray(found.clean.label) - np.asarray(found.label)
    np.testing.assert_array_equal(
      np.asarray(made.batch.label)[kept], third[kept]
    )
  moved = name in ('adv', 'arl', 'ars')
  assert (made.skip_augmentation is not None) == moved
  assert not moved or made.skip_augmentation.all()


def test_random_points_are_as_far_as_the_adversarial_ones():
  image = jnp.full_like(SAMPLES.batch.image, 120)
  batch = SAMPLES.batch._replace(image=image)
  found = _pairs(SAMPLES._replace(batch=batch))
  found = found._replace(distance=jnp.linspace(0.0, 0.4, 8))
  made = adversarial_sets.build_set(KEY, found, 'ars')
  delta = (np.asarray(made.batch.image) - 120) / 255
  length = np.linalg.norm(delta.reshape(8, -1), axis=1)
  np.testing.assert_allclose(length, np.linspace(0, 0.4, 8), atol=1e-6)
  far = found._replace(distance=jnp.full(8, 50.0))
  pixels = adversarial_sets.build_set(KEY, far, 'ars').batch.image
  assert pixels.min() >= 0 and pixels.max() <= 255


@given(classes=st.integers(3, 7), seed=st.integers(0, 2**31 - 1))
@settings(max_examples=15, deadline=None)
def test_third_labels_are_all_others(classes, seed):
  first = jnp.full(200, seed % classes)
  second = (first + 1 + seed % (classes - 1)) % classes
  found = adversarial_sets.draw_third_class(
    jax.random.key(seed), first, second, classes
  )
  others = set(range(classes)) - {int(first[0]), int(second[0])}
  assert set(np.asarray(found).tolist()) == others


def test_no_third_label_of_two_classes():
  with pytest.raises(errors.UserError, match='needs 3 classes'):
    adversarial_sets.build_set(KEY, _pairs(), 'arl', 2)


def test_another_network_gives_its_own_labels():
  model, variables = case.network()
  other = jax.tree.map(lambda x: -x, variables)
  found = _pairs(variables=other)
  stored = found.clean._replace(image=found.image)
  predicted = metrics.predict(Network(model, case.PIXELS), other, stored)
  np.testing.assert_array_equal(found.label, predicted)
  assert (np.asarray(found.image) != np.asarray(_pairs().image)).any()


def test_a_sample_without_an_adversarial_image_is_not_usable():
  found = _pairs(attack=attacks.fgsm(1e-4))
  valid = np.asarray(found.flags['valid'])
  np.testing.assert_array_equal(
    found.usable, valid & np.asarray(found.label != found.clean.label)
  )
  assert 0 < np.sum(valid & ~np.asarray(found.usable)) < case.COUNT


def test_a_constant_network_has_no_adversarial_images():
  model, _ = case.network()
  found = _pairs(variables=_flat())
  right = np.asarray(found.clean.label == 0) & np.asarray(found.flags['valid'])
  assert 0 < right.sum() < case.COUNT
  assert not found.usable[right].any()
  np.testing.assert_array_equal(
    found.usable, np.asarray(found.flags['valid']) & ~right
  )
  batch = SAMPLES.batch._replace(label=jnp.zeros(8, jnp.int32))
  with pytest.raises(errors.UserError, match='only 0% of 8 images'):
    adversarial_sets.choose_radius(
      KEY, Network(model, case.PIXELS), _flat(), batch
    )


@pytest.mark.slow
def test_the_first_radius_holds_most_adversarial_images():
  model, variables = case.network()
  radius = adversarial_sets.choose_radius(
    KEY,
    Network(model, case.PIXELS),
    variables,
    SAMPLES.batch,
    share=0.9,
    smallest=0.01,
  )
  near = attacks.attack_split(
    KEY,
    attacks.minimal_pgd(0.01),
    Network(model, case.PIXELS),
    variables,
    SAMPLES.batch,
  )
  doublings = np.log2(radius / 0.01)
  assert doublings == np.round(doublings) and doublings > 0
  reached = np.asarray(near.radius)
  assert (reached <= radius * 1.001).mean() >= 0.9
  assert (reached < radius * 0.999).mean() < 0.9


def test_stamps_stay_and_the_trigger_is_part_of_the_network():
  model, variables = case.network()
  painted = input_step.make(
    (0.0,), (1.0,), trigger=triggers.corner_patch(4, 4, 2)
  )
  stamp = jnp.arange(8) % 2 == 0
  batch = SAMPLES.batch._replace(has_trigger=stamp)
  found = _pairs(SAMPLES._replace(batch=batch), step=painted)
  np.testing.assert_array_equal(found.clean.has_trigger, stamp[found.row])
  stored = found.clean._replace(image=found.image)
  predicted = metrics.predict(Network(model, painted), variables, stored)
  np.testing.assert_array_equal(found.label, predicted)
  under = np.asarray(painted.eval(jnp.ones((1, *case.SHAPE)), None)) != (
    painted.eval(jnp.ones((1, *case.SHAPE)), jnp.ones(1, bool))
  )
  delta = np.asarray(found.image) - np.asarray(found.clean.image)
  hidden = delta[np.asarray(found.clean.has_trigger)][:, np.asarray(under)[0]]
  np.testing.assert_allclose(hidden, 0, atol=1e-4)


def test_bad_input_is_one_line():
  with pytest.raises(errors.UserError, match='is empty'):
    _pairs(samples=SAMPLES._replace(valid=jnp.zeros(8, bool)))
  with pytest.raises(errors.UserError, match="unknown set 'avd'"):
    adversarial_sets.build_set(KEY, _pairs(), 'avd')


@pytest.mark.slow
def test_marching_flips_and_goes_further_than_the_search():
  near, far = _pairs(), _pairs(attack=attacks.march(0.2))
  kept = np.asarray(far.usable)
  assert kept.sum() >= case.COUNT - 1
  assert (far.distance >= near.distance * 0.8)[kept].all()
  pixels = np.asarray(far.image)
  assert pixels.min() >= 0 and pixels.max() <= 255
  stuck = _pairs(attack=attacks.march(0.2, restarts=2), variables=_flat())
  right = np.asarray(stuck.clean.label == 0) & np.asarray(stuck.flags['valid'])
  assert not stuck.usable[right].any()
  # One march from the image, two more from about it.
  assert int(stuck.gradients) == 3 * right.sum()
