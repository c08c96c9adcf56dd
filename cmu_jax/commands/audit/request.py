"""What a user asks of an audit, and the flags that say it."""

from collections.abc import Sequence
from typing import NamedTuple

from cmu_jax.commands import flags
from cmu_jax.core import errors

_TEXT = """\
usage: python -m cmu_jax audit --scores=FILE.npz --out=DIR [...]
       python -m cmu_jax audit --weights=FILE --model=NAME --members=PICTURES
              --nonmembers=PICTURES --refs=K --out=DIR [...]

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
  --out=DIR            where results.json, the figure and the report go; the
                       same command continues in it

A network itself, with K reference networks trained for the purpose (it says how
long that takes before it begins):
  --weights=FILE       .safetensors, .npz or an Orbax directory; names of ours
                       or of PyTorch. Pickles (.pt, .pth) are never opened.
  --model=NAME[:k=v,..]  the network, such as resnet20 or resnet18:stem=imagenet
  --members=PICTURES   that it was trained on: FOLDER/<class>/*.png or .jpg, or
                       FILE.npz with images, uint8 [n,h,w] or [n,h,w,c], and
                       labels, integers [n]
  --nonmembers=PICTURES  of the same kind that it was not trained on, likewise
  --data=PICTURES      further ones, likewise: references train on them too, and
                       RMIA compares with them
  --refs=K             an even number; each picture is in half of them. Below 4
                       nothing is concluded; 16 or more are worth having
  --epochs=N --learning_rate=X --batch_size=N --weight_decay=X
                       of the references: SGD with momentum 0.9, cosine to 0
                       (default 30, 0.1, 128, 0.0005). Give what the network
                       was trained with
  --pad=N --flip=true  random crop from a margin of N pixels, mirror images
  --memory=X           GiB that training may take (default 4)
  --mean=R,G,B --std=R,G,B --image_size=N --classes=A,B,...
                       if the side file FILE.json does not say it

Choices:
  --gamma=X            RMIA: how far a point must exceed another (default 2)
  --offline_a=X        RMIA offline, 0 to 1: references without the point stand
                       for those with it (published for CIFAR-10: 0.3)
  --taylor_order=3|4   RMIA's signal: 4 (the default), or 3 as published code
  --replicates=N       of the bootstrap (default 1000)
  --seed=N

example:
  python -m cmu_jax audit --scores=scores.npz --out=audit
  python -m cmu_jax audit --weights=net.npz --model=resnet20 --refs=16 \\
    --members=trained_on --nonmembers=not_trained_on --out=audit \\
    --mean=0.485,0.456,0.406 --std=0.229,0.224,0.225
"""


class AuditRequest(NamedTuple):
  """An audit as the user asks for it.

  Attributes:
    out: folder for the results.
    scores: an .npz of plain arrays, see --help; or None.
    weights: of a network to audit; or None.
    model: name of that network, with options: 'resnet18:stem=imagenet'.
    members: pictures that it was trained on.
    nonmembers: pictures that it was not trained on.
    data: further pictures of the same kind, or None.
    refs: reference networks, an even number.
    epochs: of each reference.
    learning_rate: at their start.
    batch_size: of their training.
    weight_decay: likewise.
    pad: likewise; of the random crop, in pixels.
    flip: likewise; whether half of the images are mirrored.
    memory: GiB that training may take.
    mean: of pixels in [0, 1], one a channel; None is inferred.
    std: likewise.
    image_size: side in pixels; None is inferred.
    classes: names in the order of the network's outputs; None is inferred.
    gamma: of RMIA, 1 or more.
    offline_a: of RMIA offline, 0 to 1; None for online.
    taylor_order: of RMIA's signal, 3 or 4.
    replicates: of the bootstrap.
    seed: of the bootstrap.
  """

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


def parse(argv: Sequence[str]) -> AuditRequest | None:
  """Reads the command line; None where help is asked for.

  Raises:
    UserError: an unknown, missing, empty or malformed flag.
  """
  found = flags.parse(argv, AuditRequest, _TEXT)
  return None if found is None else check_request(found)


def _check_network(request: AuditRequest) -> None:
  """What goes with --weights, and what does not."""
  errors.check(
    (request.scores is None) != (request.weights is None),
    'give --scores=FILE.npz or --weights=FILE, one of them: see --help',
  )
  needed = ('model', 'members', 'nonmembers', 'refs')
  if request.weights is None:
    given = [name for name in (*needed, 'data') if getattr(request, name)]
    errors.check(
      not given,
      f'--{given[0] if given else ""} goes with --weights: see --help',
    )
    return
  missing = [f'--{name}' for name in needed if not getattr(request, name)]
  errors.check(
    not missing,
    f'{", ".join(missing)} missing: --weights needs them, see --help',
  )
  errors.check(
    request.refs >= 2 and request.refs % 2 == 0,
    f'--refs is {request.refs}; give an even number, every two of them share '
    'the pictures out',
  )
  flags.check_positive(
    request, 'epochs', 'learning_rate', 'batch_size', 'memory', 'image_size'
  )
  for name in ('weight_decay', 'pad'):
    value = getattr(request, name)
    errors.check(value >= 0, f'--{name} is {value}; it must be at least 0')
  flags.check_statistics(request)


def check_request(request: AuditRequest) -> AuditRequest:
  """The request itself, if its values can be.

  Raises:
    UserError: names the field.
  """
  _check_network(request)
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
