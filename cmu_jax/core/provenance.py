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
from cmu_jax.core.types import Dataset

# Of results.json.
SCHEMA = 1
_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def describe_process() -> dict[str, Any]:
  """What someone needs to run the same command again.

  Returns:
    commit (git HEAD, with '-dirty' after local changes; None where the package
    does not run from a git checkout), command, versions, device.
  """
  versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
  device = jax.devices()[0]
  return {
    'commit': git_commit(pathlib.Path(__file__).resolve().parents[2]),
    'command': shlex.join(['python', *sys.orig_argv[1:]]),
    'versions': {'python': platform.python_version(), **versions},
    'device': f'{device.platform}: {device.device_kind}',
  }


def describe_run(config: Any) -> dict[str, Any]:
  """`process`, and the config_hash of a run's config."""
  return {**describe_process(), 'config_hash': config_lib.fingerprint(config)}


def results_header(config: Any, finished: bool) -> dict[str, Any]:
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
    'provenance': describe_run(config),
    'config': config_lib.to_json(config),
  }


def digest(*arrays: Any) -> str:
  """SHA-256 of the bytes of arrays, one after the other."""
  total = hashlib.sha256()
  for array in arrays:
    total.update(np.ascontiguousarray(array).tobytes())
  return total.hexdigest()


def git_commit(folder: pathlib.Path) -> str | None:
  """HEAD of the git checkout whose top is `folder`; None if it is not one.

  An installed package may lie inside somebody else's repository: that one's
  commit says nothing about this code.
  """
  if not (folder / '.git').exists():
    return None
  head = _run_git(folder, 'rev-parse', 'HEAD')
  changes = _run_git(folder, 'status', '--porcelain', '--untracked-files=no')
  return f'{head}-dirty' if head and changes else head


def _run_git(folder: pathlib.Path, *arguments: str) -> str | None:
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


def dataset_digest(dataset: Dataset) -> str:
  """SHA-256 of all images and labels: two folders of one name may differ."""
  digest = hashlib.sha256()
  for batch in (dataset.train, dataset.test):
    digest.update(np.ascontiguousarray(batch.image).data)
    digest.update(np.ascontiguousarray(batch.label).data)
  return digest.hexdigest()
