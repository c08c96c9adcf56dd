"""Three sequential PyTorch loops over alpha, for bench_alpha_search."""

import resource
from collections.abc import Callable
from typing import Any

import bench_torch
import jax
import numpy as np
import torch
from sklearn import neighbors

_BLOCKS = (
  'conv1',
  'conv2',
  'res1_0',
  'res1_1',
  'conv3',
  'res2_0',
  'res2_1',
  'conv4',
)


def _leaves(name: str, params: Any, stats: Any) -> list[np.ndarray]:
  """Returns our parameters in the order and layout of the twin's state."""
  dense = lambda layer: (
    [np.asarray(layer['kernel']).T]
    + ([np.asarray(layer['bias'])] if 'bias' in layer else [])
  )
  if name == 'fc':
    body = params['body']
    hidden = [x for layer in sorted(body) for x in dense(body[layer])]
    return hidden + dense(params['head'])
  arrays: list[np.ndarray] = []
  for block in _BLOCKS:
    ours = params['body'][block]
    norm = ours['norm']
    kernel = np.asarray(ours['conv']['kernel'])
    arrays += [kernel.transpose(3, 2, 0, 1), np.asarray(ours['bias'])]
    arrays += [np.asarray(norm['scale']), np.asarray(norm['bias'])]
    if stats is None:
      # A task vector does not move statistics.
      arrays += [np.zeros(len(norm['bias']))] * 2 + [np.array(0)]
    else:
      norm = stats['body'][block]['norm']
      arrays += [np.asarray(norm['mean']), np.asarray(norm['var'])]
      arrays += [np.array(0)]
  return arrays + dense(params['head'])


def _state(name: str, net: torch.nn.Module, params: Any, stats: Any) -> dict:
  values = _leaves(name, params, stats)
  names = list(net.state_dict())
  assert len(values) == len(names), (len(values), names)
  return {
    n: torch.from_numpy(np.array(v, np.float32))
    for n, v in zip(names, values, strict=True)
  }


def _score(same: float, probability: np.ndarray, predicted: np.ndarray, k: int):
  """Combines the terms of J, gamma = 1, in NumPy."""
  classes = len(probability)
  chance = float((probability**2).sum())
  supported = int(
    (np.bincount(predicted, minlength=classes) >= min(k + 1, max(3, k))).sum()
  )
  if supported < 2:
    return -1e6 - (2 - supported)
  adjusted = (same - chance) / max(1e-8, 1 - chance)
  effective = 1 / max(1e-8, chance)
  return (
    adjusted
    - max(0, classes - effective) / classes
    - max(0, classes - supported) / classes
  )


def _by_sklearn(features: torch.Tensor, predicted: np.ndarray, k: int) -> float:
  unit = torch.nn.functional.normalize(features, dim=1).cpu().numpy()
  index = neighbors.NearestNeighbors(n_neighbors=k + 1).fit(unit)
  near = index.kneighbors(unit, return_distance=False)[:, 1:]
  return float((predicted[near] == predicted[:, None]).mean())


def _by_matmul(features: torch.Tensor, predicted: Any, k: int) -> float:
  unit = torch.nn.functional.normalize(features, dim=1)
  similarity = unit @ unit.T
  similarity.fill_diagonal_(-2.0)
  near = similarity.topk(k, dim=1).indices
  guess = torch.as_tensor(predicted, device=unit.device)
  return float((guess[near] == guess[:, None]).float().mean())


def make(
  name: str, setup: Any, device: str
) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
  """Returns the loops by name, each from a grid of alphas to J."""
  torch.set_num_threads(threads())
  bench_torch.allow_tf32(False)
  shape = setup.pool.shape[1:]
  options = (
    {'width': setup.variables.params['head']['kernel'].shape[0], 'depth': 1}
    if name == 'fc'
    else {'width': setup.variables.params['head']['kernel'].shape[0] // 2}
  )
  net = bench_torch.NETWORKS[name](shape, **options).to(device).eval()
  state = _state(
    name, net, setup.variables.params, setup.variables.batch_stats or None
  )
  tau = _state(name, net, jax.tree.map(np.asarray, setup.tau), None)
  images = lambda x: torch.from_numpy(np.array(x.transpose(0, 3, 1, 2))).to(
    device
  )
  pool, test = images(setup.pool), images(setup.test)
  body, head = net[:-1], net[-1]

  def load(a: float) -> None:
    net.load_state_dict({n: v - a * tau[n] for n, v in state.items()})

  @torch.inference_mode()
  def loop(alphas: np.ndarray, test_pass: bool, agreement: Callable):
    scores = []
    for a in alphas:
      load(float(a))
      if test_pass:
        for batch in test.split(256):
          net(batch).argmax(1).cpu()
      features = torch.cat([body(batch) for batch in pool.split(256)])
      probability = head(features).softmax(1)
      predicted = probability.argmax(1).cpu().numpy()
      same = agreement(features, predicted, setup.k)
      mean = probability.double().mean(0).cpu().numpy()
      scores.append(_score(same, mean, predicted, setup.k))
    return np.array(scores)

  return {
    'shipped': lambda g: loop(g, True, _by_sklearn),
    'selection': lambda g: loop(g, False, _by_sklearn),
    'matmul': lambda g: loop(g, False, _by_matmul),
  }


def threads() -> int:
  """Returns PyTorch's own choice of threads."""
  return torch.get_num_threads()


def peak_memory(device: str) -> dict[str, float]:
  """Returns the peak memory of the process and, on GPUs, of each side."""
  peaks = {'process': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
  if device == 'cuda':
    peaks['torch'] = torch.cuda.max_memory_allocated() / 2**20
    peaks['ours'] = jax.devices()[0].memory_stats()['peak_bytes_in_use'] / 2**20
  return peaks
