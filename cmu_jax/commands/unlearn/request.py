"""What a user asks to be forgotten, and the flags that say it."""

from collections.abc import Sequence
from typing import NamedTuple

from cmu_jax.commands import flags
from cmu_jax.core import errors

# Whether a method needs pictures to keep, and what it does, in words.
METHODS: dict[str, tuple[bool, str]] = {
  'amun': (False, 'nearest adversarial examples of the forget set'),
  'finetune': (True, 'more training on the pictures to keep'),
  'l1_sparse': (True, 'more training, with a penalty on all weights'),
  'random_label': (True, 'random labels on the forget set'),
  'salun': (True, 'random labels, in the weights that matter'),
  'neggrad_plus': (True, 'descent on what to keep, ascent on the rest'),
  'npo': (True, 'descent on what to keep, bounded ascent'),
  'scrub': (True, 'a student that disobeys on the forget set'),
  'ssd': (True, 'damps the weights that matter to the forget set'),
  'relabel_second': (True, 'the next best class on the forget set'),
  'trw': (False, 'a whole class: what retraining without it would answer'),
  'boundary_shrink': (False, 'the class across the nearest boundary'),
  'gradient_ascent': (False, 'a few steps up the loss of the forget set'),
}
_LIST = '\n'.join(
  f'    {name:<16} {words}{" (needs --retain)" if retain else ""}'
  for name, (retain, words) in METHODS.items()
)
_TEXT = f"""\
usage: python -m cmu_jax unlearn --weights=FILE --model=NAME --forget=FOLDER
                                 --out=DIR [--retain=FOLDER] [--method=NAME]

Makes a trained classifier forget some of its training pictures, and measures
what it still knows of them.

  --weights=FILE       .safetensors, .npz or an Orbax directory; names of ours
                       or of PyTorch. Pickles (.pt, .pth) are never opened.
  --model=NAME[:k=v,..]  the network: resnet20, resnet18:stem=imagenet, ...,
                       or a CLIP: clip-vit-b16, see cmu_jax.commands.repair
                       --help
  --forget=FOLDER      training pictures to forget, FOLDER/<class>/*.png or .jpg
                       with the class that they were trained with
  --out=DIR            where the new weights, the numbers and the report go
  --retain=FOLDER      training pictures to keep, in class folders likewise
  --method=NAME        amun is the default:
{_LIST}
  --test=FOLDER        pictures that were not trained on, in class folders:
                       measured before and after; never used to choose anything

Inferred where possible, from the side file FILE.json or the pictures:
  --mean=R,G,B --std=R,G,B   of pixels between 0 and 1
  --image_size=N       side to which pictures are resized
  --classes=A,B,...    in the order of the network's outputs

Choices:
  --epochs=N           of --retain, or of --forget without it (default 10)
  --learning_rate=X    of SGD with momentum 0.9 (default 0.01;
                       gradient_ascent 0.001)
  --batch_size=N --weight_decay=X --seed=N

example:
  python -m cmu_jax unlearn --weights=resnet20.npz --model=resnet20 \\
    --forget=withdrawn --retain=still_ours --out=forgotten \\
    --mean=0.485,0.456,0.406 --std=0.229,0.224,0.225
"""


class UnlearnRequest(NamedTuple):
  """An unlearning as the user asks for it; None is inferred.

  Attributes:
    weights: `.safetensors`, `.npz` or an Orbax directory.
    model: name of a network, with options: 'resnet18:stem=imagenet'.
    forget: folder of training pictures to forget.
    out: folder for the results.
    retain: folder of training pictures to keep.
    method: a key of METHODS.
    test: folder of pictures that were not trained on.
    mean: of pixels in [0, 1], one a channel.
    std: likewise.
    image_size: side in pixels.
    classes: names in the order of the network's outputs.
    epochs: of the pictures to keep, or of those to forget without any.
    learning_rate: of SGD, constant; None for 0.01, and for 0.001 where a method
      only goes up a loss.
    weight_decay: of SGD.
    batch_size: of the fine-tuning.
    seed: of everything random.
  """

  weights: str
  model: str
  forget: str
  out: str
  retain: str | None = None
  method: str = 'amun'
  test: str | None = None
  mean: tuple[float, ...] | None = None
  std: tuple[float, ...] | None = None
  image_size: int | None = None
  classes: tuple[str, ...] | None = None
  epochs: int = 10
  learning_rate: float | None = None
  weight_decay: float = 5e-4
  batch_size: int = 128
  seed: int = 0


def parse(argv: Sequence[str]) -> UnlearnRequest | None:
  """Reads the command line; None where help is asked for.

  Raises:
    UserError: an unknown, missing, empty or malformed flag.
  """
  found = flags.parse(argv, UnlearnRequest, _TEXT)
  return None if found is None else check_request(found)


def check_request(request: UnlearnRequest) -> UnlearnRequest:
  """The request itself, if its values can be.

  Raises:
    UserError: names the field.
  """
  flags.check_choice(request, 'method', tuple(METHODS))
  flags.check_positive(
    request, 'epochs', 'batch_size', 'image_size', 'learning_rate'
  )
  flags.check_statistics(request)
  errors.check(
    request.weight_decay >= 0,
    f'--weight_decay is {request.weight_decay}; it must be at least 0',
  )
  without = ', '.join(name for name, (needs, _) in METHODS.items() if not needs)
  errors.check(
    request.retain is not None or not METHODS[request.method][0],
    f'--method={request.method} needs --retain=FOLDER, the training pictures '
    f'to keep; without them use one of {without}',
  )
  return request
