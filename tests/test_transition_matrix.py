"""Transition matrices: what is one, and how they are estimated."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmu_jax.core import errors
from cmu_jax.data.corruption import transition_noise

UNIFORM = (1 - np.eye(4)) / 3
counts = st.lists(st.integers(0, 99), min_size=16, max_size=16).map(
  lambda flat: np.reshape(flat, (4, 4))
)


@settings(max_examples=25, deadline=None)
@given(counts)
def test_an_estimate_is_valid_and_ignores_right_answers(confusion):
  found = transition_noise.estimate_transition(confusion)
  assert np.array_equal(transition_noise.check_transition(found), found)
  more = confusion + 7 * np.eye(4, dtype=int)
  assert np.array_equal(transition_noise.estimate_transition(more), found)
  assert (found[~np.eye(4, dtype=bool)] > 0).all()


def test_an_estimate_by_hand():
  found = transition_noise.estimate_transition([[9, 3, 1], [0, 5, 0], [2] * 3])
  # Row 0: (.5, 3.5, 1.5) / 5.5, times .9, plus .05, then without its diagonal.
  row = 0.9 * np.array([3.5, 1.5]) / 5.5 + 0.05
  assert np.allclose(found[0], [0, *(row / row.sum())], rtol=1e-12)
  assert np.allclose(found[1], [0.5, 0, 0.5])


def test_the_diagonal_is_taken_out():
  kept = 0.7 * np.eye(4) + 0.3 * UNIFORM
  found = transition_noise.remove_diagonal(kept)
  assert np.allclose(found, UNIFORM)
  assert kept[0, 0] == 0.7


@pytest.mark.parametrize(
  'message,matrix',
  [
    ('has shape', UNIFORM[:3]),
    ('has shape', [[0.0]]),
    ('not one of numbers', [[0.0, 1.0], [1.0]]),
    ('row 1 .* sums to 0.9', UNIFORM * np.array([[1], [0.9], [1], [1]])),
    (r'entry \(0, 2\)', UNIFORM + np.eye(4)[[2, 0, 1, 3]] * -0.5),
    (r'entry \(0, 0\) .* nan', np.full((2, 2), np.nan)),
    ('the diagonal must be 0', 0.9 * UNIFORM + 0.1 * np.eye(4)),
  ],
)
def test_matrices_that_are_none(message, matrix):
  with pytest.raises(errors.UserError, match=message) as caught:
    transition_noise.check_transition(matrix)
  assert '\n' not in str(caught.value)


def test_a_class_that_never_moves_has_no_row():
  with pytest.raises(errors.UserError, match=r'row 0 .* moves no label'):
    transition_noise.remove_diagonal(np.eye(3))
