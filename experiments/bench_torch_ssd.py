"""SSD's grid in plain PyTorch, for bench_ssd_grid."""

import time
from typing import Any, NamedTuple

import bench_torch
import jax
import numpy as np
import torch
from torch.nn import functional

Arrays = list[np.ndarray]


class Sets(NamedTuple):
  """Images and labels of S_tr without S_f, and of S_f; normalised."""

  retain: tuple[torch.Tensor, torch.Tensor]
  forget: tuple[torch.Tensor, torch.Tensor]


class Seconds(NamedTuple):
  """The seconds of a grid, by kind of work."""

  importances: float
  updates: float
  predictions: float


def _layer(leaf: Any) -> np.ndarray:
  """A kernel in PyTorch's layout; vectors as they are."""
  array = np.asarray(leaf)
  order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim)
  return array if order is None else array.transpose(order)


def leaves(name: str, params: Any) -> Arrays:
  """Returns our parameters in the order and layout of the twin's."""
  body, arrays = params['body'], []
  if name == 'fc':
    for layer in sorted(body):
      arrays += [body[layer]['kernel'], body[layer]['bias']]
  else:
    for i in range(3):
      norm = body[f'norms_{i}']
      arrays += [body[f'convs_{i}']['kernel'], norm['scale'], norm['bias']]
  arrays += [params['head']['kernel'], params['head']['bias']]
  return [_layer(leaf) for leaf in arrays]


def network(case: Any, variables: Any) -> Any:
  """Builds the twin with our weights and statistics, in evaluation mode."""
  net = bench_torch.NETWORKS[case.model](case.shape, **case.options).eval()
  with torch.no_grad():
    ours = leaves(case.model, variables.params)
    for theirs, leaf in zip(net.parameters(), ours, strict=True):
      theirs.copy_(torch.from_numpy(leaf.copy()))
    norms = [m for m in net if isinstance(m, torch.nn.BatchNorm2d)]
    for i, norm in enumerate(norms):
      stats = variables.batch_stats['body'][f'norms_{i}']
      norm.running_mean.copy_(torch.from_numpy(np.array(stats['mean'])))
      norm.running_var.copy_(torch.from_numpy(np.array(stats['var'])))
  return net


def tensors(image: Any, label: Any) -> tuple[torch.Tensor, torch.Tensor]:
  """Converts NHWC arrays to NCHW tensors."""
  pixels = np.asarray(image).transpose(0, 3, 1, 2)
  return (
    torch.from_numpy(np.array(pixels, np.float32, order='C')),
    torch.from_numpy(np.array(label, np.int64)),
  )


def importances(
  net: Any, images: torch.Tensor, labels: torch.Tensor, order: Any, size: int
) -> list[torch.Tensor]:
  """Averages squared gradients of the mean loss over batches."""
  params = list(net.parameters())
  sums = [torch.zeros_like(p) for p in params]
  batches = order.split(size)
  for rows in batches:
    loss = functional.cross_entropy(net(images[rows]), labels[rows])
    for total, g in zip(sums, torch.autograd.grad(loss, params), strict=True):
      total.add_(g * g)
  return [total / len(batches) for total in sums]


@torch.no_grad()
def update(
  theta: list[torch.Tensor],
  retain: list[torch.Tensor],
  forget: list[torch.Tensor],
  weight: float,
  dampening: float,
) -> list[torch.Tensor]:
  """Applies SSD's rule to the selected entries."""
  updated = []
  for p, r, f in zip(theta, retain, forget, strict=True):
    dampened, selected = p.clone(), f > weight * r
    dampened[selected] *= (dampening * r[selected] / f[selected]).clamp(max=1)
    updated.append(dampened)
  return updated


@torch.no_grad()
def _load(net: Any, params: list[torch.Tensor]) -> None:
  for parameter, value in zip(net.parameters(), params, strict=True):
    parameter.copy_(value)


@torch.inference_mode()
def _predict(net: Any, images: torch.Tensor) -> torch.Tensor:
  return torch.cat([net(batch).argmax(1) for batch in images.split(512)])


def grid(
  net: Any,
  sets: list[Sets],
  points: list[dict[str, float]],
  test: torch.Tensor,
  size: int,
  cached: bool,
) -> Seconds:
  """Repairs for every point of every fraction, and predicts on test images.

  Args:
    net: the original network.
    sets: by fraction.
    points: of the grid.
    test: normalised images.
    size: samples in a batch.
    cached: compute importances once a fraction; as published they are computed
      anew for every point.
  """
  theta = [p.detach().clone() for p in net.parameters()]
  seconds = [0.0, 0.0, 0.0]
  for pair in sets:
    sides = None
    for point in points:
      marks = [time.perf_counter()]
      if sides is None or not cached:
        sides = [
          importances(net, *samples, torch.randperm(len(samples[1])), size)
          for samples in pair
        ]
      marks.append(time.perf_counter())
      params = update(theta, *sides, *point.values())
      marks.append(time.perf_counter())
      _load(net, params)
      _predict(net, test)
      marks.append(time.perf_counter())
      # Importances of the next point are those of the original network.
      _load(net, theta)
      for i in range(3):
        seconds[i] += marks[i + 1] - marks[i]
  return Seconds(*seconds)


def fastest_threads(net: Any, pair: Sets, size: int) -> int:
  """Finds the number of cores, one or all, with the faster importances."""
  order = torch.arange(len(pair.retain[1]))
  times = {}
  for threads in sorted({1, torch.get_num_threads()}):
    torch.set_num_threads(threads)
    importances(net, *pair.retain, order, size)
    began = time.perf_counter()
    for _ in range(3):
      importances(net, *pair.retain, order, size)
    times[threads] = time.perf_counter() - began
  return min(times, key=lambda threads: times[threads])


def largest_difference(
  name: str,
  theta: Any,
  pair: Any,
  points: list[dict[str, float]],
  ours: Any,
  margin: float,
) -> tuple[float, int]:
  """Compares our updated parameters with PyTorch's, from equal importances.

  Args:
    name: of the network.
    theta: original parameters.
    pair: our importances.
    points: of the grid.
    ours: parameters with a leading axis of points.
    margin: entries whose I_f is so close to a I_r, relatively, are counted
      instead of compared.

  Returns:
    The largest absolute difference, and the number of entries too close.
  """
  original, retain, forget = (
    [torch.from_numpy(x.copy()) for x in leaves(name, tree)]
    for tree in (theta, pair.retain, pair.forget)
  )
  largest, close = 0.0, 0
  for position, point in enumerate(points):
    mine = leaves(name, jax.tree.map(lambda x, i=position: x[i], ours))
    theirs = update(original, retain, forget, *point.values())
    weight = point['ssd_selection_weight']
    for a, b, r, f in zip(mine, theirs, retain, forget, strict=True):
      bound = weight * r
      near = ((f - bound).abs() <= margin * bound) & (bound > 0)
      close += int(near.sum())
      gap = (torch.from_numpy(a.copy()) - b).abs()[~near]
      largest = max(largest, float(gap.max()) if gap.numel() else 0.0)
  return largest, close
