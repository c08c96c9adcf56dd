"""Where a result comes from: code, config, command, versions, device."""

import hashlib
import importlib.metadata
import pathlib
import platform
import shlex
import subprocess
import sys
from typing import Any

import jax
import numpy as np

from cmu_jax.core import config as config_lib

# Of results.json.
SCHEMA = 1
_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def process() -> dict[str, Any]:
  """What someone needs to run the same command again.

  Returns:
    commit (git HEAD, with '-dirty' after local changes; None where the package
    does not run from a git checkout), command, versions, device.
  """
  versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
  device = jax.devices()[0]
  return {
    'commit': commit(pathlib.Path(__file__).resolve().parents[2]),
    'command': shlex.join(['python', *sys.orig_argv[1:]]),
    'versions': {'python': platform.python_version(), **versions},
    'device': f'{device.platform}: {device.device_kind}',
  }


def provenance(config: Any) -> dict[str, Any]:
  """`process`, and the config_hash of a run's config."""
  return {**process(), 'config_hash': config_lib.fingerprint(config)}


def header(config: Any, finished: bool) -> dict[str, Any]:
  """What the results.json of every run begins with.

  Args:
    config: of the run.
    finished: whether the numbers that follow are all.

  Returns:
    schema, name, task, smoke, finished, provenance and config.
  """
  return {
    'schema': SCHEMA,
    'name': config.name,
    'task': config.task,
    'smoke': config.smoke,
    'finished': finished,
    'provenance': provenance(config),
    'config': config_lib.plain(config),
  }


def digest(*arrays: Any) -> str:
  """SHA-256 of the bytes of arrays, one after the other."""
  total = hashlib.sha256()
  for array in arrays:
    total.update(np.ascontiguousarray(array).tobytes())
  return total.hexdigest()


def commit(folder: pathlib.Path) -> str | None:
  """HEAD of the git checkout whose top is `folder`; None if it is not one.

  An installed package may lie inside somebody else's repository: that one's
  commit says nothing about this code.
  """
  if not (folder / '.git').exists():
    return None
  head = _git(folder, 'rev-parse', 'HEAD')
  changes = _git(folder, 'status', '--porcelain', '--untracked-files=no')
  return f'{head}-dirty' if head and changes else head


def _git(folder: pathlib.Path, *arguments: str) -> str | None:
  """What git prints, or None without git or if it fails."""
  try:
    done = subprocess.run(
      ['git', '-C', str(folder), *arguments],
      capture_output=True,
      text=True,
      timeout=30,
      check=False,
    )
  except (OSError, subprocess.TimeoutExpired):
    return None
  return done.stdout.strip() if done.returncode == 0 else None
