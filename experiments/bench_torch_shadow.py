"""Shadow models in plain PyTorch, trained one after another."""

import time
from typing import Any, NamedTuple

import bench_torch
import numpy as np
import torch
from torch.nn import functional


class Problem(NamedTuple):
  """A case for PyTorch.

  Attributes:
    name: of the network, see bench_torch.NETWORKS.
    options: of the network.
    image: normalised images of all points, [n, h, w, c].
    label: [n].
    inside: membership of the points in the training set of each model, [k, n].
    steps: optimiser steps of each model.
    batch: samples a step.
    rate: learning rate.
  """

  name: str
  options: dict[str, int]
  image: np.ndarray
  label: np.ndarray
  inside: np.ndarray
  steps: int
  batch: int
  rate: float


def _order(rows: torch.Tensor, steps: int, batch: int) -> torch.Tensor:
  """Batches cut from permutations of the model's own points, [steps, batch]."""
  epochs = -(-steps * batch // len(rows))
  parts = [
    rows[torch.randperm(len(rows), device=rows.device)] for _ in range(epochs)
  ]
  return torch.cat(parts)[: steps * batch].reshape(steps, batch)


def _train_model(
  problem: Problem, image: torch.Tensor, label: torch.Tensor, rows: Any
) -> torch.Tensor:
  """Trains a model on its rows; returns its hits on all points."""
  net = bench_torch.NETWORKS[problem.name](
    problem.image.shape[1:], **problem.options
  )
  net = net.to(image.device).train()
  tx = torch.optim.SGD(
    net.parameters(), lr=problem.rate, momentum=0.9, weight_decay=5e-4
  )
  for index in _order(rows, problem.steps, problem.batch):
    tx.zero_grad(set_to_none=True)
    functional.cross_entropy(net(image[index]), label[index]).backward()
    tx.step()
  with torch.no_grad():
    return net.eval()(image).argmax(1) == label


def train(
  problem: Problem, device: str, threads: int, count: int | None = None
) -> tuple[float, np.ndarray]:
  """Trains the models; returns the seconds, and their hits [k, n].

  Args:
    problem: the case.
    device: 'cpu' or 'cuda'.
    threads: of PyTorch.
    count: number of models to train; None for all.
  """
  torch.set_num_threads(threads)
  image = torch.from_numpy(problem.image).permute(0, 3, 1, 2).contiguous()
  image, label = image.to(device), torch.from_numpy(problem.label).long()
  label = label.to(device)
  began = time.perf_counter()
  hits = [
    _train_model(
      problem,
      image,
      label,
      torch.from_numpy(np.flatnonzero(members)).to(device),
    )
    for members in problem.inside[:count]
  ]
  # Copying to the host waits for the device.
  array = torch.stack(hits).cpu().numpy()
  return time.perf_counter() - began, array


def fastest(problem: Problem, device: str) -> int:
  """Finds the better of one and two threads, by a trial on two models."""
  if device != 'cpu':
    return torch.get_num_threads()
  # The very first training loads libraries: it must not count.
  train(problem, device, 1, 1)
  return min((1, 2), key=lambda threads: train(problem, device, threads, 2)[0])
