"""Plain PyTorch twins of our networks, and their training."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class _Residual(nn.Module):
  """x + inner(x)."""

  def __init__(self, *inner: nn.Module):
    super().__init__()
    self.inner = nn.Sequential(*inner)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return x + self.inner(x)


def _mlp(shape: tuple, width: int = 128, depth: int = 2) -> nn.Module:
  sizes = [shape[0] * shape[1] * shape[2]] + [width] * depth
  hidden = [
    layer
    for i in range(depth)
    for layer in (nn.Linear(sizes[i], sizes[i + 1]), nn.ReLU(inplace=True))
  ]
  return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, 10))


def _convnet(shape: tuple, width: int = 1) -> nn.Module:
  sizes = [shape[2], 16 * width, 32 * width, 64 * width]
  stages = [
    layer
    for i in range(3)
    for layer in (
      nn.Conv2d(sizes[i], sizes[i + 1], 3, 2, 1, bias=False),
      nn.BatchNorm2d(sizes[i + 1]),
      nn.ReLU(inplace=True),
    )
  ]
  pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
  return nn.Sequential(*stages, *pool, nn.Linear(sizes[3], 10))


def _resnet9(shape: tuple, width: int = 64) -> nn.Module:
  def block(i: int, o: int, size: int = 3, stride: int = 1, pad: int = 1):
    return nn.Sequential(
      nn.Conv2d(i, o, size, stride, pad),
      nn.BatchNorm2d(o),
      nn.CELU(0.075, inplace=True),
    )

  w = width
  return nn.Sequential(
    block(shape[2], w),
    block(w, 2 * w, 5, 2, 2),
    _Residual(block(2 * w, 2 * w), block(2 * w, 2 * w)),
    block(2 * w, 4 * w),
    nn.MaxPool2d(2),
    _Residual(block(4 * w, 4 * w), block(4 * w, 4 * w)),
    block(4 * w, 2 * w, 3, 1, 0),
    nn.AdaptiveMaxPool2d(1),
    nn.Flatten(),
    nn.Linear(2 * w, 10, bias=False),
  )


NETWORKS: dict[str, Callable[..., nn.Module]] = {
  'fc': _mlp,
  'convnet': _convnet,
  'resnet9': _resnet9,
}


def variants(device: str, is_conv: bool) -> list[dict[str, Any]]:
  """Lists the settings to try; the benchmark times the fastest."""
  threads = [1, 2] if device == 'cpu' else [torch.get_num_threads()]
  layouts = [False, True] if is_conv else [False]
  return [
    {'threads': t, 'channels_last': layout}
    for t in threads
    for layout in layouts
  ]


def describe(threads: int, channels_last: bool) -> str:
  """Names a setting, for tables."""
  layout = 'channels last' if channels_last else 'contiguous'
  return f'{threads} threads, {layout}'


def allow_tf32(allowed: bool) -> None:
  """Sets TF32 for matrix products and convolutions alike."""
  torch.backends.cuda.matmul.allow_tf32 = allowed
  torch.backends.cudnn.allow_tf32 = allowed
  torch.backends.cudnn.benchmark = True


def trainer(
  name: str,
  options: dict[str, int],
  image: Any,
  label: Any,
  batch: int,
  device: str,
  threads: int,
  channels_last: bool,
) -> Callable[[int], float]:
  """run(steps) -> seconds, SGD with momentum 0.9 and coupled decay 5e-4."""
  torch.set_num_threads(threads)
  layout = torch.channels_last if channels_last else torch.contiguous_format
  net = NETWORKS[name](image.shape[1:], **options)
  net = net.to(device=device, memory_format=layout).train()
  images = torch.from_numpy(image).permute(0, 3, 1, 2)
  images = images.to(device=device).contiguous(memory_format=layout)
  labels = torch.from_numpy(label).long().to(device)
  tx = torch.optim.SGD(
    net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4
  )

  def run(steps: int) -> float:
    torch.set_num_threads(threads)
    began = time.perf_counter()
    order = torch.randint(len(labels), (steps, batch), device=device)
    for index in order:
      tx.zero_grad(set_to_none=True)
      loss = functional.cross_entropy(net(images[index]), labels[index])
      loss.backward()
      tx.step()
    # NaN alone differs from itself. Reading the loss waits for the device.
    value = loss.item()
    if value != value:
      raise FloatingPointError('the PyTorch run diverged')
    return time.perf_counter() - began

  return run
