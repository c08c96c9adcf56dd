r"""SAP, scaled activation projection (also known as Verifix).

Of S_tr without S_f the samples with the lowest loss are trusted. Their inputs
to a layer are the columns of R = U Sigma V^T; with shares
s_i = sigma_i^2 / sum_j sigma_j^2 the kernel W [in, out] becomes P W, where

  P = U Lambda U^T,   Lambda_i = a s_i / ((a - 1) s_i + 1).

P tends to the identity on the span of R as the scale a grows, and removes what
trusted inputs do not use. A convolution is a dense layer on patches; biases and
BatchNorm stay.

References:
  SAP: Corrective Machine Unlearning with Scaled Activation Projection for
  Label Noise Robustness, arXiv 2403.08618.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from cmu_jax.core import jit, vectorize
from cmu_jax.core.types import Method, Network, Result, Samples, Variables
from cmu_jax.methods import finetuning
from cmu_jax.methods.dampening import importance
from cmu_jax.methods.projection import activations
from cmu_jax.training import metrics

# Images at a time in the pass that ranks them by their loss.
_IMAGES = 512


@functools.partial(jax.jit, static_argnums=2)
def _take_lowest(samples: Samples, losses: jax.Array, count: int) -> Samples:
  lowest = jnp.argsort(jnp.where(samples.valid, losses, jnp.inf))[:count]
  return jax.tree.map(lambda x: x[lowest], samples)


@functools.lru_cache(maxsize=32)
def _losses_program(network: Network, size: int) -> Callable:
  """Writes the losses of batches [start, stop) into a vector."""

  def run(variables, samples, losses, start, stop):
    rows = jnp.arange(samples.valid.shape[0])

    def write(step, losses):
      index, _ = importance.select_rows(rows, samples.valid, size, step)
      batch = jax.tree.map(lambda x: x[index], samples.batch)
      image = network.inputs.eval(batch.image, batch.has_trigger)
      logits = network.model.apply(variables, image)
      return losses.at[index].set(metrics.cross_entropy(logits, batch.label))

    return jax.lax.fori_loop(start, stop, write, losses)

  return jit.compile_loop(run, donate_argnums=2)


def select_trusted(
  network: Network, variables: Variables, samples: Samples, count: int
) -> Samples:
  """Selects the valid rows with the lowest loss on their labels.

  Args:
    samples: S_tr without S_f.
    count: of trusted samples, at most the number of rows.
  """
  # Padding is ranked as well, and loses against every valid row.
  rows = samples.valid.shape[0]
  size = min(_IMAGES, rows)
  run = _losses_program(network, size)
  losses = vectorize.fold_batches(
    lambda total, start, stop: run(variables, samples, total, start, stop),
    jnp.zeros(rows, jnp.float32),
    -(-rows // size),
    'losses of the retained samples',
  )
  return _take_lowest(samples, losses, count)


def project(
  params: PyTree,
  bases: dict[activations.Path, activations.Basis],
  scale: float | Float[Array, ''],
) -> PyTree:
  """Projects the kernel of every known layer: P W.

  Args:
    bases: `activations.bases`.
    scale: a, at least 1; towards infinity P is the identity where s > 0.
  """

  return activations.map_kernels(
    params,
    bases,
    lambda layer, rows: activations.scale_rows(bases[layer], rows, scale),
  )


@finetuning.check_settings
def sap(
  network: Network,
  *,
  samples: int = 1000,
  scales: tuple[float, ...] = (1e5, 1e4, 3e4, 3e5, 1e6),
) -> Method:
  """Projects kernels onto the span of trusted inputs; S_f is not needed.

  Args:
    samples: number of trusted samples.
    scales: the grid of 'sap_scale', a; the first is the default.

  References:
    arXiv 2403.08618: up to 6 points of accuracy at 25 percent label noise on
    CIFAR. Samples and scales are those of the authors' example script.
  """

  # The retain set still has bad samples, whose labels the network finds
  # unlikely: those with the lowest loss are trusted.
  def prepare(key, variables: Variables, data: Any) -> Any:
    del key
    trusted = select_trusted(network, variables, data.retain, samples)
    return activations.bases(network, variables, trusted)

  def solve(key, variables: Variables, data, prepared, hyper) -> Result:
    del key, data
    params = project(variables.params, prepared, hyper['sap_scale'])
    return variables._replace(params=params), {'gradient_evaluations': 0}

  grid = tuple({'sap_scale': scale} for scale in scales)
  return Method(('retain',), prepare, solve, grid, True)
