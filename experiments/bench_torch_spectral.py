"""Power iteration on convolutions in plain PyTorch, in two ways."""

import time
from collections.abc import Callable
from typing import Any

import bench_torch
import numpy as np
import torch
from torch.nn import functional

METHODS = ('autograd', 'transpose')


def power(
  method: str,
  kernels: list[np.ndarray],
  start: np.ndarray,
  stride: int,
  iterations: int,
  device: str,
  threads: int,
  channels_last: bool,
) -> Callable[[], tuple[float, list[float]]]:
  """run() -> (seconds, norms) of convolutions of one shape.

  Args:
    method: 'autograd', the gradient of |M v|^2 / 2, or 'transpose', with
      conv_transpose2d.
    kernels: HWIO, of one shape; zero padding is half of the window.
    start: [1, h, w, c].
    stride: of all.
    iterations: forward and backward passes.
    device: 'cpu' or 'cuda'.
    threads: of a CPU.
    channels_last: the memory layout.
  """
  torch.set_num_threads(threads)
  layout = torch.channels_last if channels_last else torch.contiguous_format

  def put(x: np.ndarray, order: tuple[int, ...]) -> torch.Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(x.transpose(order)))
    return tensor.to(device=device).contiguous(memory_format=layout)

  weights = [put(kernel, (3, 2, 0, 1)) for kernel in kernels]
  initial, pad = put(start, (0, 3, 1, 2)), kernels[0].shape[0] // 2
  # A strided convolution drops these rows; its transpose must restore them.
  dropped = (initial.shape[2] + 2 * pad - kernels[0].shape[0]) % stride

  def forward(v: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return functional.conv2d(v, w, stride=stride, padding=pad)

  def square(v: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    if method == 'transpose':
      y = forward(v, w)
      return functional.conv_transpose2d(
        y, w, stride=stride, padding=pad, output_padding=dropped
      )
    v = v.detach().requires_grad_(True)
    loss = 0.5 * forward(v, w).square().sum()
    return torch.autograd.grad(loss, v)[0]

  def norm(w: torch.Tensor) -> torch.Tensor:
    v = initial / initial.norm()
    for _ in range(iterations):
      z = square(v, w)
      v = z / z.norm()
    return forward(v, w).norm()

  def run() -> tuple[float, list[float]]:
    torch.set_num_threads(threads)
    began = time.perf_counter()
    with torch.set_grad_enabled(method == 'autograd'):
      norms = [norm(w) for w in weights]
    # Reading the values waits for the device.
    values = [float(x) for x in norms]
    return time.perf_counter() - began, values

  return run


def fastest(
  method: str, device: str, **case: Any
) -> tuple[Callable[[], tuple[float, list[float]]], str, float]:
  """Finds the quickest threads and layout: run, in words, first seconds."""
  trials = []
  for setting in bench_torch.variants(device, True):
    run = power(method, device=device, **setting, **case)
    first = run()[0]
    trials.append((run()[0], run, bench_torch.describe(**setting), first))
  return min(trials, key=lambda trial: trial[0])[1:]
