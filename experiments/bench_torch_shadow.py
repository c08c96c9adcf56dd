"""Plain PyTorch that trains shadow models one after another."""

import time
from typing import Any, NamedTuple

import bench_torch
import numpy as np
import torch
from torch.nn import functional


class Side(NamedTuple):
  """What PyTorch needs of a case.

  Attributes:
    name: of the network, see bench_torch.NETWORKS.
    options: of the network.
    image: normalised images of all points, [n, h, w, c].
    label: [n].
    inside: which model is trained on which point, [k, n].
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


def _one(
  side: Side, image: torch.Tensor, label: torch.Tensor, own: Any
) -> torch.Tensor:
  """Trains one model; which points it gets right."""
  net = bench_torch.NETWORKS[side.name](side.image.shape[1:], **side.options)
  net = net.to(image.device).train()
  tx = torch.optim.SGD(
    net.parameters(), lr=side.rate, momentum=0.9, weight_decay=5e-4
  )
  for index in _order(own, side.steps, side.batch):
    tx.zero_grad(set_to_none=True)
    functional.cross_entropy(net(image[index]), label[index]).backward()
    tx.step()
  with torch.no_grad():
    return net.eval()(image).argmax(1) == label


def train(
  side: Side, device: str, threads: int, count: int | None = None
) -> tuple[float, np.ndarray]:
  """Seconds, and which point each model gets right, [k, n].

  Args:
    side: the case.
    device: 'cpu' or 'cuda'.
    threads: of PyTorch.
    count: train only so many models; None for all.
  """
  torch.set_num_threads(threads)
  image = torch.from_numpy(side.image).permute(0, 3, 1, 2).contiguous()
  image, label = image.to(device), torch.from_numpy(side.label).long()
  label = label.to(device)
  began = time.perf_counter()
  hits = [
    _one(side, image, label, torch.from_numpy(np.flatnonzero(own)).to(device))
    for own in side.inside[:count]
  ]
  found = torch.stack(hits).cpu().numpy()
  return time.perf_counter() - began, found


def fastest(side: Side, device: str) -> int:
  """The better of one and two threads, by a trial on two models."""
  if device != 'cpu':
    return torch.get_num_threads()
  train(side, device, 1, 1)
  return min((1, 2), key=lambda threads: train(side, device, threads, 2)[0])
