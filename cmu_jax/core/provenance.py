"""Provenance of results: code, config, command, versions, device, data."""

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
from cmu_jax.core.types import Dataset

# Of results.json.
SCHEMA = 1
_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def describe_process() -> dict[str, Any]:
  """Describes the running process, so that others can repeat it.

  Returns:
    commit (git HEAD, with '-dirty' after local changes; None if the package
    does not run from a git checkout), command, versions, device.
  """
  versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
  device = jax.devices()[0]
  return {
    'commit': git_commit(pathlib.Path(__file__).resolve().parents[2]),
    # orig_argv keeps `-m cmu_jax.main`, which sys.argv replaces by a path.
    'command': shlex.join(['python', *sys.orig_argv[1:]]),
    'versions': {'python': platform.python_version(), **versions},
    'device': f'{device.platform}: {device.device_kind}',
  }


def describe_run(config: Any) -> dict[str, Any]:
  """Adds the config_hash of a run to `describe_process`."""
  return {**describe_process(), 'config_hash': config_lib.fingerprint(config)}


def results_header(config: Any, finished: bool) -> dict[str, Any]:
  """Builds the first fields of every results.json.

  Args:
    config: of the run.
    finished: whether the run is complete.

  Returns:
    schema, name, task, smoke, finished, provenance and config.
  """
  return {
    'schema': SCHEMA,
    'name': config.name,
    'task': config.task,
    'smoke': config.smoke,
    'finished': finished,
    'provenance': describe_run(config),
    'config': config_lib.to_json(config),
  }


def digest(*arrays: Any) -> str:
  """Computes SHA-256 of the bytes of some arrays, in sequence."""
  total = hashlib.sha256()
  for array in arrays:
    total.update(np.ascontiguousarray(array).tobytes())
  return total.hexdigest()


def dataset_digest(dataset: Dataset) -> str:
  """Computes SHA-256 of all images and labels of a dataset.

  Two folders of the same name may hold different images.
  """
  train, test = dataset.train, dataset.test
  return digest(train.image, train.label, test.image, test.label)


def git_commit(folder: pathlib.Path) -> str | None:
  """Reads HEAD of the git checkout whose top is `folder`, or None."""
  # An installed package may lie inside somebody else's repository, whose commit
  # says nothing about this code: git itself would search the parents too.
  if not (folder / '.git').exists():
    return None
  head = _run_git(folder, 'rev-parse', 'HEAD')
  changes = _run_git(folder, 'status', '--porcelain', '--untracked-files=no')
  return f'{head}-dirty' if head and changes else head


def _run_git(folder: pathlib.Path, *arguments: str) -> str | None:
  """Returns the output of git, or None without git or if it fails."""
  try:
    process = subprocess.run(
      ['git', '-C', str(folder), *arguments],
      capture_output=True,
      text=True,
      timeout=30,
      check=False,
    )
  except (OSError, subprocess.TimeoutExpired):
    return None
  return process.stdout.strip() if process.returncode == 0 else None
