"""AMUN and boundary shrink: steps by hand, sets, masks; the paper's theorem."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import unlearning_case as case
from close import assert_close
from states import same

from cmu_jax.core import errors, jit
from cmu_jax.core.types import MethodInputs, Network, Training
from cmu_jax.methods import (
  amun,
  factories,
  finetuning,
  relabelling,
  union_training,
)
from cmu_jax.robustness import adversarial_sets
from cmu_jax.training import descent, metrics

GIVEN = case.given()
SETS = {
  'all': amun.ALL,
  'no_forget': amun.NO_FORGET,
  'alone': amun.ALONE,
  'adversarial': amun.ADVERSARIAL,
}


@pytest.fixture(autouse=True)
def _quickly():
  with jit.skip_optimizations(True):
    yield


@functools.cache
def _pairs():
  """The adversarial images that AMUN finds with this key."""
  model, start = case.network()
  return adversarial_sets.find_pairs(
    case.KEY, Network(model, case.PIXELS), start, GIVEN.forget
  )


def _given(sets):
  """What a method is handed that declared these sets."""
  return GIVEN if 'retain' in sets else MethodInputs(forget=GIVEN.forget)


def _union(sets):
  """All images and labels by hand."""
  found = _pairs()
  kept = np.asarray(found.usable)
  parts = {
    'retain': case.seen(GIVEN.retain),
    'forget': case.seen(GIVEN.forget),
    'adversarial': (
      jnp.asarray(found.image)[kept] / 255,
      np.asarray(found.label)[kept],
    ),
  }
  image, label = zip(*(parts[name] for name in sets), strict=True)
  return jnp.concatenate(image), np.concatenate(label)


def _loss(image, label):
  def loss(params):
    chosen = jax.nn.log_softmax(case.logits(params, image))
    return -chosen[np.arange(len(label)), label].mean()

  return loss


@pytest.mark.parametrize(
  'name', ['all', pytest.param('adversarial', marks=pytest.mark.slow)]
)
def test_two_steps_on_the_union_are_those_of_the_formula(name):
  sets = SETS[name]
  image, label = _union(sets)
  _, _, found, info = case.solved(
    amun.amun, None, _given(sets), batch=len(label), sets=sets
  )
  wanted = case.descended(2 * [_loss(image, label)], case.start())
  assert_close(found.params, wanted, rtol=1e-5)
  searched = int(_pairs().gradients)
  assert info['gradient_evaluations'] == 2 * len(label) + searched
  assert info['adversarial_share'] == 1
  assert 0 < info['misclassified_share'] < 1


def _prepared(step=case.PIXELS, network=None, given=GIVEN, **options):
  model, start = network or case.network()
  training = Training(
    optax.sgd(case.RATE, momentum=0.9),
    options.pop('steps', 3),
    options.pop('batch_size', 6),
  )
  method = amun.amun(Network(model, step), training, **options)
  return method, method.prepare(case.KEY, start, given), start


@pytest.mark.parametrize('name', SETS)
def test_the_union_is_of_the_sets_that_were_asked_for(name):
  sets = SETS[name]
  method, prepared, _ = _prepared(sets=sets, given=_given(sets))
  image, label = _union(sets)
  valid = np.asarray(prepared.samples.valid)
  assert valid.sum() == len(label) == 6 * len(sets)
  np.testing.assert_allclose(
    np.asarray(prepared.samples.batch.image)[valid] / 255, image, rtol=1e-6
  )
  same(np.asarray(prepared.samples.batch.label)[valid], label)
  assert ('retain' in method.needs) == ('retain' in sets)
  assert 'forget' in method.needs


def test_whoever_has_the_forget_set_alone_needs_no_other():
  model, _ = case.network()
  method = factories.factory('amun_alone')(
    Network(model, case.PIXELS), Training(optax.sgd(1.0), 1, 2)
  )
  assert method.needs == ('forget',)
  prepared = method.prepare(
    case.KEY, case.network()[1], MethodInputs(forget=GIVEN.forget)
  )
  assert int(prepared.samples.valid.sum()) == 12


def test_adversarial_rows_alone_are_not_augmented():
  _, prepared, _ = _prepared()
  fixed = np.asarray(prepared.samples.skip_augmentation)
  assert not fixed[:-8].any() and fixed[-8:].all()
  _, prepared, _ = _prepared(augment=True)
  assert prepared.samples.skip_augmentation is None


def test_an_ablation_takes_the_place_of_the_adversarial_set():
  _, prepared, _ = _prepared(sets=amun.ADVERSARIAL, element='advl')
  found = _pairs()
  same(prepared.samples.batch.image, found.clean.image)
  same(prepared.samples.batch.label, found.label)


def test_a_transferred_set_is_prepared_from_other_weights():
  method, own, start = _prepared()
  other = jax.tree.map(lambda x: -x, start)
  model, _ = case.network()
  given = method.prepare(case.KEY, other, GIVEN)
  predicted = metrics.predict(
    Network(model, case.PIXELS), other, given.samples.batch
  )
  same(given.samples.batch.label[-8:], predicted[-8:])
  own_image = np.asarray(own.samples.batch.image)[-8:]
  assert (np.asarray(given.samples.batch.image)[-8:] != own_image).any()


def test_a_frozen_network_is_the_one_of_evaluation():
  model, variables = case.network()
  carried = variables._replace(batch_stats={'mean': jnp.ones(3)})
  image, _ = case.seen(GIVEN.retain)
  frozen = finetuning.freeze_statistics(model._replace(update=None))
  logits, stats = frozen.update(carried, image)
  assert stats is carried.batch_stats
  np.testing.assert_allclose(
    logits, case.logits(variables.params, image), rtol=1e-4, atol=1e-5
  )


@pytest.mark.slow
@pytest.mark.parametrize('freeze', [False, True])
def test_batch_statistics_move_unless_frozen(freeze):
  shape = (8, 8, 1)
  model, variables = case.network('convnet', shape)
  part = case.samples(1, 6, shape=shape)
  image, label = case.seen(part)
  draw = descent.StreamBatch(image, jnp.asarray(label), part.identified)
  recipe = union_training.union_recipe(
    Network(model, case.PIXELS),
    Training(optax.sgd(1.0), 1, 6),
    freeze_bn=freeze,
  )
  loss, stats = jax.jit(
    lambda v: recipe.phases[0].objective(v, {'union': draw}, None, {}, 0.0)
  )(variables)
  moved = jax.tree.map(
    lambda a, b: bool((a != b).any()), variables.batch_stats, stats
  )
  assert jax.tree.leaves(moved) and any(jax.tree.leaves(moved)) != freeze
  see = model.apply if freeze else lambda v, x: model.update(v, x)[0]
  logits = jax.nn.log_softmax(see(variables, draw.image))
  wanted = -logits[np.arange(6), draw.label].mean()
  np.testing.assert_allclose(loss, wanted, rtol=1e-4)


def test_masked_weights_are_the_same_bits_under_momentum_and_decay():
  share = 0.3
  optimizer = optax.chain(
    optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9)
  )
  _, prepared, found, info = case.solved(
    amun.amun, None, GIVEN, optimizer=optimizer, steps=5, share=share
  )
  trees = prepared.mask, case.start(), found.params
  host = (jax.tree.map(np.asarray, x) for x in trees)
  free = total = 0
  for here, before, after in zip(*map(jax.tree.leaves, host), strict=True):
    same(before[~here], after[~here])
    assert (before[here] != after[here]).all()
    free, total = free + here.sum(), total + here.size
  assert abs(free - share * total) <= 1
  assert info['gradient_evaluations'] == 5 * 6 + int(_pairs().gradients) + 6


@pytest.mark.parametrize(
  ('options', 'says'),
  [
    (dict(sets=('retain', 'adverserial')), 'unknown set of AMUN'),
    (dict(sets=('retain', 'forget')), 'must have "adversarial"'),
    (dict(element='avd'), "unknown set 'avd'"),
  ],
)
def test_settings_that_cannot_be_are_one_line(options, says):
  with pytest.raises(errors.UserError, match=says) as caught:
    _prepared(**options)
  assert '\n' not in str(caught.value)


def test_nothing_to_train_on_is_one_line():
  model, start = case.network()
  flat = jax.tree.map(jnp.zeros_like, start)
  label = jnp.zeros_like(GIVEN.forget.batch.label)
  batch = GIVEN.forget.batch._replace(label=label)
  given = MethodInputs(forget=GIVEN.forget._replace(batch=batch))
  for sets, refused in ((amun.ADVERSARIAL, True), (amun.ALONE, False)):
    method = amun.amun(
      Network(model, case.PIXELS), Training(optax.sgd(0.1), 1, 4), sets=sets
    )
    if refused:
      with pytest.raises(errors.UserError, match='no image of the set'):
        method.prepare(case.KEY, flat, given)
    else:
      prepared = method.prepare(case.KEY, flat, given)
      assert int(prepared.samples.valid.sum()) == case.COUNT
      assert prepared.facts['adversarial_share'] == 0


def test_boundary_shrink_by_hand():
  start, radius = case.start(), 0.3
  image, label = case.seen(GIVEN.forget)
  slope = jax.grad(
    lambda x: (
      -jax.nn.log_softmax(case.logits(start, x))[np.arange(6), label].sum()
    )
  )(image)
  moved = jnp.clip(image + radius * jnp.sign(slope), 0, 1)
  shrunk = np.asarray(case.logits(start, moved).argmax(-1))
  rest = case.seen(GIVEN.retain)
  image = jnp.concatenate([rest[0], image])
  shrunk = np.concatenate([rest[1], shrunk])
  method, _, found, info = case.solved(
    union_training.boundary_shrink, None, GIVEN, batch=12, radius=radius
  )
  wanted = case.descended(2 * [_loss(image, shrunk)], start)
  assert_close(found.params, wanted, rtol=1e-5)
  assert set(method.needs) == {'retain', 'forget'}
  assert info['gradient_evaluations'] == 2 * 12 + 6


def test_boundary_shrink_does_without_the_retained_set():
  model, start = case.network()
  method = union_training.boundary_shrink(
    Network(model, case.PIXELS), Training(optax.sgd(1.0), 1, 2), retain=False
  )
  samples, _ = method.prepare(
    case.KEY, start, MethodInputs(forget=GIVEN.forget)
  )
  assert int(samples.valid.sum()) == 6 and method.needs == ('forget',)


def test_random_labels_do_without_the_retained_set():
  method, (part, _), found, _ = case.solved(
    relabelling.random_label,
    {'forget_weight': 0.5},
    MethodInputs(forget=GIVEN.forget),
    retain=False,
  )
  image, label = case.seen(part)
  loss = lambda params: 0.5 * _loss(image, label)(params)
  assert_close(
    found.params, case.descended(2 * [loss], case.start()), rtol=1e-5
  )
  assert method.needs == ('forget',)
  assert (np.asarray(label) != case.seen(GIVEN.forget)[1]).all()
  saliency = relabelling.random_label(
    Network(case.network()[0], case.PIXELS),
    Training(optax.sgd(1.0), 1, 2),
    retain=False,
    share=0.5,
  )
  assert saliency.needs == ('forget',)
