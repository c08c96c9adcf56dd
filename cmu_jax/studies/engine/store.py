"""The files of a run, each named by what its content depends on, and its clock.

  cells/<address>.json           records
  originals/<address>.npz        a training under way
  originals/whole<address>.npz   a trained network
  <kind>/<address>.npz           other arrays

A file is whole or absent, so a run that was killed continues by computing what
is absent.
"""

import collections
import pathlib
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from cmu_jax.core import store
from cmu_jax.core.store import Checkpoint
from cmu_jax.core.types import Info

RECORDS, NETWORKS = 'cells', 'networks'
State = TypeVar('State')


class TimeIsUp(Exception):
  """Ends a training right after it saved itself past the deadline."""


class Clock:
  """The time that is left, and the durations of cells so far.

  Attributes:
    deadline: in seconds of the monotonic clock; None for no limit.
  """

  def __init__(self, minutes: float | None = None) -> None:
    self.deadline = None if minutes is None else time.monotonic() + 60 * minutes
    self._durations: dict[str, float] = {}

  def is_late(self) -> bool:
    """Returns whether the deadline has passed."""
    return self.deadline is not None and time.monotonic() >= self.deadline

  def allows(self, kind: str) -> bool:
    """Returns whether a cell of this kind is likely to end in time."""
    if self.deadline is None:
      return True
    # The first cell of a kind has no estimate, and may end late.
    expected = self._durations.get(kind, 0.0)
    return time.monotonic() + expected < self.deadline

  def record(self, kind: str, seconds: float) -> None:
    """Remembers the duration of a cell."""
    self._durations[kind] = seconds


class Store:
  """Reads, writes and computes the files of one work folder.

  Attributes:
    folder: the work folder.
    seconds: how much of a training may be lost at most.
    clock: ends a training that saves itself after the deadline.
  """

  def __init__(
    self, folder: pathlib.Path, seconds: float, clock: Clock
  ) -> None:
    self.folder, self.seconds, self.clock = folder, seconds, clock
    self._locks: dict[str, Any] = collections.defaultdict(threading.RLock)

  def read_record(self, address: str) -> Info | None:
    """Reads the record of a cell; None if the cell is still to be computed."""
    return store.read_record(self.folder, address)

  def write_record(self, address: str, record: Info) -> None:
    """Writes the record of a cell."""
    store.write_record(self.folder, address, record)

  def has_arrays(self, kind: str, address: str) -> bool:
    """Returns whether a network, or other arrays, have their file."""
    if kind == NETWORKS:
      kind, address = 'originals', _name_network(address)
    return self._path(kind, address).exists()

  def read_or_train(
    self, address: str, template: State, train: Callable[[Checkpoint], State]
  ) -> State:
    """Reads a trained network, or trains it and writes it.

    Args:
      address: of the network.
      template: a pytree of the same structure, shapes and types.
      train: (checkpoint) -> the pytree to keep. The training continues from
        the checkpoint after a kill.

    Raises:
      TimeIsUp: the training saved itself after the deadline.
      UserError: the file is broken or of another network.
    """
    # Two devices of a process never train the same network.
    with self._locks[address]:
      file = store.npz_checkpoint(self.folder, _name_network(address), 0.0)
      if (restored := file.restore(template)) is not None:
        return restored[0]
      result = train(self._checkpoint(address))
      file.save(result, 0)
      # The state of the optimizer is as large as the network.
      store.remove_checkpoint(self.folder, address)
      return result

  def read_or_compute(
    self, kind: str, address: str, template: State, compute: Callable[[], State]
  ) -> State:
    """Reads a pytree of arrays, or computes and writes it."""
    with self._locks[address]:
      file = store.npz_checkpoint(self.folder, address, 0.0, kind)
      if (restored := file.restore(template)) is not None:
        return restored[0]
      result = compute()
      file.save(result, 1)
      return result

  def read_or_compute_named(
    self, kind: str, address: str, compute: Callable[[], dict[str, np.ndarray]]
  ) -> dict[str, np.ndarray]:
    """Reads arrays by name without a template, or computes and writes them."""
    with self._locks[address]:
      return store.read_or_compute(self._path(kind, address), compute)

  def _checkpoint(self, address: str) -> Checkpoint:
    checkpoint = store.npz_checkpoint(self.folder, address, self.seconds)

    def save(state: Any, step: int) -> None:
      checkpoint.save(state, step)
      # Also after the last step: the next run restores that step at once.
      if self.clock.is_late():
        raise TimeIsUp

    return checkpoint._replace(save=save)

  def _path(self, kind: str, address: str) -> pathlib.Path:
    return self.folder / kind / f'{address[:24]}.npz'


def _name_network(address: str) -> str:
  return f'whole{address}'
