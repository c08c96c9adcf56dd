"""Methods that fine-tune: two steps of each by hand, limits, masks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import unlearning_case as case
from close import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from states import same

from cmu_jax.core import jit
from cmu_jax.core.types import Network, Training
from cmu_jax.data import input_step
from cmu_jax.methods import ascent, objectives, relabelling, retraining
from cmu_jax.training import descent

GIVEN = case.given()


@pytest.fixture(autouse=True)
def _quickly():
  with jit.skip_optimizations(True):
    yield


def _relabelled(labels):
  batch = GIVEN.forget.batch._replace(label=jnp.asarray(labels, jnp.int32))
  return GIVEN.forget._replace(batch=batch)


def _npo(params, beta, start):
  ratio = case.log_p(params, GIVEN.forget) - case.log_p(start, GIVEN.forget)
  term = -2 / beta * jnp.log(1 / (1 + jnp.exp(beta * ratio)))
  return case.ce(params, GIVEN.retain) + term.mean()


def _l1(params, penalty):
  total = sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(params))
  return case.ce(params, GIVEN.retain) + penalty * total


def _second(start):
  image = np.asarray(GIVEN.forget.batch.image, np.float32) / 255
  found = np.array(case.logits(start, image))
  found[np.arange(len(found)), np.asarray(GIVEN.forget.batch.label)] = -np.inf
  return found.argmax(-1)


def _toward(labels, weight):
  part = _relabelled(labels)

  def loss(params):
    return case.ce(params, GIVEN.retain) + weight * case.ce(params, part)

  return loss


# Name -> factory, gradients an image and step, and (hyper, step of 2, theta_o,
# prepared) -> the loss of params.
BY_HAND = {
  'cf': (
    retraining.finetune,
    1,
    lambda h, t, o, p: lambda x: case.ce(x, GIVEN.retain),
  ),
  'neggrad_plus': (
    ascent.neggrad_plus,
    2,
    lambda h, t, o, p: (
      lambda x: (
        h['retain_weight'] * case.ce(x, GIVEN.retain)
        - (1 - h['retain_weight']) * case.ce(x, GIVEN.forget)
      )
    ),
  ),
  'gradient_ascent': (
    ascent.gradient_ascent,
    1,
    lambda h, t, o, p: lambda x: -h['strength'] * case.ce(x, GIVEN.forget),
  ),
  'npo': (ascent.npo, 2, lambda h, t, o, p: lambda x: _npo(x, h['beta'], o)),
  'random_label': (
    relabelling.random_label,
    2,
    lambda h, t, o, p: _toward(p[0].batch.label, h['forget_weight']),
  ),
  'relabel_second': (
    relabelling.relabel_second,
    2,
    lambda h, t, o, p: _toward(_second(o), h['forget_weight']),
  ),
  'l1_sparse': (
    retraining.l1_sparse,
    1,
    lambda h, t, o, p: lambda x: _l1(x, h['l1'] * (1 - t / 2)),
  ),
}


@pytest.mark.parametrize('name', BY_HAND)
def test_two_steps_are_those_of_the_formula(name):
  factory, passes, formula = BY_HAND[name]
  method, prepared, found, info = case.solved(factory, None, GIVEN)
  start = case.start()

  def expected(hyper):
    losses = [formula(hyper, t, start, prepared) for t in range(2)]
    return case.descended(losses, start)

  assert_close(found.params, expected(method.grid[0]), rtol=1e-5)
  assert info == {'gradient_evaluations': 2 * passes * case.COUNT}
  _, variables = case.network()
  with jax.no_tracing():  # Points of a grid share one compilation.
    again, _ = method.solve(
      case.KEY, variables, GIVEN, prepared, method.grid[-1]
    )
  assert_close(again.params, expected(method.grid[-1]), rtol=1e-5)


@pytest.mark.parametrize('name', BY_HAND)
def test_methods_declare_what_they_read(name):
  factory, passes, _ = BY_HAND[name]
  model, _ = case.network()
  method = factory(Network(model, case.PIXELS), Training(optax.sgd(1.0), 1, 2))
  wanted = {'retain', 'forget'} if passes == 2 else {'retain'}
  wanted = {'forget'} if name == 'gradient_ascent' else wanted
  assert set(method.needs) == wanted
  assert len({tuple(point) for point in method.grid}) == 1


@pytest.mark.slow
def test_neggrad_of_weight_one_is_cf():
  """With the same order and augmentation, in a network without BatchNorm."""
  step, made = input_step.make((0.5,), (0.5,), pad=1, flip=True), []
  model, variables = case.network()
  for factory in (retraining.finetune, ascent.neggrad_plus):
    method = factory(Network(model, step), Training(optax.sgd(0.05), 3, 4))
    one = {'retain_weight': 1.0}
    made.append(method.solve(case.KEY, variables, GIVEN, None, one)[0])
  assert_close(made[0], made[1], rtol=1e-5)


def test_both_sets_are_normalised_together():
  """The statistics are those of one pass over all of what a step sees."""
  shape = (8, 8, 1)
  model, variables = case.network('convnet', shape)
  problem = case.given(shape)
  parts = problem.retain, problem.forget
  draws = {}
  for name, part in zip(('retain', 'forget'), parts, strict=True):
    image, label = case.seen(part)
    identified = part.identified[: case.COUNT]
    draws[name] = descent.StreamBatch(image, jnp.asarray(label), identified)
  image = jnp.concatenate([draw.image for draw in draws.values()])

  def both(variables):
    objective = objectives.retain_plus_term(
      model, lambda logits, *_: 3 * logits.sum(), lambda hyper: 2.0
    )
    return objective(variables, draws, None, {}, 0.0)

  loss, stats = jax.jit(both)(variables)
  logits, wanted = jax.jit(model.update)(variables, image)
  assert_close(stats, wanted, rtol=1e-6)
  label = np.asarray(draws['retain'].label)
  plain = jax.nn.log_softmax(logits[: case.COUNT])
  plain = np.asarray(plain)[range(case.COUNT), label]
  total = -2 * plain.mean() + 3 * logits[case.COUNT :].sum()
  np.testing.assert_allclose(loss, total, rtol=1e-4)


@given(st.floats(-3, 3), st.sampled_from([0.1, 1.0, 4.0]))
@settings(max_examples=20, deadline=None)
def test_npo_weighs_ascent_by_what_is_left(ratio, beta):
  slope = jax.grad(lambda r: ascent.preference_loss(r[None], beta)[0])(
    jnp.float32(ratio)
  )
  p, before = np.exp(ratio), 1.0
  weight = 2 * p**beta / (p**beta + before**beta)
  np.testing.assert_allclose(slope, weight, rtol=1e-4)


def test_npo_becomes_ascent_as_beta_vanishes():
  ratio = jnp.linspace(-2, 2, 9)
  for beta in (1e-1, 1e-2):
    excess = ascent.preference_loss(ratio, beta) - ascent.preference_loss(
      0 * ratio, beta
    )
    np.testing.assert_allclose(excess, ratio, atol=1.01 * beta)


@given(st.integers(2, 12), st.integers(0, 2**31 - 1))
@settings(max_examples=20, deadline=None)
def test_random_labels_are_other_classes(classes, seed):
  label = jnp.arange(50, dtype=jnp.int32) % classes
  found = relabelling.draw_wrong_labels(jax.random.key(seed), label, classes)
  assert found.dtype == label.dtype
  assert not bool((found == label).any())
  assert set(np.asarray(found)) <= set(range(classes))


def test_random_labels_have_no_favourite():
  label = jnp.full(6000, 1, jnp.int32)
  found = relabelling.draw_wrong_labels(jax.random.key(0), label, 4)
  counts = np.bincount(np.asarray(found), minlength=4)
  assert counts[1] == 0
  assert np.abs(counts[[0, 2, 3]] - 2000).max() < 5 * np.sqrt(2000)


@given(st.integers(2, 6), st.integers(0, 2**31 - 1))
@settings(max_examples=20, deadline=None)
def test_the_runner_up_is_the_second_or_the_first_if_that_is_not_ours(k, seed):
  rng = np.random.default_rng(seed)
  logits = rng.standard_normal((8, k)).astype(np.float32)
  order = np.argsort(-logits)
  label = rng.integers(0, k, 8).astype(np.int32)
  found = relabelling.runner_up(jnp.asarray(logits), jnp.asarray(label))
  wanted = np.where(order[:, 0] == label, order[:, 1], order[:, 0])
  np.testing.assert_array_equal(found, wanted)


def test_the_runner_up_of_two_confused_classes_is_the_true_one():
  truth = jnp.arange(10) % 2
  logits = jax.random.normal(jax.random.key(1), (10, 2))
  found = relabelling.runner_up(logits, 1 - truth)
  np.testing.assert_array_equal(found, truth)


def test_weights_shrink_under_an_l1_penalty():
  method, _, none, _ = case.solved(retraining.l1_sparse, {'l1': 0.0}, GIVEN)
  some, _ = method.solve(case.KEY, case.network()[1], GIVEN, None, {'l1': 0.1})
  assert retraining.l1_norm(some.params) < 0.9 * retraining.l1_norm(none.params)


@functools.cache
def _salun():
  """Three steps with decay and momentum."""
  optimizer = optax.chain(
    optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9)
  )
  return case.solved(
    relabelling.random_label,
    None,
    GIVEN,
    optimizer=optimizer,
    steps=3,
    share=0.5,
  )


def test_salun_moves_salient_weights_alone():
  """Neither decay nor momentum moves the others by a bit."""
  _, (_, mask), found, info = _salun()
  start = case.start()
  trees = (jax.tree.map(np.asarray, x) for x in (mask, start, found.params))
  for here, before, after in zip(*map(jax.tree.leaves, trees), strict=True):
    same(before[~here], after[~here])
    assert (before[here] != after[here]).all()
  assert info['gradient_evaluations'] == (3 * 2 + 1) * case.COUNT


@pytest.mark.parametrize('share', [0.5, 0.1])
def test_salient_is_what_is_above_the_quantile(share):
  rng = np.random.default_rng(0)
  gradient = {'a': rng.normal(size=(7, 8)), 'b': 0.2 * rng.normal(size=44)}
  mask = relabelling.salient_mask(jax.tree.map(jnp.float32, gradient), share)
  threshold = np.quantile(
    np.abs(np.concatenate([x.ravel() for x in gradient.values()])), 1 - share
  )
  same(
    jax.tree.map(np.asarray, mask),
    jax.tree.map(lambda x: np.abs(x) > threshold, gradient),
  )
  assert sum(x.sum() for x in mask.values()) == 100 * share


def test_what_is_salient_is_seen_at_the_original_over_the_rows_that_count():
  _, (_, mask), _, _ = _salun()
  gradient = jax.jit(jax.grad(lambda x: case.ce(x, GIVEN.forget)))(case.start())
  same(mask, relabelling.salient_mask(gradient, 0.5))
