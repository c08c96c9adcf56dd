"""docs/composing.md, run as it stands."""

import pathlib
import re

import jax
import numpy as np
import pytest

# A page of documentation as it stands: CI runs it in a step of its own.
pytestmark = pytest.mark.slow

TEXT = (pathlib.Path(__file__).parents[1] / 'docs/composing.md').read_text()
BLOCKS = re.findall(r'```python\n(.*?)```', TEXT, re.S)


@pytest.fixture(scope='module')
def scope():
  found = {}
  for block in BLOCKS:
    exec(block, found)
  return found


def test_cuts_repairs_a_clipped_network(scope):
  accuracy = scope['accuracy']
  assert accuracy(scope['repaired']) > accuracy(scope['clipped']) + 0.01


def test_the_clipped_network_keeps_its_bound(scope):
  kernels = [
    leaf for leaf in jax.tree.leaves(scope['clipped'].params) if leaf.ndim == 2
  ]
  norms = [np.linalg.norm(leaf, 2) for leaf in kernels]
  assert max(norms) <= 4 * 1.001
  # Of pixels in [0, 1]: 1 / 0.35 before the first layer.
  product = np.prod(norms) / 0.35
  assert scope['steepness'](scope['clipped']) <= product * 1.001


def test_what_was_forgotten_is_less_sure(scope):
  def confidence(variables):
    logits = scope['metrics'].logits(
      scope['network'], variables, scope['forget'].batch
    )
    label = np.asarray(scope['forget'].batch.label)
    return np.exp(logits - np.logaddexp.reduce(logits, 1)[:, None])[
      np.arange(label.size), label
    ].mean()

  assert scope['facts']['adversarial_share'] == 1
  assert confidence(scope['forgotten']) < confidence(scope['clipped'])
  assert 0 <= float(scope['fooled'].success.mean()) <= 1


def test_the_mean_over_a_simplex_forgets_a_digit(scope):
  sweep, before, after = scope['sweep'], scope['before'], scope['after']
  assert sweep.feasible and sweep.strength > 0
  assert after[0] < before[0] - 0.2
  assert after[1] > 0.9 * before[1]
