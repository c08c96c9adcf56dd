"""The request of an audit: its flags, and flags that contradict each other."""

from typing import Annotated, NamedTuple

from cmu_jax.commands import flags
from cmu_jax.commands.flags import Flag
from cmu_jax.core import errors

# The arrays of --scores, as --help shows them.
_ARRAYS = """\
Arrays of FILE.npz. Either the scores of an attack of your own,
  member_scores    [p]     of members; higher is more like a member
  other_scores     [q]     of non-members
or the answers of networks to n points of k classes,
  logits           [n,k]   of the audited network
  labels           [n]     integers from 0 to k-1
  member           [n]     bool: marks the members
and, for the strong attacks, of K reference networks
  reference_logits [K,n,k]
  inside           [K,n]   bool: marks the training points of each reference
  population       [n]     bool, optional: RMIA's z; by default non-members"""


@flags.documented
class AuditRequest(NamedTuple):
  """An audit as the user asks for it; None is absent or inferred."""

  out: Annotated[str, flags.OUT]
  scores: Annotated[
    str | None, Flag('FILE.npz', 'plain arrays of scores or logits, see below')
  ] = None
  weights: Annotated[str | None, flags.WEIGHTS] = None
  model: Annotated[str | None, flags.MODEL] = None
  members: Annotated[
    str | None,
    Flag(
      'PICTURES',
      'training pictures of the network: FOLDER/<class>/*.png or .jpg, or '
      'FILE.npz with images, uint8 [n,h,w] or [n,h,w,c], and labels, integers '
      '[n]',
    ),
  ] = None
  nonmembers: Annotated[
    str | None,
    Flag(
      'PICTURES', 'pictures of the same kind outside the training set, likewise'
    ),
  ] = None
  data: Annotated[
    str | None,
    Flag(
      'PICTURES',
      'further pictures, likewise: references train on them too, and RMIA '
      'compares with them',
    ),
  ] = None
  refs: Annotated[
    int,
    Flag(
      'K',
      'reference networks, an even number; each picture is in half of them. '
      'Fewer than 4 conclude nothing; use 16 or more',
    ),
  ] = 0
  epochs: Annotated[
    int, Flag('N', 'epochs of each reference, as of the network', above=0)
  ] = 30
  learning_rate: Annotated[
    float,
    Flag(
      'X',
      'first rate of SGD with momentum 0.9, falling along a cosine',
      above=0,
    ),
  ] = 0.1
  batch_size: Annotated[int, flags.BATCH_SIZE] = 128
  weight_decay: Annotated[float, flags.WEIGHT_DECAY] = 5e-4
  pad: Annotated[
    int, Flag('N', 'margin in pixels for random crops', least=0)
  ] = 0
  flip: Annotated[bool, Flag('true', 'mirrors half of the images')] = False
  memory: Annotated[
    float, Flag('X', 'GiB of memory that training may take', above=0)
  ] = 4.0
  mean: Annotated[tuple[float, ...] | None, flags.MEAN] = None
  std: Annotated[tuple[float, ...] | None, flags.STD] = None
  image_size: Annotated[int | None, flags.IMAGE_SIZE] = None
  classes: Annotated[tuple[str, ...] | None, flags.CLASSES] = None
  gamma: Annotated[
    float,
    Flag('X', 'RMIA: factor by which a point must exceed another', least=1),
  ] = 2.0
  offline_a: Annotated[
    float | None,
    Flag(
      'X',
      'RMIA offline, 0 to 1: references without the point stand for those with '
      'it (published for CIFAR-10: 0.3)',
      least=0,
      most=1,
    ),
  ] = None
  taylor_order: Annotated[
    int,
    Flag('3|4', "order of RMIA's signal; 3 as in published code", (3, 4)),
  ] = 4
  replicates: Annotated[
    int, Flag('N', 'resamples of the bootstrap', least=2)
  ] = 1000
  seed: Annotated[int, flags.SEED] = 0


def _check(request: AuditRequest) -> None:
  """Refuses flags of a network beside --scores, and a network without them."""
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
  # References come in pairs that split the pictures: every picture is then
  # inside and outside of equally many.
  errors.check(
    request.refs >= 2 and request.refs % 2 == 0,
    f'--refs is {request.refs}; give an even number, because each pair of '
    'references splits the pictures',
  )


COMMAND = flags.Command(
  name='audit',
  request=AuditRequest,
  summary=(
    'Tests by membership attacks, with intervals, if members of a training set '
    'can be told from non-members (or forgotten pictures from unseen ones). '
    'Says so when there are too few points to conclude.'
  ),
  usage=(
    '--scores=FILE.npz --out=DIR [...]',
    '--weights=FILE --model=NAME --members=PICTURES --nonmembers=PICTURES '
    '--refs=K --out=DIR [...]',
  ),
  sections={
    '': 'out scores',
    _ARRAYS: '',
    'A network itself, with K reference networks trained for the purpose (the '
    'command\nestimates the duration before it begins):': (
      'weights model members nonmembers data refs epochs learning_rate '
      'batch_size weight_decay pad flip memory'
    ),
    flags.INFERRED: 'mean std image_size classes',
    'Choices:': 'gamma offline_a taylor_order replicates seed',
  },
  examples=(
    '--scores=scores.npz --out=audit',
    '--weights=net.npz --model=resnet20 --refs=16 \\\n'
    '    --members=trained_on --nonmembers=not_trained_on --out=audit \\\n'
    '    --mean=0.485,0.456,0.406 --std=0.229,0.224,0.225',
  ),
  check=_check,
)
