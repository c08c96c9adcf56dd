"""Power iteration on convolutions in plain PyTorch, two ways."""

import time
from collections.abc import Callable
from typing import Any

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
    moved = torch.from_numpy(np.ascontiguousarray(x.transpose(order)))
    return moved.to(device=device).contiguous(memory_format=layout)

  weights = [put(kernel, (3, 2, 0, 1)) for kernel in kernels]
  first, pad = put(start, (0, 3, 1, 2)), kernels[0].shape[0] // 2
  spare = (first.shape[2] + 2 * pad - kernels[0].shape[0]) % stride

  def forward(v: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return functional.conv2d(v, w, stride=stride, padding=pad)

  def square(v: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    if method == 'transpose':
      y = forward(v, w)
      return functional.conv_transpose2d(
        y, w, stride=stride, padding=pad, output_padding=spare
      )
    v = v.detach().requires_grad_(True)
    loss = 0.5 * forward(v, w).square().sum()
    return torch.autograd.grad(loss, v)[0]

  def norm(w: torch.Tensor) -> torch.Tensor:
    v = first / first.norm()
    for _ in range(iterations):
      z = square(v, w)
      v = z / z.norm()
    return forward(v, w).norm()

  def run() -> tuple[float, list[float]]:
    torch.set_num_threads(threads)
    began = time.perf_counter()
    with torch.set_grad_enabled(method == 'autograd'):
      found = [norm(w) for w in weights]
    values = [float(x) for x in found]
    return time.perf_counter() - began, values

  return run


def fastest(
  method: str, device: str, **case: Any
) -> tuple[Callable[[], tuple[float, list[float]]], str, float]:
  """The quickest thread count and layout: run, its words, its first seconds."""
  counts = (1, 2) if device == 'cpu' else (torch.get_num_threads(),)
  tried = []
  for threads in counts:
    for channels_last in (False, True):
      run = power(
        method,
        device=device,
        threads=threads,
        channels_last=channels_last,
        **case,
      )
      first = run()[0]
      words = f'{threads} threads, ' + (
        'channels last' if channels_last else 'contiguous'
      )
      tried.append((run()[0], run, words, first))
  return min(tried, key=lambda one: one[0])[1:]
