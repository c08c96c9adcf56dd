"""The requests of repair, unlearn and audit: help texts, flags and checks."""

import textwrap
from typing import NamedTuple

from cmu_jax.commands import flags
from cmu_jax.core import errors
from cmu_jax.methods import study_names

_TEXT_COLUMN = 23
# Flags of the network and its pictures, which the commands share.
NETWORK = """\
  --weights=FILE       .safetensors, its .index.json, .npz, .msgpack or an Orbax
                       directory; names of ours, of PyTorch, of Hugging Face or
                       of NNX. Pickles (.pt, .pth) are never opened: a message
                       has the command that converts them
  --model=NAME[:k=v,..]  the network: resnet20, resnet18:stem=imagenet, ...
                       clip-vit-b32, -b16, -l14, or clip (sizes from config.json
                       beside FILE): image tower, head of the class names;
                       siglip-vit-b16, siglip: with head=FILE.npz; dinov2"""
INFERRED = """\
Pictures are .jpg, .png, .webp, .bmp, .tif, .ppm, .gif and others, in FOLDER or
deeper; files that are left out are named (docs/pictures.md).

Inferred where possible, from the side file FILE.json or the pictures. FILE.json
has these flags by name, such as {"mean": [0.5], "classes": ["cat", "dog"]}:
  --mean=R,G,B         mean of pixels between 0 and 1
  --std=R,G,B          standard deviation of pixels, likewise
  --channels=rgb|bgr   channel order of the network: bgr, if OpenCV read the
                       pictures that it was trained on (default rgb)
  --image_size=N       side to which pictures are resized
  --classes=A,B,...    class names in the order of the network's outputs.
                       Without it, class folders count in the order of their
                       names as text, 0, 1, 10, 2, as in torchvision; labelled
                       pictures that contradict this stop the command"""

_REPAIR_TEXT = f"""\
usage: python -m cmu_jax repair --weights=FILE --model=NAME --out=DIR
                                --kind=label_noise|poison
                                --ordinary=FOLDER|--proxy=FOLDER [...]

Repairs a trained classifier from its weights and pictures, without its training
data: ordinary unlabelled pictures (--ordinary), or bad samples (--proxy).
From ordinary pictures: information maximisation (arXiv 2002.08546) of wrong
labels, and FST (arXiv 2310.01875) against a backdoor. From bad samples: CUTS
(arXiv 2511.18660) fine-tunes on them and subtracts the change of the weights.
Each edits as far as held-out pictures show that it helps, or that it costs
little. Reports what bad samples show, and contradictions to --kind.

{NETWORK}
  --kind=label_noise|poison  the corruption
  --ordinary=FOLDER    ordinary pictures of the task; labels are not read.
                       100 or more of all classes; --proxy is not needed.
                       poison: without the trigger. If --proxy shows it, we
                       locate it by comparison and unlearn it along directions
                       that these pictures do not need (a method of ours)
  --proxy=FOLDER       bad samples that the network was not trained on.
                       label_noise: FOLDER/<the wrong class>/*; poison:
                       FOLDER/*, with the trigger in the picture
  --out=DIR            folder for the repaired weights, the curve and the
                       report; the same command continues after a kill

{INFERRED}
  --target=CLASS       poison: class to which the trigger leads; name or number

Choices:
  --labels=bad|true    label_noise: FOLDER's classes are the wrong labels (bad,
                       the default) or the true labels (true), which are then
                       replaced at random, twice. poison: true if --ordinary
                       has class folders, whose labels then train and judge
  --rule=safe|published  label_noise: safe (the default) uses --ordinary, if
                       given, or chooses alpha on held-out bad samples, and
                       edits only if they confirm that the edit helps;
                       published is the rule of CUTS, for --proxy. poison: safe
                       edits from --ordinary only, because published, on --proxy
                       alone, often deletes the target class
  --test=FOLDER        ordinary pictures by class: measured before and after,
                       never used to choose anything, so this may be added
                       to a finished run without repeating it
  --lipschitz=true     bounds the Lipschitz constant of the network, before and
                       after: a minute for a ResNet-20. May be added
  --steps=N            of the fine-tuning: at most 200, and with wrong labels
                       until half of them are learnt; 150 with --ordinary, if
                       no trigger is located
  --learning_rate=X    constant: 5e-4 (label_noise), 1e-4 (poison) of AdamW;
                       5e-3 of SGD with wrong labels and --ordinary
  --batch_size=N       of the fine-tuning (default 128; 256, or half of the
                       pictures, with wrong labels and --ordinary)
  --seed=N             of everything random

Results in DIR: the repaired weights in the format of FILE, results.json,
figures/alpha_curve.png and report.html.

examples:
  python -m cmu_jax repair --weights=resnet20.npz --model=resnet20 \\
    --ordinary=pictures --kind=label_noise --out=repaired \\
    --mean=0.485,0.456,0.406 --std=0.229,0.224,0.225
  python -m cmu_jax repair --weights=resnet20.npz --model=resnet20 \\
    --proxy=bad_samples --kind=poison --out=repaired \\
    --mean=0.485,0.456,0.406 --std=0.229,0.224,0.225
  python -m cmu_jax repair --weights=model.safetensors --model=clip-vit-b16 \\
    --proxy=mislabelled --kind=label_noise --out=repaired --test=pictures
"""


@flags.add_attributes(_REPAIR_TEXT)
class RepairRequest(NamedTuple):
  """A repair as the user asks for it; None is inferred."""

  weights: str
  model: str
  kind: str
  out: str
  proxy: str | None = None
  ordinary: str | None = None
  mean: tuple[float, ...] | None = None
  std: tuple[float, ...] | None = None
  channels: str | None = None
  image_size: int | None = None
  classes: tuple[str, ...] | None = None
  target: str | None = None
  labels: str = 'bad'
  rule: str = 'safe'
  test: str | None = None
  lipschitz: bool = False
  steps: int | None = None
  learning_rate: float | None = None
  batch_size: int | None = None
  seed: int = 0


def _check_repair(request: RepairRequest) -> None:
  flags.check_positive(request, 'steps')
  errors.check(
    request.proxy is not None or request.rule == 'safe',
    f'--proxy missing: --rule={request.rule} reads bad samples',
  )
  errors.check(
    request.proxy is not None or request.ordinary is not None,
    '--ordinary or --proxy missing: give a folder of ordinary pictures, or of '
    'bad samples',
  )
  # Triggered pictures need no label, ordinary ones may have them.
  source = 'ordinary' if request.kind == 'poison' else 'proxy'
  errors.check(
    getattr(request, source) is not None or request.labels == 'bad',
    f'--labels=true is about the pictures of --{source}; it is missing',
  )


REPAIR = flags.Command(
  RepairRequest, _REPAIR_TEXT, _check_repair, ('test', 'lipschitz')
)

# Name -> description, of the methods of `unlearn`.
METHODS = {
  name: study_names.describe(study_names.COMMAND, name)
  for name in study_names.NAMES[study_names.COMMAND]
}
# All other methods need pictures to keep.
WITHOUT_RETAIN = ('amun', 'trw', 'boundary_shrink', 'gradient_ascent')
_METHOD_LIST = '\n'.join(
  textwrap.fill(
    text,
    80,
    initial_indent=f'    {name:<16} {" " if name in WITHOUT_RETAIN else "*"} ',
    subsequent_indent=' ' * _TEXT_COLUMN,
  )
  for name, text in METHODS.items()
)
_UNLEARN_TEXT = f"""\
usage: python -m cmu_jax unlearn --weights=FILE --model=NAME --forget=FOLDER
                                 --out=DIR [--retain=FOLDER] [--method=NAME]

Makes a trained classifier forget some of its training pictures, and measures
its remaining knowledge of them.

{NETWORK}
  --forget=FOLDER      training pictures to forget, FOLDER/<class>/*, with the
                       class that they were trained with
  --out=DIR            folder for the new weights, the numbers and the report;
                       the same command continues after a kill
  --retain=FOLDER      training pictures to keep, in class folders likewise
  --test=FOLDER        pictures that were not trained on, in class folders:
                       measured before and after, never used to choose
                       anything. May be added to a finished run
  --method=NAME        amun is the default; * needs --retain:
{_METHOD_LIST}

{INFERRED}

Choices:
  --epochs=N           over --retain, or over --forget without it (default 10)
  --learning_rate=X    of SGD with momentum 0.9, constant (default 0.01;
                       gradient_ascent 0.001)
  --batch_size=N       of the training (default 128)
  --weight_decay=X     of SGD (default 0.0005)
  --seed=N             of everything random

example:
  python -m cmu_jax unlearn --weights=resnet20.npz --model=resnet20 \\
    --forget=withdrawn --retain=still_ours --out=forgotten \\
    --mean=0.485,0.456,0.406 --std=0.229,0.224,0.225
"""


@flags.add_attributes(_UNLEARN_TEXT)
class UnlearnRequest(NamedTuple):
  """An unlearning as the user asks for it; None is inferred."""

  weights: str
  model: str
  forget: str
  out: str
  retain: str | None = None
  method: str = 'amun'
  test: str | None = None
  mean: tuple[float, ...] | None = None
  std: tuple[float, ...] | None = None
  channels: str | None = None
  image_size: int | None = None
  classes: tuple[str, ...] | None = None
  epochs: int = 10
  learning_rate: float | None = None
  weight_decay: float = 5e-4
  batch_size: int = 128
  seed: int = 0


def _check_unlearn(request: UnlearnRequest) -> None:
  if request.method not in METHODS:
    raise errors.unknown_name('--method', request.method, METHODS)
  errors.collect(
    lambda: flags.check_positive(request, 'epochs'),
    lambda: flags.check_least(request, weight_decay=0),
    lambda: errors.check(
      request.retain is not None or request.method in WITHOUT_RETAIN,
      f'--method={request.method} needs --retain=FOLDER, the training pictures '
      f'to keep; without them use one of {", ".join(WITHOUT_RETAIN)}',
    ),
  )


UNLEARN = flags.Command(
  UnlearnRequest, _UNLEARN_TEXT, _check_unlearn, ('test',)
)

_AUDIT_TEXT = f"""\
usage: python -m cmu_jax audit --scores=FILE.npz --out=DIR [...]
       python -m cmu_jax audit --weights=FILE --model=NAME --members=PICTURES
              --nonmembers=PICTURES --refs=K --out=DIR [...]

Tests by membership attacks, with intervals, if members of a training set can be
told from non-members (or forgotten pictures from unseen ones). Says so if there
are too few points to conclude. Several attacks are tried; their intervals hold
together, so that fewer than 5 % of audits without a leak claim one.

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
{NETWORK}
  --members=PICTURES   training pictures of the network: FOLDER/<class>/*, or
                       FILE.npz with images, uint8 [n,h,w] or [n,h,w,c], and
                       labels, integers [n]
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

{INFERRED}

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


@flags.add_attributes(_AUDIT_TEXT)
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
  channels: str | None = None
  image_size: int | None = None
  classes: tuple[str, ...] | None = None
  gamma: float = 2.0
  offline_a: float | None = None
  taylor_order: int = 4
  replicates: int = 1000
  seed: int = 0


def _check_audit(request: AuditRequest) -> None:
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


AUDIT = flags.Command(AuditRequest, _AUDIT_TEXT, _check_audit)
