"""Shadow models: membership, one by one or together, groups, memory."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shadow_case as case
from hypothesis import given, settings
from hypothesis import strategies as st

from cmu_jax import audits
from cmu_jax.audits import shadow
from cmu_jax.audits.shadow import groups, planning
from cmu_jax.core import errors, rng
from cmu_jax.core.types import Model, Network, Training, Variables
from cmu_jax.data import splits
from cmu_jax.training import segment, train


@settings(max_examples=8, deadline=None)
@given(
  k=st.sampled_from([1, 3]), n=st.sampled_from([2, 9]), seed=st.integers(0, 9)
)
def test_every_point_is_in_half_of_the_models(k, n, seed):
  key = jax.random.key(seed)
  inside = shadow.assign_halves(key, 2 * k, n)
  assert (inside.sum(axis=0) == k).all()
  assert set(inside.sum(axis=1)) <= {n // 2, n - n // 2}
  more = shadow.assign_halves(key, 2 * k + 2, n)
  np.testing.assert_array_equal(more[: 2 * k], inside)


@pytest.mark.parametrize(('k', 'n'), [(3, 10), (0, 10), (4, 1)])
def test_what_cannot_be_halved(k, n):
  with pytest.raises(errors.UserError, match=r'even number|give more'):
    shadow.assign_halves(case.KEY, k, n)


def test_rows_are_the_models_own():
  inside = np.zeros((3, 12), bool)
  inside[0, :9], inside[1, 3:7], inside[2, ::3] = True, True, True
  rows = planning.training_rows(case.KEY, inside)
  assert rows.shape == (3, 9)
  for model, own in zip(rows, inside, strict=True):
    assert set(model) == set(np.flatnonzero(own))
    assert (np.diff(model) >= 0).all()
  with pytest.raises(errors.UserError, match='model 1 is trained on no point'):
    planning.training_rows(case.KEY, inside & (np.arange(3) != 1)[:, None])


def alone(model, batch, inside, fit, number):
  """One of the models, trained by itself from what it is made of."""
  own = rng.fold_in(case.KEY, 'model', number)
  rows = planning.training_rows(rng.fold_in(case.KEY, 'rows'), inside)[number]
  image = fit.inputs.eval(batch.image[:1], None)
  return train.fit(
    rng.fold_in(own, 'train'),
    Network(model, fit.inputs),
    model.init(rng.fold_in(own, 'init'), image),
    splits.take(batch, rows),
    training=Training(
      optimizer=fit.optimizer, steps=fit.steps, batch_size=fit.batch_size
    ),
  ).variables


CASES = [
  ('fc', 'vmap'),
  pytest.param('normed', 'map', marks=pytest.mark.slow),
  pytest.param('normed', 'vmap', marks=pytest.mark.slow),
  pytest.param('convnet', 'map', marks=pytest.mark.slow),
]


@pytest.mark.parametrize(('name', 'how'), CASES)
def test_together_as_one_by_one(name, how):
  found = case.trained(
    k=4, name=name, weights=True, plan=shadow.Plan(strategy=how)
  )
  batch, model = case.data(), case.model(name)
  for number in (0, 3):
    wanted = alone(model, batch, found.inside, case.fit(), number)
    for ours, theirs in zip(
      jax.tree.leaves(found.variables), jax.tree.leaves(wanted), strict=True
    ):
      np.testing.assert_allclose(ours[number], theirs, atol=1e-5)
    logits = model.apply(wanted, case.STEP.eval(batch.image, None))
    for signal, values in found.statistics.items():
      own = audits.SIGNALS[signal](logits, batch.label)
      np.testing.assert_allclose(values[number], own, atol=1e-4)
  assert found.statistics['softmax'].shape == (4, 31)


def _double():
  """A network of float64: two matrices and a tanh."""

  def features(variables, image):
    flat = image.reshape(image.shape[0], -1).astype(jnp.float64)
    return jnp.tanh(flat @ variables.params['a'])

  def head(variables, x):
    return x @ variables.params['b']

  def init(key, image):
    first, second = jax.random.split(key)
    a = jax.random.normal(first, (image[0].size, 8), jnp.float64) / 4
    return Variables(
      {'a': a, 'b': jax.random.normal(second, (8, 4), jnp.float64) / 3}, {}
    )

  apply = lambda v, x: head(v, features(v, x))
  update = lambda v, x: (apply(v, x), {})
  return Model(init, apply, update, features, head)


@pytest.mark.parametrize(
  'how', ['vmap', pytest.param('map', marks=pytest.mark.slow)]
)
def test_together_as_one_by_one_in_double_precision(how):
  with jax.enable_x64(True):
    batch, model = case.data(), _double()
    inside = shadow.assign_halves(case.KEY, 4, 31)
    plan = shadow.Plan(strategy=how)
    found = shadow.train(
      case.KEY, model, batch, inside, case.fit(), weights=True, plan=plan
    )
    wanted = alone(model, batch, inside, case.fit(), 2)
    for name, leaf in wanted.params.items():
      assert leaf.dtype == np.float64
      np.testing.assert_allclose(
        found.variables.params[name][2], leaf, atol=1e-10
      )


@pytest.mark.parametrize(
  'name', ['normed', pytest.param('convnet', marks=pytest.mark.slow)]
)
def test_groups_and_threads_change_no_bit(name):
  whole = case.trained(k=10, name=name, plan=shadow.Plan(threads=1))
  for plan in (shadow.Plan(group=1), shadow.Plan(group=8, threads=3)):
    found = case.trained(k=10, name=name, plan=plan)
    for signal, values in whole.statistics.items():
      np.testing.assert_array_equal(found.statistics[signal], values)


def test_members_are_better_known():
  found = case.trained(k=8, fit=case.fit(200, 0.3))
  known = found.statistics['softmax']
  assert known[found.inside].mean() > known[~found.inside].mean() + 0.1
  assert found.variables is None
  assert found.unlearned is None


def test_each_model_forgets_its_own():
  seen = []

  def unlearn(key, variables, rest, gone):
    seen.append((key, rest, gone))
    return jax.tree.map(lambda x: x * (1 + len(gone)), variables)

  inside = shadow.assign_halves(case.KEY, 4, 31)
  forget = inside & (np.arange(31) < 9)[None, :]
  found = case.trained(k=4, forget=forget, unlearn=unlearn, weights=True)
  plain = case.trained(k=4, weights=True)
  for number, (_, rest, gone) in enumerate(seen):
    np.testing.assert_array_equal(gone, np.flatnonzero(forget[number]))
    both = np.sort(np.concatenate([rest, gone]))
    np.testing.assert_array_equal(both, np.flatnonzero(inside[number]))
    np.testing.assert_array_equal(
      found.variables.params['head']['kernel'][number],
      plain.variables.params['head']['kernel'][number] * (1 + len(gone)),
    )
  assert (
    len({tuple(jax.random.key_data(key).tolist()) for key, *_ in seen}) == 4
  )
  for signal, values in plain.statistics.items():
    np.testing.assert_array_equal(found.statistics[signal], values)
    assert (found.unlearned[signal] != values).any()


def test_what_cannot_be_forgotten():
  stranger = ~shadow.assign_halves(case.KEY, 4, 31)
  for options in (
    {'forget': stranger, 'unlearn': lambda k, v, r, g: v},
    {'forget': ~stranger},
  ):
    with pytest.raises(errors.UserError, match='forget and unlearn go'):
      case.trained(k=4, **options)


def test_membership_that_does_not_fit():
  with pytest.raises(errors.UserError, match=r'shape \(2, 5\)'):
    shadow.train(
      case.KEY, case.model(), case.data(), np.ones((2, 5), bool), case.fit()
    )


@settings(max_examples=40, deadline=None)
@given(
  count=st.integers(1, 70), most=st.integers(1, 70), block=st.integers(1, 9)
)
def test_groups_are_even_and_within_bounds(count, most, block):
  most = max(most, block)
  held = groups.even_group_size(count, most, block)
  assert held % block == 0
  assert held <= most
  assert -(-count // held) == -(-count // (most // block * block))


def test_memory_decides_the_group(monkeypatch):
  batch, fit = case.data(), case.fit()
  recipe = segment.SegmentSpec(
    Network(case.model(), fit.inputs), fit.loss, fit.optimizer, fit.batch_size
  )
  one = planning.memory_need(recipe, batch, 16, fit.steps)
  parameters = 16 * 8 + 8 + 8 * 4 + 4
  assert one.per_model >= 2 * 4 * parameters
  wider = planning.memory_need(
    recipe._replace(batch_size=16), batch, 16, fit.steps
  )
  assert wider.per_step > 1.4 * one.per_step
  assert wider.per_model == one.per_model
  both = one.per_model + one.per_step
  assert planning.largest_group(one, 9, 4 * both + one.per_model, 4) == 5
  assert planning.largest_group(one, 3, 4 * both + one.per_model, 4) == 3
  assert planning.largest_group(one, 9, both + 4 * one.per_model, 1) == 5
  with pytest.raises(errors.UserError, match='MiB; raise it'):
    planning.largest_group(one, 9, 4 * both - 1, 4)
  titles = []
  drive = train.run_segments

  def spy(*args):
    titles.append(args[-1].title)
    return drive(*args)

  monkeypatch.setattr(train, 'run_segments', spy)
  case.trained(k=10, plan=shadow.Plan(memory_bytes=5 * both, threads=1))
  assert [title.rpartition(' models ')[2] for title in titles] == [
    '0 to 3 of 10',
    '4 to 7 of 10',
    '8 to 9 of 10',
  ]


@pytest.mark.slow
def test_the_time_is_predicted():
  inside = shadow.assign_halves(case.KEY, 10, 31)
  arguments = (case.KEY, case.model(), case.data(), inside, case.fit(2000))
  plan = shadow.Plan(threads=1, group=4)
  told = shadow.predict_seconds(*arguments, plan)
  began = time.monotonic()
  shadow.train(*arguments, signals={}, plan=plan)
  taken = time.monotonic() - began
  assert told < 3 * taken
  assert taken < 3 * told + 1
  one = shadow.predict_seconds(*arguments[:4], case.fit(1), plan)
  assert one < told
