"""The rule for strengths: 95 % of control accuracy, ties, none feasible."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmu_jax.core import errors
from cmu_jax.methods import task_vectors

# Cars on ViT-B/32 in NegMerge's notebook: lambda, forget and control accuracy
# on validation data, in percent.
NOTEBOOK = (
  (0, 59.58, 66.70),
  (0.25, 50.12, 66.32),
  (0.5, 40.54, 65.70),
  (0.75, 33.05, 64.74),
  (0.85, 28.62, 63.72),
  (0.9, 25.55, 63.54),
  (0.95, 24.20, 63.20),
  (1.0, 22.60, 62.74),
)


def test_the_rule_selects_what_the_notebook_selected():
  lambdas, forget, control = zip(*NOTEBOOK, strict=True)
  found = task_vectors.choose(lambdas, forget, control)
  assert found.strength == 0.9 and found.position == 5 and found.feasible
  assert abs(found.threshold - 63.365) < 1e-9
  # The notebook's own threshold, of a reference of 66.66.
  assert task_vectors.choose(lambdas, forget, control, 66.6632).strength == 0.9
  table = {row[0]: row[1:] for row in NOTEBOOK}
  asked = []

  def measure(strength):
    asked.append(strength)
    return table[strength]

  swept = task_vectors.negation_sweep(
    measure, lambda strength: strength, lambdas[::-1]
  )
  assert swept.strength == 0.9 and asked == list(lambdas)
  assert swept.control.tolist() == list(control)


def test_ties_keep_the_smaller_strength_and_nothing_feasible_is_zero():
  choose = task_vectors.choose
  tied = choose([1, 0, 0.5], [0.2, 0.9, 0.2], [0.8, 0.8, 0.8])
  assert tied.strength == 0.5 and tied.position == 1
  # 0.95 * 0.8 is 0.76 up to rounding: it is kept.
  assert choose([0, 1], [0.9, 0.1], [0.8, 0.76]).strength == 1
  assert choose([0, 1], [0.9, 0.1], [0.8, 0.759]).strength == 0
  none = choose([0.5, 1], [0.2, 0.1], [0.5, 0.4], reference=0.8)
  assert none.strength == 0 and none.position is None and not none.feasible
  nan = choose([0, 0.5, 1], [0.9, np.nan, 0.1], [0.8, 0.8, np.nan])
  assert nan.strength == 0 and nan.position == 0
  only = choose([0], [0.9], [0.8])
  assert only.strength == 0 and only.feasible
  useless = choose([0, 0.5], [0.3, 0.4], [0.8, 0.8])
  assert useless.strength == 0 and useless.position == 0


def test_a_sweep_without_zero_asks_for_the_reference():
  asked = []

  def measure(strength):
    asked.append(strength)
    return 1 - strength, 0.9 - 0.1 * strength

  found = task_vectors.negation_sweep(
    measure, lambda strength: strength, [0.25, 1.0]
  )
  assert asked == [0.0, 0.25, 1.0]
  assert found.reference == 0.9 and found.strength == 0.25
  assert task_vectors.negation_sweep(measure, lambda s: s).lambdas.size == 21
  for lambdas, message in (
    ([], 'no strengths'),
    ([-0.1, 0], 'is negative'),
    ([0.5], 'no control accuracy'),
  ):
    with pytest.raises(errors.UserError, match=message):
      task_vectors.choose(lambdas, lambdas, lambdas)
  with pytest.raises(errors.UserError, match='columns'):
    task_vectors.choose([0, 1], [0.5], [0.5, 0.5])


@settings(deadline=None, max_examples=50)
@given(
  st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=8
  )
)
def test_nothing_feasible_beats_the_choice(pairs):
  forget, control = (np.array(x) / 5 for x in zip(*pairs, strict=True))
  lambdas = np.linspace(0, 1, len(pairs))
  found = task_vectors.choose(lambdas, forget, control)
  feasible = control >= 0.95 * control[0] - 1e-9
  assert feasible[found.position]
  assert found.forget[found.position] == forget[feasible].min()
  assert (
    found.position
    == np.flatnonzero(feasible & (forget == forget[feasible].min())).min()
  )
