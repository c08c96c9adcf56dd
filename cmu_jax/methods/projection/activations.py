r"""The spans of the inputs of every layer on a set of samples.

With the inputs of a layer as the columns of R = U Sigma V^T, the shares are
s_i = sigma_i^2 / sum_j sigma_j^2. A convolution is a dense layer on patches.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, PyTree

from cmu_jax.core import errors, jit, tree, vectorize
from cmu_jax.core.types import Model, Network, Samples, Variables
from cmu_jax.methods.dampening import importance
from cmu_jax.networks import layers

Path = tuple[str, ...]

# Accelerators may round products to fewer digits: small shares would drown in
# the error.
EXACT = jax.lax.Precision.HIGHEST

# Images at a time: patches of a 3x3 kernel have 9 times the size of its input.
_PATCHED = 32


class Basis(NamedTuple):
  """The span of the inputs of one layer.

  Attributes:
    vectors: U, [in, in].
    shares: s, [in], summing to 1.
  """

  vectors: Float[Array, 'i i']
  shares: Float[Array, 'i']


def extract_patches(
  image: Float[Array, 'n h w c'],
  size: int,
  stride: int,
  pad: tuple[tuple[int, int], tuple[int, int]],
) -> Float[Array, 'n p i']:
  """Extracts the rows that a convolution multiplies by its kernel [in, out].

  Args:
    image: its input.
    size: height and width of the kernel.
    stride: step along both axes.
    pad: zeros above and below, left and right.
  """
  # One slice for each tap of the kernel, in the order of its reshaped rows.
  wide = jnp.pad(image, ((0, 0), *pad, (0, 0)))
  rows, columns = ((n - size) // stride + 1 for n in wide.shape[1:3])
  taps = [
    wide[
      :,
      i : i + (rows - 1) * stride + 1 : stride,
      j : j + (columns - 1) * stride + 1 : stride,
    ]
    for i in range(size)
    for j in range(size)
  ]
  return jnp.concatenate(taps, -1).reshape(len(image), rows * columns, -1)


def _inputs_of(module: nn.Module, x: jax.Array) -> Float[Array, 'n p i'] | None:
  """Rows that a layer multiplies by its kernel; None for other modules."""
  if isinstance(module, layers.Dense | nn.Dense):
    return x.reshape(len(x), -1, x.shape[-1])
  if isinstance(module, layers.Conv):
    pads = module.pads(x.shape[1:3])
    return extract_patches(x, module.size, module.stride, pads)
  return None


def layer_inputs(
  model: Model, variables: Variables, image: Float[Array, 'n h w c']
) -> dict[Path, Float[Array, 'n p i']]:
  """The inputs of dense layers and convolutions, in evaluation mode.

  Args:
    model: a network of modules of `layers` or `flax.linen.Dense`.
    image: normalised.

  Returns:
    Module path -> rows, p of them an image, of which the layer's output is the
    product with its kernel. Layers of other kinds are not among them.
  """
  result: dict[Path, Any] = {}

  def record(call, args, kwargs, context):
    rows = None
    if context.method_name == '__call__':
      rows = _inputs_of(context.module, args[0])
    if rows is not None:
      path = tuple(context.module.path)
      # A module that is called twice has the rows of both calls.
      earlier = [result[path]] if path in result else []
      result[path] = jnp.concatenate([*earlier, rows.astype(jnp.float32)], 1)
    return call(*args, **kwargs)

  # Modules of any network are seen as they are called, without a hook in them.
  with nn.intercept_methods(record):
    model.apply(variables, image)
  return result


def gram(
  rows: Float[Array, 'n p i'], weight: Float[Array, 'n']
) -> Float[Array, 'i i']:
  """R R^T of the rows of each image, weighted."""
  weighted = weight[:, None, None] * rows
  return jnp.einsum('npi,npj->ij', weighted, rows, precision=EXACT)


@functools.lru_cache(maxsize=32)
def _gram_program(network: Network, size: int) -> Callable:
  """Adds R R^T of batches [start, stop), layer by layer."""

  def run(variables, samples, total, start, stop):
    # Valid rows first, so that the loop ends with them.
    rows = jnp.argsort(~samples.valid, stable=True)

    def add(step, total):
      index, weight = importance.select_rows(rows, samples.valid, size, step)
      batch = jax.tree.map(lambda x: x[index], samples.batch)
      image = network.inputs.eval(batch.image, batch.has_trigger)
      rows_by_path = layer_inputs(network.model, variables, image)
      return {p: total[p] + gram(x, weight) for p, x in rows_by_path.items()}

    return jax.lax.fori_loop(start, stop, add, total)

  return jit.compile_loop(run, donate_argnums=2)


def bases(
  network: Network,
  variables: Variables,
  samples: Samples,
  method_name: str = 'sap',
) -> dict[Path, Basis]:
  """Decomposes the inputs of every layer into singular vectors and shares.

  Args:
    samples: valid rows count.
    method_name: in the error.

  Raises:
    UserError: the network has no layer whose inputs are known.
  """
  size = min(_PATCHED, samples.valid.shape[0])
  single = jax.tree.map(lambda x: x[:1], samples.batch)
  shapes = jax.eval_shape(
    lambda: layer_inputs(
      network.model,
      variables,
      network.inputs.eval(single.image, single.has_trigger),
    )
  )
  errors.check(
    shapes,
    f'{method_name}: this network shows no dense layer or convolution of its '
    'own; build it from flax.linen.Dense or by networks.make, or leave '
    f"'{method_name}' out",
  )
  run = _gram_program(network, size)
  grams = vectorize.fold_batches(
    lambda total, start, stop: run(variables, samples, total, start, stop),
    {p: jnp.zeros((x.shape[-1],) * 2, jnp.float32) for p, x in shapes.items()},
    -(-samples.valid.sum() // size),
    'inputs of the layers',
  )
  return _decompose_all(grams)


def decompose(gram: Float[Array, 'i i']) -> Basis:
  """Finds U and s from R R^T."""
  values, vectors = jnp.linalg.eigh(gram)
  # Rounding makes eigenvalues of a semi-definite matrix slightly negative.
  positive = jnp.maximum(values, 0)
  return Basis(vectors, positive / jnp.maximum(positive.sum(), 1e-30))


_decompose_all = jax.jit(lambda grams: jax.tree.map(decompose, grams))


def scale_rows(
  basis: Basis, rows: Float[Array, 'i o'], scale: float | Float[Array, '']
) -> Float[Array, 'i o']:
  """Computes U Lambda U^T W with Lambda_i = a s_i / ((a - 1) s_i + 1).

  Args:
    basis: U and s.
    rows: W.
    scale: a; towards infinity U Lambda U^T is the identity where s > 0.

  References:
    arXiv 2403.08618 and arXiv 2312.00761, both section 3.
  """
  weights = scale * basis.shares / ((scale - 1) * basis.shares + 1)
  times = functools.partial(jnp.matmul, precision=EXACT)
  return times(basis.vectors, weights[:, None] * times(basis.vectors.T, rows))


def map_kernels(
  params: PyTree,
  bases: dict[Path, Basis],
  transform: Callable[[Path, Float[Array, 'i o']], Float[Array, 'i o']],
) -> PyTree:
  """Replaces every kernel of a known layer; other parameters stay.

  Args:
    bases: of the known layers.
    transform: (module path, kernel as [in, out]) -> the new kernel.
  """

  def map_leaf(path, leaf):
    names = tree.path_names(path)
    layer = names[:-1]
    if names[-1] != 'kernel' or layer not in bases:
      return leaf
    rows = leaf.reshape(bases[layer].vectors.shape[0], -1)
    return transform(layer, rows).reshape(leaf.shape)

  return jax.tree_util.tree_map_with_path(map_leaf, params)
