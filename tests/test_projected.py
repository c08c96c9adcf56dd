"""Projected task vectors and self-distillation against a trigger."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmu_jax import networks
from cmu_jax.core import config, errors, rng, tree
from cmu_jax.core.types import MethodInputs, Network, Variables
from cmu_jax.methods import finetuning
from cmu_jax.methods.backdoor import (
  distillation,
  sensitivity,
)
from cmu_jax.studies.cuts import backdoor, evaluate, scene
from cmu_jax.studies.engine import recipes
from cmu_jax.training import train

SHAPE = (8, 8, 1)
MODELS = {
  'fc': networks.make('fc', 4, SHAPE, width=12),
  'convnet': networks.make('convnet', 4, SHAPE, width=1),
}


def drawn(seed, *shape):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), 'float32')


@pytest.fixture(params=MODELS)
def network(request):
  model = MODELS[request.param]
  return model, jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *SHAPE)))


def test_kernels_become_matrices_with_the_bias_as_last_row():
  tau = {
    'a': {'kernel': drawn(0, 3, 3, 2, 5)},
    'b': {'c': {'kernel': drawn(1, 4, 6), 'bias': drawn(2, 6)}},
    'norm': {'scale': jnp.ones(5), 'bias': jnp.ones(5)},
  }
  found = sensitivity.kernel_matrices(tau)
  assert {k: v.shape for k, v in found.items()} == {
    ('a',): (18, 5),
    ('b', 'c'): (5, 6),
  }
  np.testing.assert_array_equal(found['b', 'c'][-1], tau['b']['c']['bias'])


def test_the_head_s_sensitivity_is_its_features_second_moment(network):
  """For logits W^T z + b with r ~ N(0, I): E[G G^T] = k E[(z, 1)(z, 1)^T]."""
  model, variables = network
  image = drawn(3, 48, *SHAPE)
  features = model.features(variables, image)
  inputs = jnp.concatenate([features, jnp.ones((48, 1))], axis=1)
  expected = 4 * 4 * inputs.T @ inputs
  found = jnp.mean(
    jnp.stack(
      [
        sensitivity.estimate_sensitivity(k, model, variables, image)[('head',)]
        for k in jax.random.split(jax.random.key(1), 40)
      ]
    ),
    axis=0,
  )
  error = jnp.linalg.norm(found - expected) / jnp.linalg.norm(expected)
  assert error < 0.15


def one_layer(seed=4, n_in=6, rank=3):
  """A task vector, a singular moment, and a basis of what it spans."""
  tau = {'a': {'kernel': drawn(seed, n_in - 1, 4), 'bias': drawn(seed + 1, 4)}}
  basis = jnp.linalg.qr(drawn(seed + 2, n_in, n_in))[0]
  moment = basis[:, :rank] @ basis[:, :rank].T
  return tau, {('a',): moment}, basis, rank


@pytest.mark.parametrize('damping', [0.03, 0.3, 3.0])
def test_a_projection_scales_each_eigendirection_by_the_closed_form(damping):
  tau, moments, basis, rank = one_layer()
  found = jax.jit(sensitivity.project_vector)(tau, moments, damping)
  before = basis.T @ sensitivity.kernel_matrices(tau)['a',]
  after = basis.T @ sensitivity.kernel_matrices(found)['a',]
  mu = damping * rank / 6
  shrunk = np.where(np.arange(6) < rank, mu / (1 + mu), 1.0)[:, None] * before
  shrunk *= jnp.linalg.norm(before) / jnp.linalg.norm(shrunk)
  np.testing.assert_allclose(after, shrunk, atol=2e-5)


def test_the_limits_are_tau_itself_and_the_null_space():
  tau, moments, basis, rank = one_layer()
  wide = sensitivity.project_vector(tau, moments, 1e6)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), wide, tau
  )
  narrow = sensitivity.kernel_matrices(
    sensitivity.project_vector(tau, moments, 1e-5)
  )['a',]
  assert jnp.abs(basis[:, :rank].T @ narrow).max() < 1e-4
  assert jnp.linalg.norm(narrow) == pytest.approx(float(tree.norm(tau)))


def test_a_projection_ignores_the_scale_of_moments_and_keeps_tau_s_scale():
  tau, moments, *_ = one_layer()
  double = lambda x: jax.tree.map(lambda leaf: 2 * leaf, x)
  first = sensitivity.project_vector(tau, moments, 0.3)
  for other in (
    sensitivity.project_vector(tau, double(moments), 0.3),
    jax.tree.map(
      lambda x: x / 2, sensitivity.project_vector(double(tau), moments, 0.3)
    ),
  ):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), first, other
    )


def test_layers_without_a_kernel_and_zero_tau_stay_zero():
  tau = {'a': {'kernel': jnp.zeros((2, 3))}, 'n': {'scale': jnp.ones(3)}}
  found = sensitivity.project_vector(tau, {('a',): jnp.eye(2)}, 0.3)
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(found))


def one_hot(classes, sure=8.0):
  return sure * np.eye(3)[np.asarray(classes)]


BEFORE = one_hot([0, 1, 2, 1])
GRID = np.asarray([0.5, 1.0, 2.0, 4.0])
STAY = np.stack([BEFORE] * 4)
# Two of three others hit the target, then one, then none; none unsurely.
TRIGGERED = np.stack(
  [
    one_hot([0, 0, 0, 1]),
    one_hot([0, 0, 2, 1]),
    one_hot([0, 1, 2, 1], 2.0),
    one_hot([0, 1, 2, 1]),
  ]
)


def test_alpha_is_the_lowest_J_among_those_below_the_threshold():
  rule = distillation.Rule(target=0)
  choice, curve = distillation.choose_alpha(STAY, TRIGGERED, BEFORE, rule, GRID)
  assert (choice.alpha, choice.position, choice.selected) == (4.0, 3, True)
  np.testing.assert_allclose(
    curve['proxy_attack_success_rate'], [2 / 3, 1 / 3, 0, 0]
  )
  assert curve['J'][3] < curve['J'][2]
  # A lower J does not help where the trigger still works.
  flipped = distillation.choose_alpha(
    STAY, TRIGGERED[::-1], BEFORE, rule, GRID
  )[0]
  assert flipped.alpha == 0.5
  loose = distillation.Rule(target=0, threshold=0.4)
  assert (
    distillation.choose_alpha(STAY, TRIGGERED, BEFORE, loose, GRID)[0].alpha
    == 4.0
  )


def test_it_abstains_if_nothing_qualifies_or_too_much_changes():
  rule = distillation.Rule(target=0)
  stuck = np.stack([one_hot([0, 0, 0, 0])] * 4)
  nothing = distillation.choose_alpha(STAY, stuck, BEFORE, rule, GRID)[0]
  deleted = np.stack([one_hot([2, 1, 2, 1])] * 4)
  changed, curve = distillation.choose_alpha(
    deleted, TRIGGERED, BEFORE, rule, GRID
  )
  assert nothing == changed == (0.0, None, False)
  np.testing.assert_allclose(curve['agreement'], 0.75)


def test_a_pool_of_the_target_alone_is_refused():
  with pytest.raises(errors.UserError, match='class 0, the target, for all 4'):
    rule = distillation.Rule(target=0)
    distillation.choose_alpha(STAY, TRIGGERED, one_hot([0] * 4), rule, GRID)


def test_copies_carry_the_predictions_and_the_trigger():
  image = jnp.arange(2 * 64, dtype=jnp.uint8).reshape(2, *SHAPE)
  label = jnp.asarray([3, 1], jnp.int32)
  both = distillation.triggered_copies(image, label, True)
  assert both.has_trigger.tolist() == [True, True, False, False]
  assert both.label.tolist() == [3, 1, 3, 1]
  assert distillation.triggered_copies(
    image, label, False
  ).has_trigger.tolist() == [True, True]


@functools.cache
def digits():
  """A poisoned network for the digits, in a few seconds."""
  changes = {'model.width': '128', 'train.epochs': '30', 'seeds': '0,'}
  settings = config.load('configs/cuts_poison_digits.py', changes).config
  world = scene.load_world(settings)
  place = scene.draw_scene(settings, world, 0)
  image = world.inputs.eval(place.train.image[:1], None)
  start = jax.jit(world.model.init)(rng.fold_in(place.key, 'init'), image)
  fitted = train.fit(
    rng.fold_in(place.key, 'train'),
    Network(world.model, world.inputs),
    start,
    place.train,
    training=recipes.fit_options(
      settings.train, place.train.label.shape[0], 'train'
    ),
  )
  return settings, world, place, fitted.variables


@functools.cache
def repaired():
  settings, world, place, poisoned = digits()
  found, _ = backdoor.repair(scene.Case(settings, world, place, poisoned, 0))
  score = evaluate.make_scorer(settings, world)
  values = {
    name: score(network).values for name, (network, *_) in found.items()
  }
  return found, {**values, 'corrupted': score(poisoned).values}


@pytest.mark.slow
def test_the_trigger_goes_and_its_class_stays():
  found, values = repaired()
  before = values['corrupted']
  assert before['attack_success_rate'] > 0.9
  after = values['distill_projected']
  assert found['distill_projected'][2]['selected']
  assert after['attack_success_rate'] < 0.06
  assert after['target_class_accuracy'] >= 0.97
  assert after['test_accuracy'] >= before['test_accuracy'] - 0.01
  ours, plain = values['distill_projected'], values['distill_both']
  assert ours['target_class_accuracy'] >= plain['target_class_accuracy']


@pytest.mark.slow
def test_labels_of_the_pool_change_nothing():
  settings, world, place, poisoned = digits()
  hidden = place.proxy._replace(
    positions=place.proxy.positions[:, :3],
    label=jnp.full((1, 3), 7, jnp.int32),
    has_trigger=None,
  )
  options = recipes.fit_options(settings.proxy_train, 10, 'proxy_train')
  method = distillation.projected_distillation(
    Network(world.model, world.inputs), options._replace(steps=30)
  )
  first, second = (
    method(jax.random.key(9), poisoned, MethodInputs(proxy=proxy))[1]['tau']
    for proxy in (place.proxy, hidden)
  )
  jax.tree.map(np.testing.assert_array_equal, first, second)
  assert tree.norm(first) > 0


def test_an_abstention_returns_the_network_as_it_was():
  settings, world, place, poisoned = digits()
  options = recipes.fit_options(settings.proxy_train, 10, 'proxy_train')
  after, info = distillation.projected_distillation(
    Network(world.model, world.inputs),
    rule=distillation.Rule(alphas=(1e-4, 2e-4)),
    training=options._replace(steps=30),
  )(jax.random.key(9), poisoned, MethodInputs(proxy=place.proxy))
  assert (info['alpha'], info['selected']) == (0.0, False)
  jax.tree.map(np.testing.assert_array_equal, after, Variables(*poisoned))


def test_distillation_holds_running_statistics(network):
  model, variables = network
  logits, stats = finetuning.freeze_statistics(model).update(
    variables, drawn(5, 4, *SHAPE)
  )
  assert stats is variables.batch_stats
  np.testing.assert_array_equal(
    logits, model.apply(variables, drawn(5, 4, *SHAPE))
  )
  assert finetuning.freeze_statistics(model) is finetuning.freeze_statistics(
    model
  )
