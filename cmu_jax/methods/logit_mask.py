r"""Masking the logit: the network is forbidden to answer the class.

  W_f <- 0,   b_f <- -10^4      so that p_f = 0 and p_k <- p_k / (1 - p_f)

Nothing is forgotten: features and all other logits stay as they were. It is
the cheapest baseline of class unlearning, and what an audit must not pass.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from cmu_jax.core import errors
from cmu_jax.core.types import (
  Given,
  Info,
  InputStep,
  Method,
  Model,
  Samples,
  Variables,
)

# Beyond any logit, and finite where losses of the class are asked for.
FORBIDDEN = -1e4


def class_of(samples: Samples) -> Int[Array, '']:
  """The class to be forgotten: that of the first row that counts."""
  return samples.batch.label[jnp.argmax(samples.valid)]


def mask(params: PyTree, forget: Int[Array, ''] | int) -> PyTree:
  """Parameters whose head never answers a class.

  Args:
    params: with the linear layer 'head', as those of `networks.make`.
    forget: the class.

  Raises:
    UserError: there is no such layer, or it has no bias.
  """
  head: Any = params.get('head') if isinstance(params, Mapping) else None
  known = set(head) if isinstance(head, Mapping) else set()
  errors.check(
    {'kernel', 'bias'} <= known,
    "logit_mask: the network has no layer 'head' with a kernel and a bias; "
    "use a network of models.make, or leave 'mask' out",
  )
  chosen = jnp.arange(head['bias'].shape[0]) == forget
  kernel = jnp.where(chosen[None, :], 0, head['kernel'])
  bias: Float[Array, 'k'] = jnp.where(chosen, FORBIDDEN, head['bias'])
  return {**params, 'head': {**head, 'kernel': kernel, 'bias': bias}}


def logit_mask(model: Model, inputs: InputStep) -> Method:
  """Forbids the class of S_f; all of S_f must be of it.

  Args:
    model: the network, whose last layer is called 'head'.
    inputs: unused; all methods take it.

  References:
    On the Necessity of Output Distribution Reweighting for Effective Class
    Unlearning, arXiv 2506.20893, argues that it leaks.
  """
  del model, inputs

  def prepare(key: Any, variables: Variables, given: Given) -> jax.Array:
    del key, variables
    assert given.forget is not None
    return class_of(given.forget)

  def solve(
    key: Any, variables: Variables, given: Any, prepared: Any, hyper: Any
  ) -> tuple[Variables, Info]:
    del key, given, hyper
    found = variables._replace(params=mask(variables.params, prepared))
    return found, {'gradient_evaluations': 0}

  return Method(('forget',), prepare, solve, elementwise=True)
