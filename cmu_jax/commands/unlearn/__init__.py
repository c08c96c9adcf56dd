"""Makes a classifier forget some of its training pictures.

As a program, `python -m cmu_jax unlearn --help`; as a call:

  from cmu_jax.commands.unlearn import unlearn
  results = unlearn(
    weights='resnet20.npz', model='resnet20', forget='withdrawn',
    retain='still_ours', out='forgotten', mean=(0.5,), std=(0.25,),
  )
"""

from typing import Any

from cmu_jax.commands.unlearn.request import (
  METHODS,
  UnlearnRequest,
  check_request,
)

__all__ = ['METHODS', 'UnlearnRequest', 'unlearn']


def unlearn(**settings: Any) -> dict[str, Any]:
  """Makes a network forget; see `Request` for the settings.

  Returns:
    What results.json in the folder `out` holds; the new weights are beside it,
    in the format in which they came.

  Raises:
    UserError: bad settings, weights or pictures.
  """
  from cmu_jax.commands.unlearn import job

  return job.run(check_request(UnlearnRequest(**settings)))
