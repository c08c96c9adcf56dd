"""What a user asks of an audit, and the flags that say it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from cmu_jax import errors, flags

_TEXT = """\
usage: python -m cmu_jax.audit --scores=FILE.npz --out=DIR [...]

Says whether a membership attack tells members from non-members of a training
set (or what was forgotten from what was never seen), with intervals, and when
there is too little to conclude.

  --scores=FILE.npz    plain arrays. Either the scores of an attack of your own,
      member_scores    [p]     of members; higher is more like a member
      other_scores     [q]     of non-members
                       or what networks make of n points of k classes,
      logits           [n,k]   of the audited network
      labels           [n]     integers from 0 to k-1
      member           [n]     bool: which points are members
                       and, for the attacks that are worth something, of K
                       reference networks
      reference_logits [K,n,k]
      inside           [K,n]   bool: which reference was trained on which point
      population       [n]     bool, optional: RMIA's z; the non-members if not
                               given
  --out=DIR            where results.json, the figure and the report go

Choices:
  --gamma=X            RMIA: how far a point must exceed another (default 2)
  --offline_a=X        RMIA offline, 0 to 1: references without the point stand
                       for those with it (published for CIFAR-10: 0.3)
  --taylor_order=3|4   RMIA's signal: 4 (the default), or 3 as published code
  --replicates=N       of the bootstrap (default 1000)
  --seed=N

example:
  python -m cmu_jax.audit --scores=scores.npz --out=audit
"""


class Request(NamedTuple):
  """An audit as the user asks for it.

  Attributes:
    scores: an .npz of plain arrays, see --help.
    out: folder for the results.
    gamma: of RMIA, 1 or more.
    offline_a: of RMIA offline, 0 to 1; None for online.
    taylor_order: of RMIA's signal, 3 or 4.
    replicates: of the bootstrap.
    seed: of the bootstrap.
  """

  scores: str
  out: str
  gamma: float = 2.0
  offline_a: float | None = None
  taylor_order: int = 4
  replicates: int = 1000
  seed: int = 0


# A value of the type that a flag's text is read as.
_LIKE: dict[str, Any] = {
  'gamma': 1.0,
  'offline_a': 1.0,
  'taylor_order': 1,
  'replicates': 1,
  'seed': 0,
}


def parse(argv: Sequence[str]) -> Request | None:
  """Reads the command line; None where help is asked for.

  Raises:
    UserError: an unknown, missing, empty or malformed flag.
  """
  found = flags.parse(argv, Request, _TEXT, ('scores', 'out'), _LIKE)
  return None if found is None else checked(found)


def checked(request: Request) -> Request:
  """The request itself, if its values can be.

  Raises:
    UserError: names the field.
  """
  errors.check(
    request.gamma >= 1, f'--gamma is {request.gamma}; it must be at least 1'
  )
  errors.check(
    request.offline_a is None or 0 <= request.offline_a <= 1,
    f'--offline_a is {request.offline_a}; it must lie from 0 to 1',
  )
  errors.check(
    request.taylor_order in (3, 4),
    f'--taylor_order is {request.taylor_order}; use 4, or 3 for parity',
  )
  errors.check(
    request.replicates >= 2,
    f'--replicates is {request.replicates}; use 2 or more',
  )
  return request
