"""CUTS on S_f: algebra, the grid as one program, the published choices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmu_jax import networks
from cmu_jax.core import rng
from cmu_jax.core.types import (
  Batch,
  MethodInputs,
  Network,
  Samples,
  Training,
  Trigger,
  Variables,
)
from cmu_jax.data import input_step
from cmu_jax.methods.cuts import alpha_rules, alpha_search, forget_proxy
from cmu_jax.training import descent, optimizers, train

SHAPE = (8, 8, 1)
MASK = jnp.zeros((8, 8), bool).at[6:, 6:].set(True)
STEP = input_step.make((0.4,), (0.3,), trigger=Trigger(MASK, jnp.float32(255)))
ADAM = optimizers.adamw(optimizers.constant_schedule(5e-3))
CLASSES, TOTAL, BAD = 4, 160, 24
TRAINING = Training(optax.sgd(1.0), steps=40, batch_size=8)


@functools.cache
def network():
  """A network that has learnt its samples, the bad ones with their trigger."""
  model = networks.make('fc', CLASSES, SHAPE, width=16)
  begin = jax.jit(model.init)(rng.fold_in(0), jnp.zeros((1, *SHAPE)))
  fitted = train.fit(
    rng.fold_in(1),
    Network(model, STEP),
    begin,
    rows(),
    training=Training(optimizer=ADAM, steps=150, batch_size=32),
  )
  return model, fitted.variables


@functools.cache
def rows():
  generator = np.random.default_rng(0)
  label = np.arange(TOTAL) % CLASSES
  image = generator.integers(0, 60, (TOTAL, *SHAPE))
  image[np.arange(TOTAL), label, :, :] += 150
  bad = np.arange(TOTAL) < BAD
  given = jnp.asarray(np.where(bad, 0, label))
  return Batch(jnp.asarray(image, jnp.uint8), given, jnp.asarray(bad))


def forget(count=BAD, capacity=BAD, start=0):
  """S_f as the benchmark gives it: rows that are not valid are copies."""
  index = start + np.arange(capacity) % count
  batch = jax.tree.map(lambda x: x[index], rows())
  return Samples(batch, jnp.ones(capacity, bool), jnp.arange(capacity) < count)


def poison(threshold=0.1):
  return alpha_search.Selection('poison', threshold=threshold)


def made(selection=None, **options):
  model, _ = network()
  return forget_proxy.cuts_forget(
    Network(model, STEP), TRAINING, selection=selection, **options
  )


@functools.cache
def prepared():
  return made().prepare(
    rng.fold_in(2), network()[1], MethodInputs(forget=forget())
  )


def test_the_grid_is_the_released_one_with_one_in_front():
  values = [point['cuts_coefficient'] for point in made().grid]
  assert values[0] == 1.0
  np.testing.assert_allclose(sorted(values), np.arange(1, 101) / 20)
  assert made().needs == made(poison()).needs == ('forget',)
  assert made().elementwise and not made(poison()).elementwise
  assert made(poison()).grid == ({},)


@pytest.mark.slow
def test_tau_is_the_fine_tuning_without_batch_norm():
  model = networks.make('convnet', CLASSES, SHAPE, width=1)
  variables = jax.jit(model.init)(rng.fold_in(0), jnp.zeros((1, *SHAPE)))
  phase = descent.Phase(
    lambda v, draws, context, hyper, time: _plain(model, v, draws['forget']),
    (('forget', 8),),
  )
  recipe = descent.Recipe((phase,), TRAINING.optimizer, STEP)
  tuned, cost = descent.descend(
    rng.fold_in(2), recipe, descent.Start(variables, {'forget': forget()}, 3)
  )
  method = forget_proxy.cuts_forget(
    Network(model, STEP), training=TRAINING._replace(steps=3)
  )
  found = method.prepare(
    rng.fold_in(2), variables, MethodInputs(forget=forget())
  )
  assert found['cost'] == cost == 3 * 8
  norms = 0
  flat = jax.tree_util.tree_leaves_with_path(found['tau'])
  ends = jax.tree.leaves(tuned.params)
  for (path, tau), end, begin in zip(
    flat, ends, jax.tree.leaves(variables.params), strict=True
  ):
    normalised = 'norm' in jax.tree_util.keystr(path).lower()
    norms += normalised
    wanted = np.zeros(tau.shape) if normalised else np.asarray(end - begin)
    np.testing.assert_allclose(np.asarray(tau), wanted, atol=1e-6)
  assert norms


def _plain(model, variables, draw):
  logits, stats = model.update(variables, draw.image)
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, draw.label)
  return loss.mean(), stats


def test_zero_is_the_identity_and_other_points_subtract():
  _, variables = network()
  method, shared = made(), prepared()
  points = jnp.array([0.0, 0.5, 3.0])
  found, info = jax.jit(
    lambda shared, points: jax.lax.map(
      lambda c: method.solve(
        rng.fold_in(0), variables, None, shared, {'cuts_coefficient': c}
      ),
      points,
    )
  )(shared, points)
  np.testing.assert_array_equal(np.asarray(info['gradient_evaluations']), 320)
  for place, c in enumerate(points):
    wanted = jax.tree.map(
      lambda p, t, c=c: p - c * t, variables.params, shared['tau']
    )
    here = jax.tree.map(lambda x, place=place: x[place], found)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    jax.tree.map(close, here.params, wanted)
    jax.tree.map(
      np.testing.assert_array_equal, here.batch_stats, variables.batch_stats
    )
  first = jax.tree.map(lambda x: x[0], found)
  jax.tree.map(np.testing.assert_array_equal, first.params, variables.params)


@jax.jit
def _rates(variables, tau, batch):
  """The share of a batch that keeps its trained label, for the whole grid."""
  image = STEP.eval(batch.image, batch.has_trigger)

  def at(c):
    params = jax.tree.map(lambda p, t: p - c * t, variables.params, tau)
    edited = Variables(params, variables.batch_stats)
    logits = network()[0].apply(edited, image)
    return jnp.mean(jnp.argmax(logits, -1) == batch.label)

  return jax.lax.map(at, jnp.arange(101) / 20)


def test_poison_takes_the_smallest_coefficient_that_empties_s_f():
  _, variables = network()
  method, given = made(poison()), MethodInputs(forget=forget(9))
  shared = method.prepare(rng.fold_in(2), variables, given)
  found, info = method.solve(rng.fold_in(3), variables, given, shared, {})
  batch = jax.tree.map(lambda x: x[:9], forget(9).batch)
  rates = np.asarray(_rates(variables, shared['tau'], batch))
  wanted = 0.05 * int(np.argmax(rates < 0.105))
  assert rates[0] > 0.9 and 1 < wanted < 5
  assert info['selected'] and info['cuts_coefficient'] == pytest.approx(wanted)
  same = lambda p, q, t: np.testing.assert_allclose(
    q, p - wanted * t, rtol=1e-5, atol=1e-6
  )
  jax.tree.map(same, variables.params, found.params, shared['tau'])


def test_where_no_coefficient_qualifies_nothing_changes():
  _, variables = network()
  method, given = made(poison()), MethodInputs(forget=forget())
  still = jax.tree.map(jnp.zeros_like, prepared())
  found, info = method.solve(rng.fold_in(3), variables, given, still, {})
  assert (info['selected'], info['cuts_coefficient']) == (False, 0.0)
  jax.tree.map(np.testing.assert_array_equal, found, variables)


@pytest.mark.parametrize('kind', ['poison', 'label_noise'])
def test_the_choice_sees_no_row_that_is_not_valid(kind):
  model, variables = network()
  samples, tau = forget(20, 40, start=10), prepared()['tau']
  bad = ~np.asarray(samples.valid)
  batch = samples.batch
  image = np.where(bad[:, None, None, None], 255, np.asarray(batch.image))
  label = np.where(bad, 3, np.asarray(batch.label))
  other = samples._replace(
    batch=Batch(
      jnp.asarray(image, jnp.uint8), jnp.asarray(label), batch.has_trigger
    )
  )
  selection = alpha_search.Selection(kind, (0.0, 0.5, 1.0, 2.0), threshold=0.5)
  choose = lambda x: forget_proxy.choose_coefficient(
    Network(model, STEP), variables, tau, x, selection
  )
  assert choose(samples) == choose(other)


def test_wrong_labels_take_the_coefficient_of_the_largest_agreement():
  model, variables = network()
  samples, tau = forget(20, 40, start=10), prepared()['tau']
  alphas = (0.0, 0.5, 1.0, 2.0)
  found = forget_proxy.choose_coefficient(
    Network(model, STEP),
    variables,
    tau,
    samples,
    alpha_search.Selection(alphas=alphas),
  )
  batch = jax.tree.map(lambda x: x[:20], samples.batch)
  present = len(set(np.asarray(batch.label).tolist()))
  measure = functools.partial(
    alpha_rules.agreement, k=20 // (2 * present), class_share=present / CLASSES
  )
  image = STEP.eval(batch.image, batch.has_trigger)
  curve = alpha_search.curve(
    model, variables, tau, image, jnp.asarray(alphas), measure
  )
  assert found.selected
  assert found.alpha == alphas[int(np.argmax(np.asarray(curve.J)))]


def test_a_single_image_leaves_the_network_alone():
  model, variables = network()
  found = forget_proxy.choose_coefficient(
    Network(model, STEP),
    variables,
    prepared()['tau'],
    forget(1, 4),
    alpha_search.Selection(),
  )
  assert found == alpha_rules.AlphaChoice(0.0, None, False)


def test_frozen_parts_stay():
  _, variables = network()
  method = made(frozen=('head',))
  tau = method.prepare(
    rng.fold_in(2), variables, MethodInputs(forget=forget())
  )['tau']
  assert not jax.tree.reduce(lambda a, x: a + abs(x).sum(), tau['head'], 0.0)
  assert jax.tree.reduce(lambda a, x: a + abs(x).sum(), tau['body'], 0.0)
