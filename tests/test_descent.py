"""Fine-tuning on streams: what is drawn, phases, one compilation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmu_jax import networks
from cmu_jax.core.types import Batch, Samples, Variables
from cmu_jax.data import input_step
from cmu_jax.methods import objectives
from cmu_jax.training import descent, optimizers, train

PIXELS = input_step.make((0.0,), (1.0,))


def _samples(labels, valid=None):
  """Images whose single pixel is the row's number."""
  label = jnp.asarray(labels)
  rows = jnp.arange(label.shape[0], dtype=jnp.uint8)
  found = descent.whole_batch(Batch(rows[:, None, None, None], label))
  return found if valid is None else found._replace(valid=jnp.asarray(valid))


def _count(variables, draws, context, hyper, time):
  """Adds one to the entry of every row that a step saw (by SGD of rate 1)."""
  del context, time
  total = jnp.float32(0)
  for name, draw in draws.items():
    row = jnp.round(draw.image[:, 0, 0, 0] * 255).astype(jnp.int32)
    total -= variables.params[name][row].sum() * hyper['weight']
  return total, variables.batch_stats


def _seen(streams, phases, steps, sizes, weight=1.0):
  recipe = descent.Recipe(
    tuple(descent.Phase(_count, tuple(names.items())) for names in phases),
    optax.sgd(1.0),
    PIXELS,
  )
  start = Variables({name: jnp.zeros(size) for name, size in sizes.items()}, {})
  found, cost = descent.descend(
    jax.random.key(0),
    recipe,
    descent.Start(start, streams, steps),
    hyper={'weight': weight},
  )
  return {k: np.asarray(v) for k, v in found.params.items()}, cost


@pytest.mark.parametrize(('rows', 'size', 'steps'), [(12, 4, 9), (5, 4, 10)])
def test_every_sample_comes_once_an_epoch(rows, size, steps):
  seen, cost = _seen(
    {'retain': _samples(range(rows))}, [{'retain': size}], steps, {'retain': 12}
  )
  np.testing.assert_array_equal(
    seen['retain'][:rows], np.full(rows, size * steps / rows)
  )
  assert cost == size * steps


def test_rows_that_are_not_valid_are_never_drawn():
  valid = np.arange(12) % 3 == 0
  seen, _ = _seen(
    {'retain': _samples(range(12), valid)}, [{'retain': 2}], 8, {'retain': 12}
  )
  np.testing.assert_array_equal(seen['retain'], np.where(valid, 4, 0))


def test_a_batch_larger_than_the_set_goes_round():
  valid = np.arange(12) < 3
  seen, _ = _seen(
    {'forget': _samples(range(12), valid)}, [{'forget': 8}], 30, {'forget': 12}
  )
  assert seen['forget'][:3].sum() == 240
  assert seen['forget'][3:].sum() == 0
  assert np.ptp(seen['forget'][:3]) <= 30


def test_phases_keep_their_own_place_in_their_streams():
  phases = np.array([0, 1, 1, 0, 1, 1, 0])
  seen, cost = _seen(
    {'forget': _samples(range(6)), 'retain': _samples(range(8))},
    [{'forget': 2}, {'retain': 4}],
    phases,
    {'forget': 12, 'retain': 12},
  )
  np.testing.assert_array_equal(seen['forget'], np.repeat([1, 0], 6))
  np.testing.assert_array_equal(seen['retain'], np.repeat([2, 0], [8, 4]))
  assert cost == 3 * 2 + 4 * 4


def test_hyperparameters_and_counts_do_not_compile_again():
  rows = _samples(range(12))
  recipe = descent.Recipe(
    (descent.Phase(_count, (('retain', 3),)),), optax.sgd(1.0), PIXELS
  )
  start = Variables({'retain': jnp.zeros(12)}, {})

  def go(weight, count):
    part = rows._replace(valid=jnp.arange(12) < count)
    return descent.descend(
      jax.random.key(0),
      recipe,
      descent.Start(start, {'retain': part}, 4),
      hyper={'weight': weight},
    )

  go(1.0, 12)
  with jax.log_compiles(False), jax.no_tracing():
    found, _ = go(2.0, 6)
  assert float(found.params['retain'].sum()) == 24


def test_a_gradient_can_be_projected():
  recipe = descent.Recipe(
    (descent.Phase(_count, (('retain', 3),)),),
    optax.sgd(1.0),
    PIXELS,
    lambda gradient, context: jax.tree.map(jnp.multiply, gradient, context),
  )
  mask = {'retain': jnp.arange(12) < 2}
  found, _ = descent.descend(
    jax.random.key(0),
    recipe,
    descent.Start(
      Variables({'retain': jnp.zeros(12)}, {}),
      {'retain': _samples(range(12))},
      4,
      mask,
    ),
    hyper={'weight': 1.0},
  )
  np.testing.assert_array_equal(
    np.asarray(found.params['retain']), np.repeat([1, 0], [2, 10])
  )


def test_join_keeps_who_is_identified():
  one = _samples(range(3))
  two = _samples(range(2))._replace(identified=jnp.ones(2, bool))
  both = descent.join_samples(one, two)
  assert isinstance(both, Samples)
  np.testing.assert_array_equal(
    np.asarray(both.identified), [False, False, False, True, True]
  )


AUGMENTED = input_step.make((0.0,), (1.0,), pad=3, flip=True)


def _shown(samples, seed=0):
  """What the input step makes of all rows, in their order."""
  draw = descent._draw_batch(
    AUGMENTED,
    jax.random.key(seed),
    samples,
    jnp.arange(samples.valid.shape[0]),
  )
  return np.asarray(draw.image)


def _pictures(rows, dtype=np.uint8):
  image = np.random.default_rng(rows).integers(1, 256, (rows, 4, 4, 1))
  return Batch(jnp.asarray(image.astype(dtype)), jnp.arange(rows))


def test_fixed_rows_are_not_augmented_and_the_others_as_ever():
  batch = _pictures(40)
  fixed = jnp.arange(40) % 2 == 0
  shown = _shown(descent.whole_batch(batch, fixed))
  np.testing.assert_array_equal(shown[::2], PIXELS.eval(batch.image)[::2])
  plain = _shown(descent.whole_batch(batch))
  np.testing.assert_array_equal(shown[1::2], plain[1::2])
  assert (shown[::2] != plain[::2]).any()


def test_fixed_rows_stay_so_when_sets_are_gathered_and_joined():
  batch, real = _pictures(6), _pictures(3, np.float32)
  fixed = jnp.array([True, False, True, False, False, True])
  part = descent.gather_samples(batch, np.array([2, 3, 5]), 5, True, fixed)
  np.testing.assert_array_equal(
    part.skip_augmentation, [True, False, True, True, False]
  )
  np.testing.assert_array_equal(part.batch.label, [2, 3, 5, 2, 3])
  plain = descent.whole_batch(real)
  for pair, wanted in (
    ((part, plain), [True, False, True, True, False] + 3 * [False]),
    ((plain, part), 3 * [False] + [True, False, True, True, False]),
  ):
    both = descent.join_samples(*pair)
    np.testing.assert_array_equal(both.skip_augmentation, wanted)
    assert both.batch.image.dtype == jnp.float32
  assert descent.join_samples(plain, plain).skip_augmentation is None


def test_a_set_without_fixed_rows_is_the_program_it_was():
  batch = _pictures(8)
  leaves = jax.tree.leaves(descent.whole_batch(batch))
  assert len(leaves) == 4
  program = lambda samples: str(
    jax.make_jaxpr(
      lambda key, s: descent._draw_batch(AUGMENTED, key, s, jnp.arange(8))
    )(jax.random.key(0), samples)
  )
  assert 'select_n' in program(descent.whole_batch(batch))
  assert len(program(descent.whole_batch(batch))) < len(
    program(descent.whole_batch(batch, jnp.zeros(8, bool)))
  )


def test_a_loss_that_is_not_finite_names_its_step():
  def explode(variables, draws, context, hyper, time):
    del draws, context, hyper
    total = variables.params['w'].sum() / jnp.where(time < 0.5, 1.0, 0.0)
    return total, variables.batch_stats

  recipe = descent.Recipe(
    (descent.Phase(explode, (('retain', 2),)),), optax.sgd(1.0), PIXELS
  )
  with pytest.raises(train.Diverged, match='at step 2'):
    descent.descend(
      jax.random.key(0),
      recipe,
      descent.Start(
        Variables({'w': jnp.ones(1)}, {}), {'retain': _samples(range(4))}, 4
      ),
    )


def test_a_network_learns_from_its_stream():
  model = networks.make('fc', 2, (1, 1, 1), width=8)
  label = jnp.arange(40) % 2
  image = (label * 200).astype(jnp.uint8)[:, None, None, None]

  def objective(variables, draws, context, hyper, time):
    del context, hyper, time
    logits, stats = model.update(variables, draws['retain'].image)
    loss = optax.softmax_cross_entropy_with_integer_labels(
      logits, draws['retain'].label
    )
    return loss.mean(), stats

  recipe = descent.Recipe(
    (descent.Phase(objective, (('retain', 10),)),), optax.adam(0.05), PIXELS
  )
  start = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1, 1, 1)))
  found, _ = descent.descend(
    jax.random.key(1),
    recipe,
    descent.Start(
      start, {'retain': descent.whole_batch(Batch(image, label))}, 60
    ),
  )
  predicted = model.apply(found, PIXELS.eval(image)).argmax(-1)
  assert float(jnp.mean(predicted == label)) == 1.0


def test_a_learning_rate_of_the_grid_is_that_of_the_optimizer():
  """With momentum and decay too."""
  model = networks.make('fc', 3, (1, 1, 1), width=4)
  start = model.init(jax.random.key(1), jnp.zeros((1, 1, 1, 1)))
  streams = {'retain': _samples([0, 1, 2, 0, 1, 2])}

  def run(peak, hyper):
    phase = descent.Phase(objectives.cross_entropy(model), (('retain', 4),))
    made = optimizers.sgd(optax.constant_schedule(peak), 0.05)
    recipe = descent.Recipe((phase,), made, PIXELS)
    key = jax.random.key(0)
    return descent.descend(
      key, recipe, descent.Start(start, streams, 9), hyper=hyper
    )[0]

  wanted = run(0.3, {})
  found = run(1.0, {'learning_rate': 0.3})
  for a, b in zip(jax.tree.leaves(wanted), jax.tree.leaves(found), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)
