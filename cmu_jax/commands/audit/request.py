"""The request of an audit: its help text and its flags."""

from typing import NamedTuple

from cmu_jax.commands import flags
from cmu_jax.core import errors

_TEXT = f"""\
usage: python -m cmu_jax audit --scores=FILE.npz --out=DIR [...]
       python -m cmu_jax audit --weights=FILE --model=NAME --members=PICTURES
              --nonmembers=PICTURES --refs=K --out=DIR [...]

Tests by membership attacks, with intervals, if members of a training set can be
told from non-members (or forgotten pictures from unseen ones). Says so if there
are too few points to conclude.

  --out=DIR            folder for results.json, the figure and the report; the
                       same command continues after a kill
  --scores=FILE.npz    plain arrays: the scores of an attack, or the answers of
                       networks to n points of k classes

Arrays of the scores of an attack of your own:
    member_scores      [p]     of members; higher is more like a member
    other_scores       [q]     of non-members
or of the answers of networks:
    logits             [n,k]   of the audited network
    labels             [n]     integers from 0 to k-1
    member             [n]     bool: marks the members
and, for the strong attacks, of K reference networks:
    reference_logits   [K,n,k]
    inside             [K,n]   bool: marks the training points of each
    population         [n]     bool, optional: RMIA's z; by default non-members

A network itself, with K reference networks trained for the purpose (the command
estimates the duration before it begins):
{flags.NETWORK}
  --members=PICTURES   training pictures of the network: FOLDER/<class>/*.png or
                       .jpg, or FILE.npz with images, uint8 [n,h,w] or
                       [n,h,w,c], and labels, integers [n]
  --nonmembers=PICTURES  pictures of the same kind that it was not trained on
  --data=PICTURES      further pictures: references train on them too, and RMIA
                       compares with them
  --refs=K             an even number; each picture is in half of them. Fewer
                       than 4 conclude nothing; use 16 or more
  --epochs=N           of the references (default 30). Their training should be
                       that of the network: SGD, momentum 0.9, cosine to 0
  --learning_rate=X    of the references at the start (default 0.1)
  --batch_size=N       of the references (default 128)
  --weight_decay=X     of the references (default 0.0005)
  --pad=N              margin in pixels for random crops of the references
  --flip=true          mirrors half of their images
  --memory=X           GiB that training may take (default 4)

{flags.INFERRED}

Choices:
  --gamma=X            RMIA: factor by which a point must exceed another
                       (default 2)
  --offline_a=X        RMIA offline, 0 to 1: references without the point stand
                       for those with it (published for CIFAR-10: 0.3)
  --taylor_order=3|4   of RMIA's signal: 4 (the default), or 3 as published code
  --replicates=N       of the bootstrap (default 1000)
  --seed=N             of everything random

examples:
  python -m cmu_jax audit --scores=scores.npz --out=audit
  python -m cmu_jax audit --weights=net.npz --model=resnet20 --refs=16 \\
    --members=trained_on --nonmembers=not_trained_on --out=audit \\
    --mean=0.485,0.456,0.406 --std=0.229,0.224,0.225
"""


@flags.documented(_TEXT)
class AuditRequest(NamedTuple):
  """An audit as the user asks for it; None is absent or inferred."""

  out: str
  scores: str | None = None
  weights: str | None = None
  model: str | None = None
  members: str | None = None
  nonmembers: str | None = None
  data: str | None = None
  refs: int = 0
  epochs: int = 30
  learning_rate: float = 0.1
  batch_size: int = 128
  weight_decay: float = 5e-4
  pad: int = 0
  flip: bool = False
  memory: float = 4.0
  mean: tuple[float, ...] | None = None
  std: tuple[float, ...] | None = None
  image_size: int | None = None
  classes: tuple[str, ...] | None = None
  gamma: float = 2.0
  offline_a: float | None = None
  taylor_order: int = 4
  replicates: int = 1000
  seed: int = 0


def _check(request: AuditRequest) -> None:
  flags.check_positive(request, 'epochs', 'memory')
  flags.check_least(request, weight_decay=0, pad=0, gamma=1, replicates=2)
  errors.check(
    request.offline_a is None or 0 <= request.offline_a <= 1,
    f'--offline_a is {request.offline_a}; it must lie from 0 to 1',
  )
  errors.check(
    (request.scores is None) != (request.weights is None),
    'give --scores=FILE.npz or --weights=FILE, one of them: see --help',
  )
  needed = ('model', 'members', 'nonmembers', 'refs')
  if request.weights is None:
    surplus = [name for name in (*needed, 'data') if getattr(request, name)]
    errors.check(
      not surplus,
      f'--{surplus[0] if surplus else ""} goes with --weights: see --help',
    )
    return
  missing = [f'--{name}' for name in needed if not getattr(request, name)]
  errors.check(
    not missing,
    f'{", ".join(missing)} missing: --weights needs them, see --help',
  )
  # References come in pairs that split the pictures: then every picture is
  # inside and outside of equally many references.
  errors.check(
    request.refs >= 2 and request.refs % 2 == 0,
    f'--refs is {request.refs}; give an even number, because each pair of '
    'references splits the pictures',
  )


COMMAND = flags.Command(AuditRequest, _TEXT, _check)
