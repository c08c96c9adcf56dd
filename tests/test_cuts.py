"""CUTS as a function of weights and proxy: algebra, source-freeness, rules."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmu_jax import networks
from cmu_jax.core import errors, tree
from cmu_jax.core.types import (
  Batch,
  MethodInputs,
  Network,
  Proxy,
  Training,
  Trigger,
  Variables,
)
from cmu_jax.data import input_step, proxy_sets, sources, splits
from cmu_jax.methods.cuts import algorithm, alpha_rules, alpha_search
from cmu_jax.training import optimizers, train

SHAPE = (8, 8, 1)
TRIGGER = Trigger(jnp.zeros((8, 8), bool).at[6:, 7].set(True), jnp.float32(255))
STEP = input_step.make((0.4,), (0.3,), trigger=TRIGGER)
ADAM = optimizers.adamw(optimizers.constant_schedule(1e-3))
MODELS = {
  'fc': networks.make('fc', 4, SHAPE, width=16),
  'convnet': networks.make('convnet', 4, SHAPE, width=1),
}


def pool(size=48, seed=0):
  generator = np.random.default_rng(seed)
  label = np.arange(size) % 4
  image = generator.integers(0, 60, (size, *SHAPE))
  image[np.arange(size), label, :, :] += 150
  return Batch(jnp.asarray(image, jnp.uint8), jnp.asarray(label, jnp.int32))


@pytest.fixture(
  scope='module',
  params=['fc', pytest.param('convnet', marks=pytest.mark.slow)],
)
def network(request):
  model = MODELS[request.param]
  start = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *SHAPE)))
  fitted = train.fit(
    jax.random.key(1),
    Network(model, STEP),
    start,
    pool(seed=1),
    training=Training(optimizer=ADAM, steps=60, batch_size=16),
  )
  return model, fitted.variables


def noisy_proxy(draws=2):
  return proxy_sets.make_proxy(jax.random.key(3), 'symmetric', pool(), draws, 4)


def direction(network, proxies, **options):
  model, variables = network
  training = Training(ADAM, options.pop('steps', 20), 16)
  return algorithm.direction(
    jax.random.key(2),
    Network(model, options.pop('inputs', STEP)),
    variables,
    proxies,
    training,
    **options,
  )


def test_tau_is_the_mean_over_separately_tuned_draws(network):
  model, variables = network
  proxies = noisy_proxy()
  tau, fitted = direction(network, proxies)
  keys = jax.random.split(jax.random.key(2), 2)
  single = [
    train.fit(
      keys[i],
      Network(model, STEP),
      variables,
      proxy_sets.draw_copy(proxies, i),
      training=Training(optimizer=ADAM, steps=20, batch_size=16),
    ).variables.params
    for i in range(2)
  ]
  expected = jax.tree.map(
    lambda a, b, p: (a + b) / 2 - p, *single, variables.params
  )
  excluded = tree.owns_statistics(variables)
  for path, leaf in jax.tree_util.tree_leaves_with_path(tau):
    want = functools.reduce(
      lambda t, name: t[name], tree.path_names(path), expected
    )
    if excluded(tree.path_names(path), leaf):
      assert not np.any(leaf)
    else:
      np.testing.assert_allclose(leaf, want, atol=2e-5)
      assert np.any(leaf)
  assert fitted.history.shape == (2, 20, 2)


def test_the_way_of_driving_does_not_change_tau(network):
  proxies = noisy_proxy()
  chex.assert_trees_all_close(
    direction(network, proxies, strategy='vmap')[0],
    direction(network, proxies, strategy='map')[0],
    atol=2e-5,
  )


@pytest.mark.parametrize('how', ['map', 'vmap'])
@pytest.mark.parametrize('head_input', ['raw', 'normalized'])
def test_a_curve_equals_editing_and_applying_one_by_one(
  network, how, head_input
):
  model, variables = network
  tau, _ = direction(network, noisy_proxy())
  image = STEP.eval(pool().image, None)
  grid = jnp.asarray([0.0, 0.7, 2.0])
  features, logits = alpha_search.curve(
    model,
    variables,
    tau,
    image,
    grid,
    lambda z, logits: (z, logits),
    head_input=head_input,
    drive=alpha_search.Drive(how, 2 if how == 'vmap' else None),
  )
  for i, a in enumerate(grid):
    edited = Variables(
      tree.edit(variables.params, tau, a), variables.batch_stats
    )
    expected = model.features(edited, image)
    np.testing.assert_allclose(features[i], expected, atol=2e-4)
    if head_input == 'raw':
      expected = model.apply(edited, image)
    else:
      size = jnp.linalg.norm(expected, axis=1, keepdims=True)
      expected = model.head(edited, expected / size)
    np.testing.assert_allclose(logits[i], expected, atol=2e-4)


def cuts_method(network, selection=None, **options):
  model, _ = network
  return algorithm.cuts(
    Network(model, STEP),
    training=Training(optimizer=ADAM, steps=20, batch_size=16),
    selection=selection,
    **options,
  )


def test_cuts_returns_theta_minus_alpha_tau_and_leaves_statistics(network):
  _, variables = network
  repaired, info = cuts_method(network)(
    jax.random.key(2), variables, MethodInputs(proxy=noisy_proxy())
  )
  chex.assert_trees_all_close(
    repaired.params, tree.edit(variables.params, info['tau'], info['alpha'])
  )
  chex.assert_trees_all_equal(repaired.batch_stats, variables.batch_stats)
  assert info['curve']['alpha'].shape == (81,)
  position = int(np.argmax(info['curve']['J']))
  assert info['position'] == position
  assert info['alpha'] == info['curve']['alpha'][position]


def test_cuts_sees_the_proxy_and_nothing_else(network, monkeypatch):
  proxies = noisy_proxy()
  method = cuts_method(network)
  assert method.needs == ('proxy',)

  def gone(*args, **kwargs):
    raise AssertionError('the training data is gone')

  for module, name in (
    (sources, 'load'),
    (splits, 'take'),
    (splits, 'hold_out'),
  ):
    monkeypatch.setattr(module, name, gone)
  assert Proxy._fields == ('image', 'positions', 'label', 'has_trigger')
  _, info = method(jax.random.key(2), network[1], MethodInputs(proxy=proxies))
  assert info['selected']


def test_alpha_does_not_depend_on_the_proxy_labels_beyond_tau(network):
  model, variables = network
  proxies = noisy_proxy()
  tau, _ = direction(network, proxies)
  rule = alpha_search.Selection()
  one = alpha_search.select_alpha(
    Network(model, STEP), variables, tau, proxies, selection=rule
  )
  blind = proxies._replace(label=jnp.zeros_like(proxies.label))
  other = alpha_search.select_alpha(
    Network(model, STEP), variables, tau, blind, selection=rule
  )
  assert one[0] == other[0]


def poisoned_proxy():
  return proxy_sets.make_proxy(
    jax.random.key(3), 'poison', pool(), 1, 4, trigger=TRIGGER
  )


def test_poison_abstains_where_no_alpha_qualifies(network):
  _, variables = network
  rule = alpha_search.Selection(kind='poison', alphas=(0.0, 1e-6), target=0)
  proxies = poisoned_proxy()
  # The model is taught the backdoor, so nothing this small undoes it.
  tau, _ = direction(network, proxies, steps=150)
  backdoored = Variables(
    tree.edit(variables.params, tau, -1.0), variables.batch_stats
  )
  repaired, info = cuts_method(network, rule)(
    jax.random.key(2), backdoored, MethodInputs(proxy=proxies)
  )
  assert info['alpha'] == 0.0 and info['selected'] is False
  assert info['position'] is None
  assert np.all(info['curve']['proxy_attack_success_rate'] > 0.01)
  chex.assert_trees_all_equal(repaired.params, backdoored.params)


def test_poison_takes_the_first_alpha_that_qualifies(network):
  _, variables = network
  rule = alpha_search.Selection(kind='poison', target=0)
  _, info = cuts_method(network, rule)(
    jax.random.key(2), variables, MethodInputs(proxy=poisoned_proxy())
  )
  rates = info['curve']['proxy_attack_success_rate']
  assert rates.shape == (100,)
  if info['selected']:
    first = info['position']
    assert round(float(rates[first]), 2) <= 0.01
    assert all(round(float(r), 2) > 0.01 for r in rates[:first])


def test_poison_rates_are_those_of_stamped_images(network):
  model, variables = network
  proxies = poisoned_proxy()
  zero = jax.tree.map(jnp.zeros_like, variables.params)
  rule = alpha_search.Selection(kind='poison', alphas=(1.0,), target=2)
  _, curve = alpha_search.select_alpha(
    Network(model, STEP), variables, zero, proxies, selection=rule
  )
  batch = proxy_sets.draw_copy(proxies, 0)
  stamped = STEP.eval(batch.image, jnp.ones(batch.label.shape, bool))
  expected = np.mean(np.argmax(model.apply(variables, stamped), 1) == 2)
  np.testing.assert_allclose(
    curve['proxy_attack_success_rate'], [expected], atol=1e-6
  )


def test_a_proxy_below_two_images_a_class_is_refused(network):
  small = noisy_proxy()
  small = small._replace(
    image=small.image[:7],
    positions=small.positions[:, :7] % 7,
    label=small.label[:, :7],
  )
  with pytest.raises(errors.UserError, match='at least 8 are needed'):
    cuts_method(network)(
      jax.random.key(2), network[1], MethodInputs(proxy=small)
    )


def test_the_default_measure_is_the_published_objective(network):
  model, variables = network
  proxies = noisy_proxy()
  tau, _ = direction(network, proxies)
  _, curve = alpha_search.select_alpha(
    Network(model, STEP),
    variables,
    tau,
    proxies,
    selection=alpha_search.Selection(),
  )
  edited = Variables(
    tree.edit(variables.params, tau, 0.5), variables.batch_stats
  )
  image = STEP.eval(proxies.image, None)
  expected = alpha_rules.agreement(
    model.features(edited, image),
    model.apply(edited, image),
    k=alpha_rules.neighbour_count(48, 4),
  )
  np.testing.assert_allclose(curve['J'][10], expected.J, atol=1e-3)
