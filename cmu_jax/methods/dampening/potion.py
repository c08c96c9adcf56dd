r"""Potion: dampening until the identified samples lose their labels.

Importances are label-free (XLF) and computed once. With

  s_t = 1.1^t s_0,   s_0 = |S_f| / (25 |S_tr|)
  a_t = percentile 100 - ln(1 + 100 s_t) of I_f / I_r,   gamma = 1

poison trigger neutralisation (PTN) dampens theta_o with a_0, a_1, ..., each
time from theta_o. It stops at the first t at which at most rho times as many
samples of S_f have their trained label as under theta_o. Once a_t <= gamma
larger t change nothing, so the search ends.

References:
  Potion: Towards Poison Unlearning, arXiv 2406.09173, section 4.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from cmu_jax.core import jit, progress
from cmu_jax.core.types import (
  Info,
  Method,
  Network,
  Samples,
  Variables,
)
from cmu_jax.methods import finetuning
from cmu_jax.methods.dampening import importance, ssd

_GROWTH, _START = 1.1, 1 / 25
# Images evaluated together, and networks evaluated between two stops on the
# host: fewer stops cost less, but compute networks beyond the last needed one.
_IMAGES, _NETWORKS = 256, 8


class SearchPath(NamedTuple):
  """The networks along t, up to the first that meets the smallest rho.

  Attributes:
    importances: I_r and I_f.
    threshold: a_t, [t].
    accuracy: of trained labels on S_f, [t]; infinite beyond `networks`.
    original_accuracy: that of theta_o.
    networks: number of evaluated networks.
  """

  importances: importance.Importances
  threshold: Float[Array, 't']
  accuracy: Float[Array, 't']
  original_accuracy: Float[Array, '']
  networks: Int[Array, '']


def _forget_accuracy(
  network: Network, variables: Variables, samples: Samples
) -> Float[Array, '']:
  """The share of valid rows that are predicted as they were trained."""
  ordered = jnp.argsort(~samples.valid, stable=True).astype(jnp.int32)
  size = min(_IMAGES, samples.valid.shape[0])

  def add(step, hits):
    index, weight = importance.select_rows(ordered, samples.valid, size, step)
    batch = jax.tree.map(lambda x: x[index], samples.batch)
    image = network.inputs.eval(batch.image, batch.has_trigger)
    predicted = network.model.apply(variables, image).argmax(-1)
    return hits + jnp.sum(weight * (predicted == batch.label))

  count = samples.valid.sum()
  # Valid rows come first: the loop ends after them, whatever the capacity.
  hits = jax.lax.fori_loop(0, -(-count // size), add, jnp.float32(0))
  return hits / jnp.maximum(count, 1)


@functools.lru_cache(maxsize=32)
def _accuracy_program(network: Network) -> Callable:
  """(variables, importances, thresholds, samples) -> accuracies."""

  def run(variables, importances, thresholds, samples):
    def evaluate(threshold):
      params = ssd.dampen(variables.params, importances, threshold, 1.0)
      edited = variables._replace(params=params)
      return _forget_accuracy(network, edited, samples)

    # A loop, not `vmap`: memory holds one dampened network.
    return jax.lax.map(evaluate, thresholds)

  return jit.compile_loop(run)


def search(
  network: Network,
  variables: Variables,
  data: Any,
  importances: importance.Importances,
  smallest_rho: float,
  tries: int,
) -> SearchPath:
  """Computes accuracies along t until one meets the smallest rho.

  Args:
    data: its sets `retain` and `forget`.
    importances: I_r and I_f.
    smallest_rho: the smallest rho of the grid.
    tries: the largest number of networks.
  """
  start = _START * ssd.forget_share(data)
  shares = start * _GROWTH ** jnp.arange(tries, dtype=jnp.float32)
  threshold = ssd.percentile(ssd.sorted_ratios(importances), shares)
  run = _accuracy_program(network)
  # An infinite threshold dampens nothing, so theta_o needs no second program.
  original = run(variables, importances, jnp.full(1, jnp.inf), data.forget)[0]
  goal, bounds = smallest_rho * float(original), np.asarray(threshold)
  accuracy, count = np.full(tries, np.inf, np.float32), 0
  with progress.bar('search of the dampening', tries, 'networks') as advance:
    while count < tries:
      # The last chunk repeats a network, so that all chunks have one shape.
      chunk = np.arange(count, count + _NETWORKS).clip(max=tries - 1)
      accuracy[chunk] = np.asarray(
        run(variables, importances, threshold[chunk], data.forget)
      )
      advance(min(_NETWORKS, tries - count))
      count = int(chunk[-1]) + 1
      # A threshold of gamma = 1 selects all that dampening can change.
      if accuracy[:count].min() <= goal or bounds[count - 1] <= 1:
        break
  return SearchPath(
    importances,
    threshold,
    jnp.asarray(accuracy),
    original,
    jnp.int32(count),
  )


@finetuning.check_settings
def potion(
  network: Network,
  *,
  denominator: str = 'retain',
  batch_size: int = 512,
  augment: bool = True,
  rhos: tuple[float, ...] = (0.2, 0.0, 0.05, 0.1, 0.15, 0.25, 0.5, 0.75),
  tries: int = 600,
) -> Method:
  """XLF importances, then PTN.

  Args:
    denominator: 'retain' or 'full', see `ssd.compute_importances`.
    batch_size: samples in a batch.
    augment: whether images are augmented as in training.
    rhos: the grid of 'potion_rho'; the first is the default.
    tries: the largest number of networks.

  Returns:
    A method. If no network meets rho, it returns the network with the lowest
    threshold, and 'satisfied' of its info is False.

  References:
    Potion, arXiv 2406.09173: heals 93.72 percent of the poison where SSD heals
    83.41 percent, for 1.41 points of accuracy instead of 5.68 (averages over
    ResNet-9 on CIFAR-10 and WRN-28x10 on CIFAR-100).
  """
  config = importance.ImportanceConfig(network, 'xlf', batch_size, augment)

  def prepare(
    variables: Variables, data: Any, importances: importance.Importances
  ) -> SearchPath:
    # Only the end of the search depends on rho, so one path serves all rhos.
    return search(network, variables, data, importances, min(rhos), tries)

  def solve(
    variables: Variables, prepared: SearchPath, hyper: Any
  ) -> tuple[PyTree, Info]:
    # Not evaluated networks have infinite accuracy, so `argmax` finds none.
    bound = hyper['potion_rho'] * prepared.original_accuracy
    satisfied = prepared.accuracy <= bound
    position = jnp.where(
      satisfied.any(), jnp.argmax(satisfied), prepared.networks - 1
    )
    threshold = prepared.threshold[position]
    params = ssd.dampen(variables.params, prepared.importances, threshold, 1.0)
    return params, {
      'gradient_evaluations': prepared.importances.cost,
      'threshold': threshold,
      'tries': position + 1,
      'satisfied': satisfied.any(),
    }

  grid = tuple({'potion_rho': rho} for rho in rhos)
  return ssd.dampening_method(config, denominator, prepare, solve, grid)
