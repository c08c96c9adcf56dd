"""Compiled loops are called alone or from inside another jit."""

import jax
import pytest
from jax import numpy as jnp

from cmu_jax.core import jit


def test_a_loop_works_inside_jit_grad_and_vmap():
  run = jit.compile_loop(
    lambda x: jax.lax.fori_loop(0, 3, lambda _, y: y * x, x)
  )
  alone = run(jnp.asarray(2.0))
  assert alone == 16.0
  assert jax.jit(run)(jnp.asarray(2.0)) == alone
  assert jax.jvp(run, (2.0,), (1.0,))[1] == pytest.approx(32.0)
  assert jax.vmap(run)(jnp.arange(3.0)).tolist() == [0.0, 1.0, 16.0]
