"""Weights of a PyTorch network as ours, and torchvision where it is there."""

import importlib.util
import pathlib
import warnings

import jax
import numpy as np
import pytest

from cmu_jax.networks.weights import matching


def torchvision():
  """The module; skips the test where it is not installed."""
  torch = pytest.importorskip('torch')
  spec = importlib.util.find_spec('torchvision')
  if spec is None:
    pytest.skip('torchvision is not installed')
  library = next(pathlib.Path(spec.origin).parent.glob('_C*.so'))
  try:
    torch.ops.load_library(str(library))
  except OSError:
    # Built for CUDA beside a torch without it: the import wants to know these
    # operators, which no classifier uses.
    for name in ('nms', 'qnms'):
      if not hasattr(torch.ops.torchvision, name):
        torch.library.define(
          f'torchvision::{name}', '(Tensor a, Tensor b, float c) -> Tensor'
        )
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    import torchvision

    return torchvision


def randomize(network, seed=0):
  """Draws every parameter and statistic of a PyTorch network, in place.

  Kernels keep the size of what flows through, so that nothing saturates.
  """
  rng = np.random.default_rng(seed)
  for name, tensor in network.state_dict().items():
    if not name.endswith('num_batches_tracked'):
      positive = name.endswith('running_var') or tensor.ndim == 1
      bound = 2 * np.prod(tensor.shape[1:]) ** -0.5
      low, high = (0.5, 1.5) if positive else (-bound, bound)
      drawn = rng.uniform(low, high, tensor.shape).astype(np.float32)
      tensor.copy_(tensor.new_tensor(drawn))


def variables_from(network, model, torch_name, image):
  """Our variables with the weights of a PyTorch network; all must be used."""
  arrays = {
    name: tensor.detach().numpy()
    for name, tensor in network.state_dict().items()
  }
  shapes = jax.eval_shape(model.init, jax.random.key(0), image[:1])
  return matching.fit(arrays, shapes, torch_name, 'the twin')[0]


def quick(function, *args):
  """Calls it compiled for a quick start rather than for speed."""
  lowered = jax.jit(function).lower(*args)
  return lowered.compile({'xla_backend_optimization_level': 0})(*args)


def parity(network, model, torch_name, image):
  """The largest difference of the logits, relative to the largest logit."""
  import torch

  variables = variables_from(network, model, torch_name, image)
  got = quick(model.apply, variables, image)
  with torch.no_grad():
    batch = torch.from_numpy(np.array(image).transpose(0, 3, 1, 2).copy())
    expected = network.eval()(batch).numpy()
  return np.abs(got - expected).max() / np.abs(expected).max()
