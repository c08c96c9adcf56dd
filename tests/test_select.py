"""J against the golden rows, its invariances, and both selection rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import neighbors

from cmu_jax.core import errors
from cmu_jax.methods.cuts import alpha_rules

# case: s, b, k, share, J, counts. Computed with the released scoring function.
GOLDEN = {
  'A': (1.5, 0, 6, 1.0, 0.3494853801573211, (12, 12, 12, 13, 11)),
  'B': (1.5, 2.5, 6, 1.0, 0.10637802767759913, (25, 10, 10, 8, 7)),
  'C': (0.3, 0, 6, 1.0, 0.3559852921288183, (14, 11, 10, 11, 14)),
  'D': (1.5, 9, 6, 1.0, -1000001.0, None),
  'E': (1.5, 2.5, 6, 0.6, 0.3474792853923327, (25, 10, 10, 8, 7)),
  'F': (1.5, 0, 2, 1.0, 0.23834534195188342, (12, 12, 12, 13, 11)),
  'G': (1.5, 4, 6, 1.0, -0.5225126738128731, (39, 6, 5, 7, 3)),
  'H': (1.5, 4, 6, 0.6, 0.21848838140777344, (39, 6, 5, 7, 3)),
  'I': (1.5, 4, 1, 1.0, -0.035848854559398236, (39, 6, 5, 7, 3)),
}


def golden_inputs(spread, bias):
  i, j = np.arange(60)[:, None], np.arange(8)[None, :]
  x = np.sin(0.37 * (i + 1) * (j + 2)) + spread * (j == i % 5)
  x = x / np.linalg.norm(x, axis=1, keepdims=True)
  logits = 6 * x[:, :5]
  logits[:, 0] += bias
  return x, logits


@pytest.mark.parametrize('case', GOLDEN)
def test_objective_equals_the_golden_row_in_float64(case):
  spread, bias, k, share, objective, counts = GOLDEN[case]
  x, logits = golden_inputs(spread, bias)
  if counts is not None:
    found = np.bincount(logits.argmax(1), minlength=5)
    assert tuple(found) == counts
  with jax.enable_x64(True):
    score = jax.jit(alpha_rules.agreement, static_argnames=('k', 'class_share'))
    parts = score(jnp.asarray(x), jnp.asarray(logits), k=k, class_share=share)
    assert parts.J.dtype == jnp.float64
    assert abs(float(parts.J) - objective) <= 1e-12 * max(1, abs(objective))


def test_parts_of_the_golden_row_b():
  with jax.enable_x64(True):
    parts = alpha_rules.agreement(
      *map(jnp.asarray, golden_inputs(1.5, 2.5)), k=6
    )
    parts = jax.tree.map(np.asarray, parts)
  np.testing.assert_allclose(parts.self_agreement, 0.519444, atol=5e-7)
  np.testing.assert_allclose(parts.chance, 0.263540, atol=5e-7)
  np.testing.assert_allclose(parts.adjusted_agreement, 0.347479, atol=5e-7)
  np.testing.assert_allclose(parts.penalty_effective, 0.241101, atol=5e-7)
  assert parts.penalty_coverage == 0 and parts.supported == 5


def test_neighbours_are_those_of_scikit_learn():
  x = np.random.default_rng(0).normal(size=(300, 7))
  unit = x / np.linalg.norm(x, axis=1, keepdims=True)
  tree = neighbors.NearestNeighbors(n_neighbors=6).fit(unit)
  expected = tree.kneighbors(unit, return_distance=False)[:, 1:]
  with jax.enable_x64(True):
    found = jax.jit(alpha_rules.neighbours, static_argnums=1)(jnp.asarray(x), 5)
  np.testing.assert_array_equal(found, expected)


def test_neighbours_by_blocks_equal_those_at_once(monkeypatch):
  x = jnp.asarray(np.random.default_rng(1).normal(size=(101, 5)), jnp.float32)
  whole = alpha_rules.neighbours(x, 4)
  monkeypatch.setattr(alpha_rules, '_BLOCK', 32)
  np.testing.assert_array_equal(alpha_rules.neighbours(x, 4), whole)


def test_duplicate_images_are_neighbours_of_each_other_not_of_themselves():
  x = jnp.asarray([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
  np.testing.assert_array_equal(
    alpha_rules.neighbours(x, 1), np.array([[1], [0], [3], [2]])
  )


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(5)), st.floats(0.1, 100.0))
def test_objective_ignores_class_names_and_feature_scale(order, scale):
  x, logits = golden_inputs(1.5, 2.5)
  with jax.enable_x64(True):
    one = alpha_rules.agreement(jnp.asarray(x), jnp.asarray(logits), k=6)
    other = alpha_rules.agreement(
      jnp.asarray(scale * x), jnp.asarray(logits[:, list(order)]), k=6
    )
  np.testing.assert_allclose(one.J, other.J, rtol=1e-12)


def test_grids_are_the_published_ones():
  noise, poison = alpha_rules.noise_grid(), alpha_rules.poison_grid()
  assert len(noise) == 81 and noise[0] == 0 and noise[-1] == 4
  assert len(poison) == 100 and poison[0] == 0.05 and poison[-1] == 5
  assert noise[7] == 0.35 and poison[57] == 2.9


@pytest.mark.parametrize(
  'samples, classes, k', [(1195, 10, 59), (1000, 100, 5), (5996, 10, 299)]
)
def test_neighbour_count(samples, classes, k):
  assert alpha_rules.neighbour_count(samples, classes) == k


def test_too_few_images_name_the_number_needed():
  with pytest.raises(errors.UserError, match='at least 20 are needed'):
    alpha_rules.neighbour_count(19, 10)


@pytest.mark.parametrize(
  'classes, share, required',
  [(10, 1.0, 10), (100, 0.95, 95), (20, 0.15, 3), (10, 0.01, 2), (3, 9.0, 3)],
)
def test_required_classes(classes, share, required):
  assert alpha_rules.required_classes(classes, share) == required


def test_best_takes_the_first_of_equals_and_never_a_nan():
  alphas = np.array([0.0, 0.5, 1.0, 1.5])
  assert (
    alpha_rules.choose_best(alphas, np.array([0.1, 0.4, 0.4, np.nan])).alpha
    == 0.5
  )
  nothing = alpha_rules.choose_best(alphas, np.full(4, np.nan))
  assert not nothing.selected and nothing.alpha == 0.0


def test_early_stop_misses_a_late_recovery_as_released():
  drops = np.concatenate([[0.5], 0.4 - 0.01 * np.arange(12), [0.9]])
  alphas = np.arange(len(drops)) / 20
  assert alpha_rules.choose_best(alphas, drops).position == len(drops) - 1
  assert alpha_rules.choose_best(alphas, drops, patience=10).position == 0
  broken = drops.copy()
  broken[6] = broken[5]  # A tie is no drop: the count starts again.
  assert (
    alpha_rules.choose_best(alphas, broken, patience=10).position
    == len(drops) - 1
  )


def test_poison_takes_the_smallest_alpha_that_qualifies_or_abstains():
  grid = alpha_rules.poison_grid()[:4]
  choice = alpha_rules.choose_smallest_below(
    grid, np.array([0.9, 0.014, 0.0, 0.5])
  )
  assert choice == alpha_rules.AlphaChoice(0.1, 1, True)
  choice = alpha_rules.choose_smallest_below(
    grid, np.array([0.9, 0.5, 0.016, 0.02])
  )
  assert choice == alpha_rules.AlphaChoice(0.0, None, False)


def test_attack_rate_counts_the_target():
  logits = jnp.eye(4)[jnp.asarray([0, 0, 1, 3])]
  assert jax.jit(alpha_rules.attack_rate, static_argnums=1)(logits, 0) == 0.5
