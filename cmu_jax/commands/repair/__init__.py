"""Repair of a classifier from its weights and a folder of bad samples.

As a program, `python -m cmu_jax repair --help`; as a call:

  from cmu_jax.commands.repair import repair
  results = repair(
    weights='resnet20.npz', model='resnet20', proxy='bad_samples',
    kind='poison', out='repaired', mean=(0.5,), std=(0.25,),
  )
"""

from typing import Any

from cmu_jax.commands.repair.request import RepairRequest, check_request

__all__ = ['RepairRequest', 'repair']


def repair(**settings: Any) -> dict[str, Any]:
  """Repairs a network; see `Request` for the settings.

  Returns:
    What results.json in the folder `out` holds; the repaired weights are
    beside it, in the format in which they came.

  Raises:
    UserError: bad settings, weights or pictures.
  """
  from cmu_jax.commands.repair import job

  return job.run(check_request(RepairRequest(**settings)))
