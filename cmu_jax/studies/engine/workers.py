"""Work spread over devices and hosts: every worker takes its share of a list.

A worker is a local device of a process. Which items it takes is fixed by its
number, what it finds goes into files, so the result does not depend on how
many workers there are.
"""

import concurrent.futures
import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import jax
from jax.experimental import multihost_utils

from cmu_jax.core import errors, progress

Item = TypeVar('Item')


def join(where: str) -> None:
  """Makes this process one of several.

  Args:
    where: 'ADDRESS:PORT,PROCESS,COUNT', or 'auto' where the cluster says it.

  Raises:
    UserError: it is neither.
  """
  if where == 'auto':
    jax.distributed.initialize()
    return
  parts = where.split(',')
  errors.check(
    len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit(),
    f'--distributed={where} is not ADDRESS:PORT,PROCESS,COUNT, such as '
    'localhost:9911,0,2, nor auto',
  )
  address, number, count = parts[0], int(parts[1]), int(parts[2])
  errors.check(
    number < count,
    f'--distributed={where}: process {number} is not one of 0 to {count - 1}',
  )
  jax.distributed.initialize(address, count, number)


def chief() -> bool:
  """Whether this process puts the results together."""
  return jax.process_index() == 0


def wait(name: str) -> None:
  """Until every process has come here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def share(items: Sequence[Item], worker: int, count: int) -> list[Item]:
  """What worker `worker` of `count` takes: every count-th item."""
  return list(items[worker::count])


def spread(items: Sequence[Item], work: Callable[[Item], None]) -> None:
  """Does this process's share of the items, on all of its devices at once.

  Args:
    items: the same list in every process.
    work: called with an item, its device being the default one.

  Raises:
    Whatever `work` raises, after the other devices have ended theirs.
  """
  devices = jax.local_devices()
  first = jax.process_index() * len(devices)
  total = jax.process_count() * len(devices)
  if len(devices) == 1:
    for item in share(items, first, total):
      work(item)
    return

  def run(position: int) -> None:
    with jax.default_device(devices[position]), progress.mute():
      for item in share(items, first + position, total):
        work(item)

  with concurrent.futures.ThreadPoolExecutor(len(devices)) as pool:
    for done in [pool.submit(run, i) for i in range(len(devices))]:
      done.result()


@contextlib.contextmanager
def on_device() -> Iterator[None]:
  """What a device refuses, in one line: to be there, or more memory."""
  try:
    jax.devices()
  except (RuntimeError, AssertionError) as error:
    reason = str(error) or 'none of JAX_PLATFORMS is there'
    raise errors.UserError(
      f'JAX has no device to run on: {reason}; install its plug-in, or set '
      'JAX_PLATFORMS=cpu'
    ) from error
  try:
    yield
  except (jax.errors.JaxRuntimeError, MemoryError) as error:
    if not re.search(
      'RESOURCE_EXHAUSTED|[Oo]ut of memory|allocate', str(error)
    ):
      raise
    raise errors.UserError(
      f'out of memory: {errors.first_line(error)}; lower config.model.width, '
      'the batch_size of config.train, proxy_train and finetune, or '
      'config.evaluate.batch_size'
    ) from error
