"""Membership audit of stored scores, or of a network by reference networks.

As a program, `python -m cmu_jax audit --help`; as a call:

  import cmu_jax
  results = cmu_jax.audit(scores='scores.npz', out='audit')
"""

from collections.abc import Callable
from typing import Any

from cmu_jax.commands import flags
from cmu_jax.commands.requests import AUDIT, AuditRequest

__all__ = ['AuditRequest', 'audit', 'load']


def load() -> tuple[Callable[[Any], Any], Callable[[Any], str]]:
  """Imports the work of an audit, with JAX; see `flags.run`."""
  from cmu_jax.commands.audit import job, page

  return job.run, page.console


def audit(**settings: Any) -> dict[str, Any]:
  """Audits scores or a network; see `AuditRequest` for the settings.

  Returns:
    The content of results.json in the folder `out`.

  Raises:
    UserError: settings, arrays, weights or pictures that do not fit.
  """
  return flags.call(AUDIT, load, settings)
