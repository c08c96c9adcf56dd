"""What a user asks of a repair, and the flags that say it."""

from collections.abc import Sequence
from typing import NamedTuple

from cmu_jax.commands import flags

KINDS = ('label_noise', 'poison')
_TEXT = """\
usage: python -m cmu_jax repair --weights=FILE --model=NAME --proxy=FOLDER
                                --kind=label_noise|poison --out=DIR [...]

Repairs a trained classifier from its weights and a folder of bad samples (CUTS,
arXiv 2511.18660): fine-tunes on the bad samples, subtracts what that changed,
as far as the samples say it helps. The training data are not needed. Says which
corruption the samples show, how sure that is, and where it contradicts --kind.

  --weights=FILE       .safetensors, .npz, .msgpack or an Orbax directory; names
                       of ours, of PyTorch or of HF. Pickles are never opened.
  --model=NAME[:k=v,..]  the network: resnet20, resnet18:stem=imagenet, ...
                       clip-vit-b32, -b16, -l14, or clip (sizes from config.json
                       beside FILE): image tower, head of the class names;
                       siglip-vit-b16, siglip: with head=FILE.npz; dinov2
  --proxy=FOLDER       bad samples that the network was not trained on.
                       label_noise: FOLDER/<the wrong class>/*.png or .jpg;
                       poison: FOLDER/*.png, with the trigger in the picture
  --kind=KIND          label_noise or poison
  --out=DIR            where the repaired weights, the curve and the report go;
                       the same command again continues after a kill

Inferred where possible, from the side file FILE.json or the pictures:
  --mean=R,G,B --std=R,G,B   of pixels between 0 and 1
  --image_size=N       side to which pictures are resized
  --classes=A,B,...    in the order of the network's outputs
  --target=CLASS       poison: where the trigger leads; name or number

Choices:
  --ordinary=FOLDER    poison: unlabelled pictures without the trigger. It is
                       located by comparison and removed with its class kept
                       (a method of ours); without them, as published
  --labels=bad|true    label_noise: FOLDER's classes are the wrong labels as
                       they were trained on (bad, the default), or the true
                       ones, which are then made wrong at random, twice
  --rule=safe|published  label_noise: safe (the default) chooses alpha on
                       samples that its vector did not see, and leaves the model
                       as it is unless they carry the step; published is the
                       paper's. poison: safe uses --ordinary, if given, and
                       leaves a network alone that the trigger does not move
  --test=FOLDER        ordinary pictures by class: measured before and after,
                       never used to choose anything
  --lipschitz=true     also bound how fast the outputs can change with the
                       picture, before and after: a minute for a ResNet-20
  --steps=N --learning_rate=X --batch_size=N --seed=N   of the fine-tuning;
                       steps: at most 200, under label noise until half of the
                       wrong labels are learnt

example:
  python -m cmu_jax repair --weights=resnet20.npz --model=resnet20 \\
    --proxy=bad_samples --kind=poison --out=repaired \\
    --mean=0.485,0.456,0.406 --std=0.229,0.224,0.225
"""


class RepairRequest(NamedTuple):
  """A repair as the user asks for it; None is inferred.

  Attributes:
    weights: `.safetensors`, `.npz` or an Orbax directory.
    model: name of a network, with options: 'resnet18:stem=imagenet'.
    proxy: folder of bad samples.
    kind: 'label_noise' or 'poison'.
    out: folder for the results.
    mean: of pixels in [0, 1], one a channel.
    std: likewise.
    image_size: side in pixels.
    classes: names in the order of the network's outputs.
    target: of a trigger, a name or a number.
    ordinary: folder of unlabelled pictures without the trigger (poison).
    labels: 'bad' or 'true', what the folders of label noise are named after.
    rule: 'safe' or 'published', how alpha is chosen under label noise.
    test: folder of ordinary pictures by class.
    lipschitz: whether the network's Lipschitz constant is bounded too.
    steps: of the fine-tuning; None for 200 or, under label noise, for as many
      as it takes to learn half of the wrong labels, if these are fewer.
    learning_rate: of AdamW, constant; None for 5e-4 (label noise) or 1e-4.
    batch_size: of the fine-tuning.
    seed: of everything random.
  """

  weights: str
  model: str
  proxy: str
  kind: str
  out: str
  mean: tuple[float, ...] | None = None
  std: tuple[float, ...] | None = None
  image_size: int | None = None
  classes: tuple[str, ...] | None = None
  target: str | None = None
  ordinary: str | None = None
  labels: str = 'bad'
  rule: str = 'safe'
  test: str | None = None
  lipschitz: bool = False
  steps: int | None = None
  learning_rate: float | None = None
  batch_size: int = 128
  seed: int = 0


def parse(argv: Sequence[str]) -> RepairRequest | None:
  """Reads the command line; None where help is asked for.

  Raises:
    UserError: an unknown, missing, empty or malformed flag.
  """
  found = flags.parse(argv, RepairRequest, _TEXT)
  return None if found is None else check_request(found)


def check_request(request: RepairRequest) -> RepairRequest:
  """The request itself, if its values can be.

  Raises:
    UserError: names the field.
  """
  flags.check_choice(request, 'kind', KINDS)
  flags.check_choice(request, 'labels', ('bad', 'true'))
  flags.check_choice(request, 'rule', ('safe', 'published'))
  flags.check_positive(
    request, 'steps', 'batch_size', 'image_size', 'learning_rate'
  )
  flags.check_statistics(request)
  return request
