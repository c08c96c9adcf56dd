r"""Sensitivity of predictions to each layer, and task vectors that spare it.

A layer with kernel W [in, out] has the sensitivity

  L_W = E[G G^T] in [in, in],   G = d <r, f(x; theta)> / dW,   r ~ N(0, I)

over images x: the span of the layer's inputs, weighted by their effect on the
logits. A bias is one more row of its kernel. A task vector tau is shrunk along
that span and then rescaled to its norm:

  P tau = mu (L_W + mu I)^-1 tau,   mu = damping tr(L_W) / in.

References:
  Training Networks in Null Space of Feature Covariance for Continual Learning
  (arXiv 2103.07113): updates in the null space of a layer's inputs.
  Shampoo (arXiv 1802.09568): E[G G^T] as a layer's left statistic.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from cmu_jax.core import jit, rng, tree
from cmu_jax.core.types import Model, PRNGKey, Variables

# Images whose gradients are summed before they are squared, and passes over the
# images. Cotangents are independent and of mean zero, so that cross terms of
# different images vanish in expectation: a batch costs one gradient.
_BATCH, _REPEATS = 16, 4
Matrices = dict[tuple[str, ...], jax.Array]


def kernel_matrices(params: PyTree) -> Matrices:
  """Maps module path -> kernel as [in, out], with a bias as its last row."""
  flat = tree.leaves_by_path(params)
  result = {}
  for path, leaf in flat.items():
    if path[-1] == 'kernel':
      rows = [leaf.reshape(-1, leaf.shape[-1])]
      bias = flat.get((*path[:-1], 'bias'))
      rows += [] if bias is None else [bias[None, :]]
      result[path[:-1]] = jnp.concatenate(rows)
  return result


@functools.lru_cache(maxsize=32)
def _sensitivity_program(model: Model) -> Callable:
  """The compiled sum of G G^T; one function a network."""

  def gradient(variables, image, cotangent):
    score = lambda params: jnp.vdot(
      model.apply(Variables(params, variables.batch_stats), image), cotangent
    )
    return kernel_matrices(jax.grad(score)(variables.params))

  def total(key, variables, image):
    def add(sums, block):
      index, k = block
      shape = jax.eval_shape(model.apply, variables, image[index]).shape
      cotangent = jax.random.normal(k, shape, jnp.float32)
      gradients = gradient(variables, image[index], cotangent)
      return {n: sums[n] + g @ g.T for n, g in gradients.items()}, None

    size = min(_BATCH, image.shape[0])
    count = -(-image.shape[0] // size) * _REPEATS
    orders = jax.vmap(lambda k: jax.random.permutation(k, image.shape[0]))(
      jax.random.split(rng.fold_in(key, 'order'), _REPEATS)
    )
    blocks = jnp.resize(orders.reshape(-1), (count, size))
    zero = {
      n: jnp.zeros((m.shape[0], m.shape[0]), jnp.float32)
      for n, m in kernel_matrices(variables.params).items()
    }
    keys = jax.random.split(rng.fold_in(key, 'cotangent'), count)
    return jax.lax.scan(add, zero, (blocks, keys))[0]

  return jit.compile_loop(total)


def estimate_sensitivity(
  key: PRNGKey,
  model: Model,
  variables: Variables,
  image: Float[Array, 'n h w c'],
) -> Matrices:
  """Estimates L of every layer with a kernel, times 4 n.

  Args:
    key: of the cotangents r and of the batches.
    model: the network, in evaluation mode.
    variables: the point of linearisation.
    image: normalised images whose predictions are to be spared.

  Returns:
    Module path -> [in, in]; a bias counts as one more input.
  """
  return _sensitivity_program(model)(key, variables, image)


def project_vector(
  tau: PyTree, moments: Matrices, damping: float | Float[Array, '']
) -> PyTree:
  """Projects a task vector: P tau, with the norm of tau.

  Args:
    moments: of `estimate_sensitivity`.
    damping: mu as a share of the mean eigenvalue of a layer's moments. Towards
      infinity tau stays as it is; towards 0 it is confined to directions to
      which no prediction responds.
  """
  flat = tree.leaves_by_path(tau)
  # Leaves outside the layers with a kernel, such as norms, leave the vector:
  # their sensitivity is unknown.
  projected = {path: jnp.zeros_like(leaf) for path, leaf in flat.items()}
  for name, rows in kernel_matrices(tau).items():
    moment = moments[name]
    size = moment.shape[0]
    # Without a floor a layer that no prediction uses would divide 0 by 0.
    mu = damping * jnp.maximum(jnp.trace(moment) / size, 1e-30)
    shrunk = jnp.linalg.solve(moment / mu + jnp.eye(size), rows)
    if (*name, 'bias') in flat:
      projected[(*name, 'bias')] = shrunk[-1]
      shrunk = shrunk[:-1]
    path = (*name, 'kernel')
    projected[path] = shrunk.reshape(flat[path].shape)
  result = jax.tree_util.tree_map_with_path(
    lambda path, _: projected[tree.path_names(path)], tau
  )
  scale = tree.norm(tau) / jnp.maximum(tree.norm(result), 1e-30)
  return jax.tree.map(lambda x: scale * x, result)
