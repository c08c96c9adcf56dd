r"""BatchNorm recalibration: running statistics from clean images.

Weights stay; every running mean and variance becomes that of the clean proxy.
What a network computes on ordinary images then no longer depends on the
statistics of the bad ones. Networks without BatchNorm stay as they are.
"""

from typing import Any

from cmu_jax.core.types import Info, InputStep, Method, Model, Variables
from cmu_jax.training import batch_norm


def bn_recalibration(
  model: Model, inputs: InputStep, *, batch_size: int = 512
) -> Method:
  """Re-estimates the running statistics on the clean proxy.

  Args:
    model: the network.
    inputs: raw pixels to network input.
    batch_size: largest number of images at a time.

  References:
    Averaging Weights Leads to Wider Optima and Better Generalization, arXiv
    1803.05407, section 3.2, re-estimates them so after a change of weights.
  """

  def solve(
    key, variables: Variables, given: Any, prepared, hyper
  ) -> tuple[Variables, Info]:
    del prepared, hyper
    clean = given.clean_proxy
    found = batch_norm.recalibrated(
      key, model, inputs, variables, clean, batch_size
    )
    return found, {'gradient_evaluations': 0}

  return Method(('clean_proxy',), lambda *_: None, solve)
