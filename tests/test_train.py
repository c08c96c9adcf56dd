"""Training: golden steps, segmentation, stacking, resuming, stopping."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmu_jax import networks
from cmu_jax.audits import shadow
from cmu_jax.core import checkpoint, errors, store, tree
from cmu_jax.core.types import Batch, Network, Training, Variables
from cmu_jax.data import input_step
from cmu_jax.studies.engine import recipes
from cmu_jax.training import (
  descent,
  early_stopping,
  metrics,
  optimizers,
  train,
)

SHAPE = (8, 8, 1)
STEP = input_step.make((0.4,), (0.3,))
MODEL = networks.make('fc', 4, SHAPE, width=16)
CONV = networks.make('convnet', 4, SHAPE, width=1)


def data(size=50, seed=0):
  generator = np.random.default_rng(seed)
  label = np.arange(size) % 4
  image = generator.integers(0, 60, (size, *SHAPE))
  image[np.arange(size), label, :, :] += 150  # A bright row tells the class.
  return Batch(jnp.asarray(image, jnp.uint8), jnp.asarray(label, jnp.int32))


def start(model=MODEL, seed=0):
  return jax.jit(model.init)(
    jax.random.key(seed), jnp.zeros((1, *SHAPE), jnp.float32)
  )


ADAM = optimizers.adamw(optimizers.constant_schedule(3e-3))


def run(
  model=MODEL, steps=40, batch=None, optimizer=ADAM, batch_size=16, **options
):
  key = options.pop('key', jax.random.key(5))
  network = Network(model, options.pop('inputs', STEP))
  variables = options.pop('variables', None) or start(model)
  session = train.Session(
    checkpoint=options.pop('checkpoint', None), until=options.pop('until', None)
  )
  batch = data() if batch is None else batch
  training = Training(optimizer, steps, batch_size)
  return train.fit(key, network, variables, batch, training, session, **options)


def test_learns_and_reports_every_step():
  result = run(steps=120)
  assert result.history.shape == (120, 2)
  assert np.all(np.isfinite(result.history))
  assert np.mean(result.history[-10:, 1]) > 0.95
  assert np.mean(result.history[:5, 1]) < 0.6


def test_one_step_equals_the_same_step_by_hand():
  batch = data(16)
  theta = start()
  sgd = optimizers.sgd(optimizers.constant_schedule(0.1))
  result = run(steps=1, batch=batch, variables=theta, optimizer=sgd)

  def objective(params):
    logits = MODEL.apply(Variables(params, {}), STEP.eval(batch.image, None))
    return jnp.mean(
      optax.softmax_cross_entropy_with_integer_labels(logits, batch.label)
    )

  loss, gradient = jax.value_and_grad(objective)(theta.params)
  expected = jax.tree.map(
    lambda p, g: p - 0.1 * (g + 5e-4 * p), theta.params, gradient
  )
  chex.assert_trees_all_close(result.variables.params, expected, atol=1e-6)
  np.testing.assert_allclose(result.history[0, 0], loss, rtol=1e-5)


def test_adamw_is_the_decoupled_one_of_pytorch():
  theta, gradient = jnp.asarray([2.0, -1.0]), jnp.asarray([0.5, 3.0])
  updates, _ = ADAM.update(gradient, ADAM.init(theta), theta)
  expected = -3e-3 * (np.sign(gradient) + 0.01 * theta)
  np.testing.assert_allclose(updates, expected, rtol=1e-5)


def test_every_epoch_shows_every_sample_once():
  seen = []

  def spy(key, image, stamp):
    jax.debug.callback(lambda x: seen.extend(np.asarray(x)), image[:, 0, 0, 0])
    return STEP.train(key, image, stamp)

  batch = data(50)
  batch = batch._replace(
    image=batch.image.at[:, 0, 0, 0].set(jnp.arange(50, dtype=jnp.uint8))
  )
  run(batch=batch, steps=25, inputs=STEP._replace(train=spy))
  jax.effects_barrier()
  epochs = np.array(seen).reshape(8, 50)
  assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
  assert not np.array_equal(epochs[0], epochs[1])


def test_result_does_not_depend_on_how_the_training_is_cut(monkeypatch):
  whole = run()
  monkeypatch.setattr(train, '_SEGMENT_SECONDS', 0.0)  # A step a segment.
  chex.assert_trees_all_equal(run().variables, whole.variables)


def test_one_compilation_for_all_seeds_and_segments():
  traces = []

  def loss(logits, label):
    traces.append(label.shape)
    return metrics.cross_entropy(logits, label)

  run(loss=loss), run(loss=loss, key=jax.random.key(9))
  assert len(traces) == 1


@pytest.mark.parametrize('strategy', ['map', 'vmap'])
@pytest.mark.parametrize(
  'model',
  [MODEL, pytest.param(CONV, marks=pytest.mark.slow)],
  ids=['fc', 'convnet'],
)
def test_stacked_seeds_equal_single_ones(strategy, model):
  keys = jax.random.split(jax.random.key(1), 2)
  starts = [start(model, seed) for seed in range(2)]
  batches = [data(seed=seed) for seed in range(2)]
  stacked = run(
    model,
    steps=12,
    key=keys,
    variables=tree.stack(starts),
    batch=tree.stack(batches),
    strategy=strategy,
  )
  assert stacked.history.shape == (2, 12, 2)
  for i in range(2):
    single = run(
      model, steps=12, key=keys[i], variables=starts[i], batch=batches[i]
    )
    chex.assert_trees_all_close(
      tree.index(stacked.variables, i), single.variables, atol=2e-5
    )


class Killed(Exception):
  """Stands for the power going out."""


def kept(folder, kill_after=None):
  saves = []

  def save(state, step):
    checkpoint.save(folder, step, state, 'f')
    saves.append(step)
    if kill_after is not None and len(saves) >= kill_after:
      raise Killed

  restore = lambda template: checkpoint.restore(folder, template, 'f')
  return store.Checkpoint(restore, save, seconds=0.0)


def test_a_killed_training_continues_bit_for_bit(tmp_path):
  whole = run(CONV)
  with pytest.raises(Killed):
    run(CONV, checkpoint=kept(tmp_path, kill_after=2))
  done = max(int(path.name) for path in tmp_path.iterdir())
  assert 0 < done < 40
  resumed = run(CONV, checkpoint=kept(tmp_path))
  chex.assert_trees_all_equal(resumed.variables, whole.variables)
  chex.assert_trees_all_equal(resumed.history, whole.history)
  again = run(CONV, checkpoint=kept(tmp_path))
  assert again.images_per_second is None  # Nothing was left to do.


def test_divergence_names_its_step():
  bad = data()
  cliff = lambda step: jnp.where(step < 7, 1e-3, jnp.inf)
  with pytest.raises(train.Diverged, match='not finite at step 8'):
    run(batch=bad, optimizer=optimizers.sgd(cliff))


def test_frozen_parts_stay_bit_identical_under_momentum_and_decay():
  theta = start(CONV)
  frozen = optimizers.freeze_modules(
    optimizers.sgd(optimizers.constant_schedule(0.05)), ('head',)
  )
  found = run(CONV, variables=theta, optimizer=frozen).variables
  chex.assert_trees_all_equal(found.params['head'], theta.params['head'])
  moved = tree.task_vector(theta.params['body'], found.params['body'])
  assert float(tree.norm(moved)) > 0.1


def test_the_callers_weights_are_not_consumed():
  theta = start()
  run(variables=theta, steps=2)
  assert np.isfinite(float(tree.norm(theta.params)))


def test_a_batch_larger_than_the_data_is_the_data():
  result = run(batch=data(6), batch_size=512, steps=3)
  assert result.history.shape == (3, 2)


def test_no_images_is_one_clear_line():
  empty = Batch(jnp.zeros((0, *SHAPE), jnp.uint8), jnp.zeros(0, jnp.int32))
  with pytest.raises(errors.UserError, match='no training images'):
    run(batch=empty, variables=start())


@pytest.mark.parametrize('steps', [10**8, 2**40, -1, 2.5])
def test_a_length_that_cannot_be_meant_names_the_training(steps):
  with pytest.raises(errors.UserError, match=r'^train: .* steps'):
    run(steps=steps, variables=start())
  recipe = descent.Recipe((descent.Phase(min, (('x', 3),)),), ADAM, STEP)
  begin = descent.Start(start(), {'x': descent.whole_batch(data())}, steps)
  with pytest.raises(errors.UserError, match=r'^unlearning: .* steps'):
    descent.descend(jax.random.key(0), recipe, begin)
  fit = shadow.ShadowTraining(STEP, ADAM, steps, 4)
  inside = np.ones((2, len(data().label)), bool)
  with pytest.raises(errors.UserError, match=r'shadow.*: .* steps'):
    shadow.train(jax.random.key(0), MODEL, data(), inside, fit)


@pytest.mark.parametrize('unit', ['epochs', 'steps'])
def test_a_length_of_a_config_names_its_field(unit):
  settings = recipes.training(batch_size=2, **{unit: 10**8})
  with pytest.raises(errors.UserError, match=rf'^config\.unlearn\.{unit}='):
    recipes.total_steps(settings, 10, 'unlearn')


def test_samples_are_counted_in_32_bits():
  with pytest.raises(errors.UserError, match='at most 2,145'):
    train.check_length('x', 3_000_000, 1_000_000)
  train.check_length('x', 2000, 1_000_000)
  with pytest.raises(errors.UserError, match='0 images a step'):
    run(batch_size=0, variables=start())


def test_weight_decay_mask_spares_biases():
  mask = lambda params: jax.tree.map(lambda x: x.ndim > 1, params)
  decayed = optimizers.adamw(optimizers.constant_schedule(0.1), 0.5, mask)
  params = {'w': jnp.ones((2, 2)), 'b': jnp.ones(2)}
  zero = jax.tree.map(jnp.zeros_like, params)
  updates, _ = decayed.update(zero, decayed.init(params), params)
  np.testing.assert_allclose(updates['w'], np.full((2, 2), -0.05), rtol=1e-6)
  assert not np.any(updates['b'])


@pytest.mark.parametrize(
  'size, batch, expected', [(58805, 1024, 58), (50000, 512, 98), (5, 64, 1)]
)
def test_steps_per_epoch_counts_the_last_partial_batch(size, batch, expected):
  assert train.steps_per_epoch(size, batch) == expected


def _learnt(history):
  return history[..., -4:, 1].mean() >= 0.9


@pytest.mark.parametrize('strategy', [None, 'map'])
def test_ends_at_the_first_look_that_has_seen_enough(monkeypatch, strategy):
  stack = lambda x: x if strategy is None else jnp.stack([x, x])
  options = {
    'variables': jax.tree.map(stack, start()),
    'batch': jax.tree.map(stack, data()),
    'key': jax.random.split(jax.random.key(5), 2)
    if strategy
    else jax.random.key(5),
    'strategy': strategy,
  }
  whole = np.asarray(run(steps=120, **options).history)
  enough = next(s for s in range(5, 121, 5) if _learnt(whole[..., :s, :]))
  assert 5 < enough < 120
  short = run(steps=enough, **options)
  # However long a segment takes: one step each, or as long as may be.
  for seconds in (0.0, 1e6):
    monkeypatch.setattr(train, '_SEGMENT_SECONDS', seconds)
    ended = run(steps=120, until=early_stopping.StopRule(5, _learnt), **options)
    assert ended.history.shape == whole[..., :enough, :].shape
    chex.assert_trees_all_equal(ended.variables, short.variables)


def test_a_training_that_ended_early_is_not_continued(tmp_path):
  saving = store.Checkpoint(
    lambda like: checkpoint.restore(tmp_path, like, 'f'),
    lambda state, step: checkpoint.save(tmp_path, step, state, 'f'),
  )
  options = dict(until=early_stopping.StopRule(5, _learnt), checkpoint=saving)
  first = run(steps=120, **options)
  again = run(steps=120, **options)
  assert again.images_per_second is None  # Nothing was run.
  chex.assert_trees_all_equal(again.variables, first.variables)
  chex.assert_trees_all_equal(again.history, first.history)
