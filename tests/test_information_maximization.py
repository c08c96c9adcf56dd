"""Information maximisation: closed forms, a recomputation, frozen parts."""

import jax
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp

from cmu_jax import networks
from cmu_jax.core import errors
from cmu_jax.core.types import MethodInputs, Network, Training, Variables
from cmu_jax.data import input_step
from cmu_jax.methods.unlabelled import halves
from cmu_jax.methods.unlabelled import information_maximization as im

STEP = input_step.make((0.5,), (0.25,))
UNIFORM = jnp.log(jnp.full(4, 0.25))


@pytest.fixture(scope='module')
def network():
  return Network(networks.make('fc', 4, (4, 4, 1), width=8), STEP)


@pytest.fixture(scope='module')
def image():
  return np.random.default_rng(0).integers(0, 256, (30, 4, 4, 1), np.uint8)


@pytest.fixture(scope='module')
def variables(network, image):
  first = STEP.eval(jnp.asarray(image[:1]), None)
  return network.model.init(jax.random.key(0), first)


def test_sure_and_varied_answers_have_no_loss():
  sure = 100.0 * jnp.eye(4)
  loss = jax.jit(im.information_loss)
  np.testing.assert_allclose(loss(sure, UNIFORM), 0.0, atol=1e-5)
  # A single class for all pictures is sure and not varied.
  same = jnp.tile(sure[:1], (4, 1))
  np.testing.assert_allclose(loss(same, UNIFORM), np.log(4), rtol=1e-5)
  # No knowledge is varied on average and not sure.
  np.testing.assert_allclose(
    loss(jnp.zeros((4, 4)), UNIFORM), np.log(4), rtol=1e-5
  )


def test_the_loss_is_least_where_the_answers_have_the_prior():
  prior = jnp.array([0.5, 0.25, 0.125, 0.125])
  counts = {'prior': [4, 2, 1, 1], 'even': [2, 2, 2, 2]}
  losses = {
    name: float(
      im.information_loss(
        100.0 * jnp.eye(4)[jnp.repeat(jnp.arange(4), jnp.array(count))],
        jnp.log(prior),
      )
    )
    for name, count in counts.items()
  }
  np.testing.assert_allclose(losses['prior'], 0.0, atol=1e-5)
  divergence = float((0.25 * np.log(0.25 / np.asarray(prior))).sum())
  np.testing.assert_allclose(losses['even'], divergence, rtol=1e-5)


def test_half_precision_logits_have_a_loss_in_single_precision():
  logits = jnp.eye(4, dtype=jnp.bfloat16)
  loss = im.information_loss(logits, UNIFORM)
  assert loss.dtype == jnp.float32
  wide = im.information_loss(logits.astype(jnp.float32), UNIFORM)
  np.testing.assert_array_equal(loss, wide)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(2, 6), st.integers(1, 9))
def test_the_loss_is_the_negative_mutual_information(seed, classes, count):
  """L = log k - I(x; class) with a uniform prior, by its definition."""
  rng = np.random.default_rng(seed)
  logits = rng.normal(0, 3, (count, classes)).astype(np.float32)
  p = np.exp(logits - logits.max(1, keepdims=True))
  p /= p.sum(1, keepdims=True)
  information = (p * np.log(p / p.mean(0))).sum(1).mean()
  uniform = jnp.log(jnp.full(classes, 1 / classes))
  loss = im.information_loss(jnp.asarray(logits), uniform)
  np.testing.assert_allclose(loss, np.log(classes) - information, atol=1e-4)


def linear_network():
  """Features A x and a head B, as two functions with names of their own."""
  model = networks.from_functions(
    features=lambda v, x: x.reshape(x.shape[0], -1) @ v.params['first'],
    head=lambda v, z: z @ v.params['last'] + v.params['shift'][None],
  )
  rng = np.random.default_rng(1)
  params = {
    'first': rng.normal(0, 0.3, (16, 5)),
    'last': rng.normal(0, 0.5, (5, 4)),
    'shift': rng.normal(0, 0.1, 4),
  }
  params = {k: jnp.asarray(v, jnp.float32) for k, v in params.items()}
  return Network(model, STEP), Variables(params, {})


def test_a_step_is_that_of_a_recomputation_in_numpy(image):
  """d L / d logits by hand, the chain rule by hand; momentum over two steps."""
  net, start = linear_network()
  training = Training(optax.sgd(0.1, momentum=0.9), 2, 30)
  method = im.information_maximization(net, training)
  data = MethodInputs(ordinary=im.wrap_pictures(image))
  adapted, info = method(jax.random.key(0), start, data)
  first, last, shift = (
    np.asarray(start.params[k], np.float64) for k in ('first', 'last', 'shift')
  )
  x = ((image / 255.0 - 0.5) / 0.25).reshape(30, -1)
  velocity = 0.0
  for _ in range(2):
    logits = x @ first @ last + shift
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    # dL/dp = (log mean p - log p + const) / n, through the softmax.
    by_p = (np.log(p.mean(0)) - np.log(p)) / 30
    by_logits = p * (by_p - (p * by_p).sum(1, keepdims=True))
    velocity = 0.9 * velocity + x.T @ by_logits @ last.T
    first = first - 0.1 * velocity
  np.testing.assert_allclose(adapted.params['first'], first, atol=2e-6)
  np.testing.assert_array_equal(adapted.params['last'], start.params['last'])
  np.testing.assert_array_equal(adapted.params['shift'], start.params['shift'])
  assert info['gradient_evaluations'] == 60


def test_the_head_moves_only_if_it_is_told_to(network, variables, image):
  data = MethodInputs(ordinary=im.wrap_pictures(image))
  training = im.make_training(30, learning_rate=0.1, steps=3)
  for freeze_head in (True, False):
    method = im.information_maximization(
      network, training, freeze_head=freeze_head
    )
    adapted, _ = method(jax.random.key(0), variables, data)
    moved = {
      name: any(
        np.any(np.asarray(a) != np.asarray(b))
        for a, b in zip(
          jax.tree.leaves(adapted.params[name]),
          jax.tree.leaves(variables.params[name]),
          strict=True,
        )
      )
      for name in variables.params
    }
    assert moved == {'body': True, 'head': not freeze_head}


def test_no_label_is_read(network, variables, image):
  training = im.make_training(30, steps=4)
  method = im.information_maximization(network, training)
  samples = im.wrap_pictures(image)
  other = samples._replace(
    batch=samples.batch._replace(label=samples.batch.label + 3)
  )
  results = [
    method(jax.random.key(1), variables, MethodInputs(ordinary=part))[0]
    for part in (samples, other)
  ]
  jax.tree.map(np.testing.assert_array_equal, *results)


@pytest.mark.parametrize(
  'prior', [(0.5, 0.5), (0.5, 0.5, 0.0, 0.0), (0.5, 0.5, 0.5, 0.5)]
)
def test_a_prior_that_is_no_distribution_is_refused(
  network, variables, image, prior
):
  method = im.information_maximization(
    network, im.make_training(30, steps=1), prior=prior
  )
  data = MethodInputs(ordinary=im.wrap_pictures(image))
  with pytest.raises(errors.UserError, match=r'class prior.*give 4 shares'):
    method(jax.random.key(0), variables, data)


def test_the_pictures_are_named_where_they_are_missing(network, variables):
  method = im.information_maximization(network, im.make_training(30))
  with pytest.raises(errors.UserError, match='needs ordinary'):
    method(jax.random.key(0), variables, MethodInputs())


def run_halves(network, variables, image, **changes):
  training = im.make_training(
    len(image) // 2, **{'steps': 5, 'learning_rate': 0.05, **changes}
  )
  return halves.run_halves(
    jax.random.key(2),
    network,
    variables,
    im.wrap_pictures(image),
    im.information_maximization(network, training),
  )


def test_the_halves_share_no_picture(network, variables, image):
  """A run does not change with the pictures of the other half."""
  reference = run_halves(network, variables, image)
  counts = {'run_a': 0, 'run_b': 0}
  for row in range(len(image)):
    other = image.copy()
    other[row] = 255 - other[row]
    runs = run_halves(network, variables, other)
    for name in counts:
      pair = getattr(runs, name), getattr(reference, name)
      counts[name] += not all(
        np.array_equal(a, b)
        for a, b in zip(*map(jax.tree.leaves, pair), strict=True)
      )
  assert counts == {'run_a': 15, 'run_b': 15}


def test_the_mean_lies_in_the_middle_of_both_runs(network, variables, image):
  runs = run_halves(network, variables, image)
  middle = jax.tree.map(
    lambda a, b: (np.asarray(a) + np.asarray(b)) / 2, runs.run_a, runs.run_b
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
    halves.mean(runs),
    middle,
  )


def test_the_way_begins_without_changes(network, variables, image):
  runs = run_halves(network, variables, image, learning_rate=1.0)
  curve = halves.trace(
    network, variables, runs, im.wrap_pictures(image), (0.0, 1.0)
  )
  assert curve['alike'][0] == curve['alone'][0] == 0
  assert curve['alike'][1] + curve['alone'][1] > 0


def test_a_network_is_left_alone_without_evidence(network, variables, image):
  """A step of length 0 changes nothing, so nothing speaks for it."""
  method = halves.safe_information_maximization(
    network, im.make_training(15, steps=3, learning_rate=1e-9)
  )
  data = MethodInputs(ordinary=im.wrap_pictures(image))
  result, info = method(jax.random.key(0), variables, data)
  assert not info['evidence'].repaired
  assert info['evidence'].reason == 'gain'
  jax.tree.map(np.testing.assert_array_equal, result, variables)


def test_too_few_pictures_are_refused(network, variables, image):
  with pytest.raises(errors.UserError, match='3 ordinary pictures'):
    run_halves(network, variables, image[:3])


def test_an_augmentation_is_known_or_not():
  """A mean of all pixels knows mirror images; a single pixel does not."""
  flips = input_step.make((0.5,), (0.25,), flip=True)
  flat = lambda x: x.reshape(x.shape[0], -1)
  half = np.zeros((100, 4, 4, 1), np.uint8)
  half[:, :, 2:] = 255
  pixels = {'all': np.ones(16), 'one': np.eye(16)[0]}
  for name, weight in pixels.items():
    model = networks.from_functions(
      features=lambda v, x: flat(x) @ v.params['w'],
      head=lambda v, z: z @ v.params['head'],
    )
    params = {
      'w': jnp.asarray(weight[:, None], jnp.float32),
      'head': jnp.array([[-9.0, 9.0]]),
    }
    known = im.knows_augmentation(
      jax.random.key(0),
      Network(model, flips),
      Variables(params, {}),
      im.wrap_pictures(half),
    )
    assert known == (name == 'all')
