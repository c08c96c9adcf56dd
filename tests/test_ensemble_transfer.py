"""TRS, the ensemble as one network, and transfer rates."""

import math

import ensemble_case
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmu_jax import networks
from cmu_jax.core import errors, rng
from cmu_jax.core.types import Network, Variables
from cmu_jax.robustness import attacks
from cmu_jax.studies.ensembles import members, training, transfer, trs
from cmu_jax.training import metrics


def test_the_mean_of_probabilities_is_the_ensemble():
  found, variables = ensemble_case.networks()
  image = ensemble_case.PIXELS.eval(ensemble_case.batch(5).image, None)
  each = [
    jax.nn.softmax(
      found.one(variables, i)[0].apply(found.one(variables, i)[1], image)
    )
    for i in range(3)
  ]
  np.testing.assert_allclose(
    jnp.exp(found.model.apply(variables, image)),
    np.mean(each, axis=0),
    rtol=1e-5,
  )


@pytest.mark.slow
def test_trs_of_linear_members_in_closed_form():
  """Of one class against another by a linear margin, gradients are known."""
  draw = np.random.default_rng(1)
  weights = draw.normal(size=(2, 3, 5)).astype(np.float32)
  model = networks.from_functions(
    lambda v, x: x.reshape(x.shape[0], -1), lambda v, x: x @ v.params.T
  )
  found = members.stack_members(model, 2, (), 'vmap')
  variables = Variables(jnp.asarray(weights), {})
  image = jnp.asarray(draw.normal(size=(4, 1, 1, 5)), jnp.float32)
  label = jnp.asarray([0, 1, 2, 0])
  both = jnp.broadcast_to(image, (2, *image.shape))
  slope = jax.jit(lambda x: trs.compute_slopes(found, variables, x, label))(
    both
  )
  for i in range(2):
    p = jax.nn.softmax(image.reshape(4, 5) @ weights[i].T)
    expected = (p - jax.nn.one_hot(label, 3)) @ weights[i]
    np.testing.assert_allclose(slope[i], expected, rtol=1e-4, atol=1e-6)
  assert trs.measure_likeness(
    jnp.stack([slope[0], -2 * slope[0]])
  ) == pytest.approx(1, rel=1e-4)
  far = trs.find_worst_images(
    found, variables, image, label, jnp.full(5, 0.1), 3
  )
  assert np.abs(far - both).max() <= 0.1 + 1e-6
  loss = lambda x: jnp.sum(
    optax.softmax_cross_entropy_with_integer_labels(
      jnp.einsum('ibd,ikd->ibk', x.reshape(2, 4, 5), weights),
      label[None] * jnp.ones((2, 1), jnp.int32),
    )
  )
  assert loss(far) > loss(both)
  term = trs.trs(found, (0.5,), cosine=2.0, smooth=0.0)
  value = term.value(variables, (), image, label)
  np.testing.assert_allclose(value, 2 * trs.measure_likeness(slope), rtol=1e-5)


def test_trs_trains():
  found, variables = ensemble_case.networks()
  term = trs.trs(found, (0.5,), steps=2)
  fitted = training.fit(
    ensemble_case.KEY,
    ensemble_case.recipe(found, term),
    variables,
    ensemble_case.batch(),
    steps=3,
  )
  assert np.all(np.asarray(fitted.history)[:, training.PENALTY] > 0)


def test_transfer_rates_by_hand():
  label = np.asarray([0, 0, 1, 1, 2])
  source = np.asarray([0, 0, 1, 1, 0])
  target = np.asarray([0, 1, 1, 1, 2])
  hit = np.asarray([1, 1, 0, 1, 0])
  other = np.asarray([0, 1, 0, 0, 0])
  # Both right and F fooled: images 0 and 2; G is fooled on the second.
  assert transfer.transfer_rate(label, source, target, hit, other) == 0.5
  assert transfer.joint_failure(label, hit, other) == pytest.approx(3 / 5)
  assert transfer.robust_accuracy(label, source, hit) == 0.25


def test_transfer_rates_at_their_limits():
  label = np.asarray([0, 1, 2])
  fooled = np.asarray([1, 2, 0])
  rate = transfer.transfer_rate
  assert rate(label, label, label, fooled, fooled) == 1
  assert rate(label, label, label, fooled, label) == 0
  assert math.isnan(rate(label, label, label, label, fooled))
  found = transfer.over_pairs(
    label, np.stack([label, label]), np.stack([[label, fooled]] * 2)
  )
  assert found['t_rate'] == 0
  assert transfer.replace_nan({'a': math.nan, 'b': 1.0}) == {
    'a': None,
    'b': 1.0,
  }


@pytest.mark.parametrize('name', transfer.THREATS)
def test_threat_models(name):
  """Both stay where they say; the clamp changes images without any attack."""
  found, variables = ensemble_case.networks()
  batch = ensemble_case.batch(10)
  one = transfer.make_threat(name, ensemble_case.PIXELS, 8)
  attack = attacks.pgd(0.05, steps=2)
  model, own = found.one(variables, 0)
  made = one.craft(ensemble_case.KEY, attack, model, own, batch)
  seen = ensemble_case.PIXELS.eval(batch.image, None)
  if name == 'correct':
    moved = np.abs(made.image / 255 - batch.image / 255)
    assert moved.max() <= 0.05 + 1e-6 and moved.max() > 0.01
    assert one.start(batch) is batch
  else:
    assert made.image.min() >= 0 and made.image.max() <= 1
    inside = np.clip(
      made.image, np.clip(seen - 0.05, 0, 1), np.clip(seen + 0.05, 0, 1)
    )
    np.testing.assert_allclose(made.image, inside, atol=1e-6)
    np.testing.assert_allclose(one.start(batch).image, jnp.clip(seen, 0, 1))
  assert one.predict(model, own, made).shape == (10,)
  with pytest.raises(errors.UserError, match='paper_compat_clamp'):
    transfer.make_threat('paper_compat', ensemble_case.PIXELS, 8)


def test_rates_under_an_attack_without_effect():
  found, variables = ensemble_case.networks()
  batch = ensemble_case.batch(10)
  clean = lambda model, own: metrics.predict(
    Network(model, ensemble_case.PIXELS), own, batch, 8
  )
  networks = [found.one(variables, i) for i in range(3)]
  rates = transfer.measure_transfer(
    rng.fold_in(ensemble_case.KEY, 'attack'),
    transfer.Targets(networks, (found.model, variables), networks[0]),
    batch,
    attacks.pgd(1e-6, steps=1),
    transfer.make_threat('correct', ensemble_case.PIXELS, 8),
    clean,
  )
  assert math.isnan(rates['t_rate'])
  right = clean(found.model, variables) == np.asarray(batch.label)
  assert rates['untouched_accuracy'] == pytest.approx(right.mean())
