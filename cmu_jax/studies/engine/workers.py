"""Work spread over devices and processes: every worker takes its share.

A worker is a local device of a process. Its number fixes which items it takes,
and results go into files, so no result depends on the number of workers.
"""

import concurrent.futures
import contextvars
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
from jax.experimental import multihost_utils

from cmu_jax.core import errors, progress

Item = TypeVar('Item')


def join(address: str) -> None:
  """Makes this process one of several.

  Args:
    address: 'ADDRESS:PORT,PROCESS,COUNT', or 'auto' on a cluster that JAX
      knows.

  Raises:
    UserError: it is neither.
  """
  if address == 'auto':
    jax.distributed.initialize()
    return
  parts = address.split(',')
  errors.check(
    len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit(),
    f'--distributed={address} is not ADDRESS:PORT,PROCESS,COUNT, such as '
    'localhost:9911,0,2, nor auto',
  )
  server, number, count = parts[0], int(parts[1]), int(parts[2])
  errors.check(
    number < count,
    f'--distributed={address}: process {number} is not one of 0 to {count - 1}',
  )
  jax.distributed.initialize(server, count, number)


def is_chief() -> bool:
  """Returns whether this process writes the results."""
  return jax.process_index() == 0


def wait(name: str) -> None:
  """Waits until every process has come to the barrier of this name."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def share(items: Sequence[Item], worker: int, count: int) -> list[Item]:
  """Selects the items of one worker: every count-th item."""
  return list(items[worker::count])


def count_workers(devices: bool = True) -> int:
  """Counts the workers of all processes, see `spread`."""
  return jax.process_count() * (jax.local_device_count() if devices else 1)


def spread(
  items: Sequence[Item], work: Callable[[Item], None], devices: bool = True
) -> None:
  """Does this process's share of the items.

  Args:
    items: the same list in every process.
    work: called with an item; its device is the default device.
    devices: whether local devices work side by side; else `work` is called
      for one item after another, and may use all of them.

  Raises:
    Whatever `work` raises, after the other devices have ended their share.
  """
  local = jax.local_devices() if devices else jax.local_devices()[:1]
  start = jax.process_index() * len(local)
  total = jax.process_count() * len(local)
  if len(local) == 1:
    for item in share(items, start, total):
      work(item)
    return

  def run(position: int) -> None:
    with jax.default_device(local[position]), progress.mute():
      for item in share(items, start + position, total):
        work(item)

  with concurrent.futures.ThreadPoolExecutor(len(local)) as pool:
    # Threads have contexts of their own, without the listener of this one.
    contexts = [contextvars.copy_context() for _ in local]
    running = [pool.submit(c.run, run, i) for i, c in enumerate(contexts)]
    for future in running:
      future.result()
