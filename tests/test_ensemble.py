"""LOTOS and joint training against closed forms, on small networks."""

import ensemble_case
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmu_jax import networks
from cmu_jax.core import errors, tree
from cmu_jax.core.types import Variables
from cmu_jax.robustness import spectral
from cmu_jax.studies.ensembles import lotos, members, training


def _linear(matrices):
  """Members that are one dense layer each, of the given matrices."""
  model = networks.from_functions(
    lambda v, x: x, lambda v, x: x @ v.params['w'].T
  )
  layer = spectral.Layer(
    'w', 'dense', (matrices[0].shape[1],), lambda own, x: x @ own['w'].T
  )
  params = {'w': {'w': jnp.stack([jnp.asarray(m) for m in matrices])}}
  found = members.stack_members(model, len(matrices), (layer,), 'vmap')
  return found, Variables(params, {})


def _sum(matrices, mal, k=1):
  found, variables = _linear(matrices)

  @jax.jit
  def run(variables):
    held = lotos.find_vectors(ensemble_case.KEY, found, variables, k, 300)
    sizes = lotos.measure_lengths(found, variables, held)
    return lotos.measure_similarity(sizes, mal).sum(), sizes

  return run(variables)


def test_two_equal_layers_add_both_excesses():
  """f = g: S = 2 relu(sigma_1 - mal)."""
  matrix = np.diag([3.0, 1.0]).astype(np.float32)
  for mal, expected in ((0.8, 4.4), (2.0, 2.0), (3.5, 0.0)):
    np.testing.assert_allclose(
      _sum([matrix, matrix], mal)[0], expected, atol=1e-5
    )


def test_layers_of_orthogonal_directions_do_not_meet():
  first, second = np.diag([1.0, 0]), np.diag([0, 1.0])
  total, sizes = _sum([first.astype('f4'), second.astype('f4')], 0.1)
  assert total == 0
  np.testing.assert_allclose(sizes[0, :, :, 0], np.eye(2), atol=1e-5)


def test_circulants_show_their_frequency_response():
  """||A v_1(B)|| = |a^(w)| at the frequency w where |b^| is largest."""
  n, taps = 16, np.asarray([[0.5, 1.0, -0.3], [0.2, -0.7, 0.9]])

  def circulant(row):
    wide = np.zeros(n)
    wide[:3] = row
    return np.stack([np.roll(wide, i) for i in range(n)]).astype(np.float32)

  _, sizes = _sum([circulant(row) for row in taps], 0.0)
  response = np.abs(np.fft.fft(np.pad(taps, ((0, 0), (0, n - 3)))))
  at = response.argmax(1)
  for i, j in ((0, 1), (1, 0), (0, 0)):
    np.testing.assert_allclose(sizes[0, i, j, 0], response[i, at[j]], rtol=1e-4)


def test_no_gradient_below_mal_nor_through_the_vectors():
  draw = np.random.default_rng(0)
  matrices = [draw.normal(size=(4, 4)).astype(np.float32) for _ in range(3)]
  found, variables = _linear(matrices)
  held = lotos.find_vectors(ensemble_case.KEY, found, variables, 1, 100)

  def total(params, vectors, mal):
    sizes = lotos.measure_lengths(found, Variables(params, {}), vectors)
    return lotos.measure_similarity(sizes, mal).sum()

  slope = jax.jit(jax.grad(total, (0, 1)), static_argnums=2)
  high, _ = slope(variables.params, held, 99.0)
  assert not np.any(high['w']['w'])
  low, through = slope(variables.params, held, 0.1)
  assert np.all(np.abs(low['w']['w']).sum((1, 2)) > 0)
  assert not np.any(through[0])


def test_the_diagonal_does_not_count_and_weights_are_a_mean():
  sizes = jnp.zeros((1, 3, 3, 2)).at[0].set(jnp.eye(3)[:, :, None])
  assert lotos.measure_similarity(sizes, 0.0)[0] == 0
  np.testing.assert_allclose(
    lotos.measure_similarity(1 - sizes, 0.25), [6 * 0.75], rtol=1e-6
  )
  weights = np.asarray(lotos.make_weights(4))
  np.testing.assert_allclose(weights / weights[0], [1, 0.99, 0.98, 0.97])
  assert weights.sum() == pytest.approx(1)


def test_normalisers():
  """0.05 as released is 6 over M N (N - 1) with summed cross-entropies."""
  assert lotos.make_factor(6.0, 20, 3, 'paper') == pytest.approx(0.05)
  assert lotos.make_factor(0.05, 20, 3, 'code_compat_norm') == 0.05
  with pytest.raises(errors.UserError, match='normaliser of LOTOS'):
    lotos.make_factor(1.0, 1, 2, 'papers')
  with pytest.raises(errors.UserError, match='2 or more'):
    lotos.make_factor(1.0, 1, 1, 'paper')


def test_the_penalty_acts_from_the_first_step_on():
  found, variables = ensemble_case.networks()
  variables = ensemble_case.tripled(variables)
  term = lotos.lotos(found, rounds=5)
  recipe, batch = ensemble_case.recipe(found, term), ensemble_case.batch(8)
  image = ensemble_case.PIXELS.eval(batch.image, None)

  @jax.jit
  def slope(params):
    held = term.start(ensemble_case.KEY, variables)
    return jax.grad(
      lambda p: term.value(Variables(p, {}), held, image, batch.label)
    )(params)

  gradient = slope(variables.params)
  assert float(tree.norm(gradient)) > 1e-3
  fitted = training.fit(
    ensemble_case.KEY, recipe, variables, ensemble_case.batch(), steps=4
  )
  history = np.asarray(fitted.history)
  assert history[0, training.PENALTY] > 0
  np.testing.assert_allclose(
    history[:, training.LOSS],
    history[:, training.CROSS_ENTROPY] + history[:, training.PENALTY],
    rtol=1e-5,
  )
  assert training.idle_epochs(history, 2) == []


def test_idle_epochs_are_counted_whole():
  history = np.zeros((7, 4), np.float32)
  history[2, training.PENALTY] = 0.1
  assert training.idle_epochs(history, 2) == [0, 2]


def test_members_without_a_term_train_as_if_alone():
  found, variables = ensemble_case.networks()
  batch = ensemble_case.batch()
  fitted = training.fit(
    ensemble_case.KEY,
    ensemble_case.recipe(found, members.no_regulariser()),
    variables,
    batch,
    steps=3,
  )
  alone, _ = ensemble_case.networks(size=1)
  one = jax.tree.map(lambda x: x[1:2], variables)
  # Losses are means over members, so that a member's gradient is N times less.
  single = training.fit(
    ensemble_case.KEY,
    ensemble_case.recipe(alone, members.no_regulariser(), optax.sgd(0.05 / 3)),
    one,
    batch,
    steps=3,
  )
  for a, b in zip(
    jax.tree.leaves(fitted.variables),
    jax.tree.leaves(single.variables),
    strict=True,
  ):
    np.testing.assert_allclose(a[1], b[0], atol=2e-6)


@pytest.mark.slow
def test_mapped_and_vectorised_members_agree():
  made = {}
  for how in ('map', 'vmap'):
    found, variables = ensemble_case.networks(how)
    term = lotos.lotos(found, rounds=3)
    made[how] = training.fit(
      ensemble_case.KEY,
      ensemble_case.recipe(found, term),
      ensemble_case.tripled(variables),
      ensemble_case.batch(),
      steps=2,
    )
  for a, b in zip(
    jax.tree.leaves(made['map'].variables),
    jax.tree.leaves(made['vmap'].variables),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_members_are_compared_by_their_convolutions():
  model = networks.make('convnet', 3, ensemble_case.SHAPE, norm='none')
  made = jax.eval_shape(
    model.init, ensemble_case.KEY, jnp.zeros((1, *ensemble_case.SHAPE))
  )
  found = members.find_convolutions(model, made, ensemble_case.SHAPE)
  assert [layer.path for layer in found] == [
    f'body/convs_{i}' for i in range(3)
  ]
  assert not made.batch_stats


def test_a_penalty_that_could_never_act_is_refused():
  found, _ = ensemble_case.networks()
  with pytest.raises(errors.UserError, match='idle'):
    lotos.lotos(found, mal=1.0, clip=1.0)
