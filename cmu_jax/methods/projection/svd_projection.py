r"""SVD: suppresses directions of activations that distinguish the class.

Inputs of a layer on retained and on forgotten samples have the singular vectors
U_r, U_f and shares s of their squared singular values. With

  M = U Lambda U^T,   Lambda_i = a s_i / ((a - 1) s_i + 1)

for each of both (a is alpha_r or alpha_f), every kernel K [in, out] becomes

  K <- (I - (M_f - M_f M_r)) K

without a gradient. Biases and BatchNorm stay. A convolution is a dense layer on
patches.

References:
  Deep Unlearning: Fast and Efficient Gradient-free Class Forgetting,
  arXiv 2312.00761.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from cmu_jax.core import rng
from cmu_jax.core.types import (
  Method,
  Network,
  PRNGKey,
  Result,
  Samples,
  Variables,
)
from cmu_jax.methods import finetuning
from cmu_jax.methods.projection import activations

RETAIN_SCALES = (100.0, 10.0, 30.0, 300.0, 1000.0)
FORGET_SCALES = (3.0, 10.0, 30.0, 100.0)
Bases = dict[activations.Path, activations.Basis]


def project(
  params: PyTree,
  retain: Bases,
  forget: Bases,
  retain_scale: float | Float[Array, ''],
  forget_scale: float | Float[Array, ''],
) -> PyTree:
  """Projects the kernel of every known layer: (I - (M_f - M_f M_r)) K.

  Args:
    retain: `activations.bases` of retained samples.
    forget: those of forgotten samples.
    retain_scale: alpha_r; the larger, the more of their space is kept.
    forget_scale: alpha_f; the larger, the more of theirs is suppressed.
  """

  # What both spaces share stays: M_f acts on the rows outside of M_r.
  def suppress(layer, rows):
    outside = rows - activations.scale_rows(retain[layer], rows, retain_scale)
    return rows - activations.scale_rows(forget[layer], outside, forget_scale)

  return activations.map_kernels(params, retain, suppress)


@functools.partial(jax.jit, static_argnums=2)
def _sample_rows(key: PRNGKey, samples: Samples, count: int) -> Samples:
  """Draws valid rows at random, at most a count."""
  bits = jax.random.uniform(key, samples.valid.shape, jnp.float32)
  # Rows that do not count come last; fewer valid rows than asked for stay few.
  order = jnp.argsort(jnp.where(samples.valid, bits, 2.0))[:count]
  return jax.tree.map(lambda x: x[order], samples)


@finetuning.check_settings
def svd_projection(
  network: Network,
  *,
  samples: int = 900,
  retain_scales: tuple[float, ...] = RETAIN_SCALES,
  forget_scales: tuple[float, ...] = FORGET_SCALES,
) -> Method:
  """Forgets a class by one projection of each kernel.

  Args:
    samples: drawn at random from either set. Published code takes as many of
      each retained class.
    retain_scales: the grid of 'alpha_r'; the first is the default.
    forget_scales: the grid of 'alpha_f', likewise.

  References:
    arXiv 2312.00761: 900 samples, alpha_r 100 and alpha_f 3 on CIFAR-10 with
    a VGG11.
  """

  def prepare(key, variables: Variables, data: Any) -> tuple[Bases, Bases]:
    parts = ('retain', data.retain), ('forget', data.forget)
    retain, forget = (
      activations.bases(
        network,
        variables,
        _sample_rows(rng.fold_in(key, name), rows, samples),
        'svd',
      )
      for name, rows in parts
    )
    return retain, forget

  def solve(key, variables: Variables, data, prepared, hyper) -> Result:
    del key, data
    retain, forget = prepared
    scales = hyper['alpha_r'], hyper['alpha_f']
    params = project(variables.params, retain, forget, *scales)
    return variables._replace(params=params), {'gradient_evaluations': 0}

  # Both scales change a matrix product alone: a whole grid is one program.
  grid = tuple(
    {'alpha_r': float(a), 'alpha_f': float(b)}
    for a, b in itertools.product(retain_scales, forget_scales)
  )
  return Method(('retain', 'forget'), prepare, solve, grid, True)
