"""Networks against PyTorch's: random weights, names, quick compilation."""

import importlib.util
import pathlib
import warnings

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp

from cmu_jax.networks import weights
from cmu_jax.networks.weights import matching, names


def torch():
  """PyTorch, or a skipped test."""
  return pytest.importorskip('torch', reason='PyTorch is not installed')


def torchvision():
  """The module; skips the test where it is not installed."""
  library = torch()
  spec = importlib.util.find_spec('torchvision')
  if spec is None:
    pytest.skip('torchvision is not installed')
  operators = next(pathlib.Path(spec.origin).parent.glob('_C*.so'))
  try:
    library.ops.load_library(str(operators))
  except OSError:
    # Built for CUDA beside a torch without it: the import needs these
    # operators by name, but no classifier uses them.
    for name in ('nms', 'qnms'):
      if not hasattr(library.ops.torchvision, name):
        library.library.define(
          f'torchvision::{name}', '(Tensor a, Tensor b, float c) -> Tensor'
        )
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    import torchvision

    return torchvision


def randomize(network, seed=0):
  """Draws every parameter and statistic of a PyTorch network, in place."""
  rng = np.random.default_rng(seed)
  for name, tensor in network.state_dict().items():
    if not name.endswith('num_batches_tracked'):
      positive = name.endswith('running_var') or tensor.ndim == 1
      # Kernels keep the size of the signal, so that nothing saturates.
      bound = 2 * np.prod(tensor.shape[1:]) ** -0.5
      low, high = (0.5, 1.5) if positive else (-bound, bound)
      values = rng.uniform(low, high, tensor.shape).astype(np.float32)
      tensor.copy_(tensor.new_tensor(values))


def random_variables(model, image, bound=0.4, seed=1):
  """Uniform variables of a model, much quicker than its initialisation."""
  shapes = jax.eval_shape(model.init, jax.random.key(0), image[:1])
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    positive = path[-1].key in ('scale', 'var')
    low, high = (0.5, 1.5) if positive else (-bound, bound)
    return jnp.asarray(rng.uniform(low, high, leaf.shape), jnp.float32)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def state_dict(variables, torch_name):
  """Our variables as the arrays of a PyTorch state dict."""
  layout = names.Layout(names.torch_names(variables, torch_name), True)
  blank = dict.fromkeys(layout.names.values(), np.zeros((), np.float32))
  return weights.put_back(variables, blank, layout)


def variables_from(network, model, torch_name, image):
  """Our variables with the weights of a PyTorch network; all must be used."""
  arrays = {
    name: tensor.detach().numpy()
    for name, tensor in network.state_dict().items()
  }
  shapes = jax.eval_shape(model.init, jax.random.key(0), image[:1])
  return matching.fit(arrays, shapes, torch_name, 'the twin')[0]


def compile_quickly(function, *args):
  """Compiles for a quick start rather than for speed."""
  lowered = jax.jit(function).lower(*args)
  return lowered.compile({'xla_backend_optimization_level': 0})


def quick(function, *args):
  """Calls a function compiled by `compile_quickly`."""
  return compile_quickly(function, *args)(*args)


def parity(network, model, torch_name, image):
  """The largest difference of the logits, relative to the largest logit."""
  variables = variables_from(network, model, torch_name, image)
  got = quick(model.apply, variables, image)
  with torch().no_grad():
    batch = torch().from_numpy(np.array(image).transpose(0, 3, 1, 2).copy())
    expected = network.eval()(batch).numpy()
  return np.abs(got - expected).max() / np.abs(expected).max()


def derivative_pairs(f, params, tangent):
  """Derivatives of f, each computed in two ways that must agree."""

  def loss(params):
    return jnp.mean(jnp.sin(f(params)))

  def slope(params):
    return jax.jvp(loss, (params,), (tangent,))[1]

  def directional(params):
    return optax.tree.vdot(jax.grad(loss)(params), tangent)

  value, linear = jax.linearize(f, params)
  pushed = linear(tangent)
  stacked = jax.tree.map(lambda p, t: jnp.stack([p, t]), params, tangent)
  transposed = jax.linear_transpose(linear, params)(pushed)[0]
  gradient = jax.grad(directional)(params)
  return {
    'jvp': (pushed, jax.jvp(f, (params,), (tangent,))[1]),
    'transpose': (optax.tree.vdot(transposed, tangent), jnp.sum(pushed**2)),
    'vmap': (jax.vmap(f)(stacked)[0], value),
    'grad of grad': (
      optax.tree.vdot(gradient, tangent),
      jax.jvp(slope, (params,), (tangent,))[1],
    ),
  }
