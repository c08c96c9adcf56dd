"""The request of an unlearning: its methods, its help text and its flags."""

from typing import NamedTuple

from cmu_jax.commands import flags
from cmu_jax.core import errors

# Name -> (needs pictures to keep, description).
METHODS: dict[str, tuple[bool, str]] = {
  'amun': (False, 'nearest adversarial examples of the forget set'),
  'finetune': (True, 'more training on the pictures to keep'),
  'l1_sparse': (True, 'more training, with a penalty on all weights'),
  'random_label': (True, 'random labels on the forget set'),
  'salun': (True, 'random labels, in the weights that matter'),
  'neggrad_plus': (True, 'descent on what to keep, ascent on what to forget'),
  'npo': (True, 'descent on what to keep, bounded ascent'),
  'scrub': (True, 'a student that disobeys on the forget set'),
  'ssd': (True, 'damps the weights that matter to the forget set'),
  'relabel_second': (True, 'the second best class on the forget set'),
  'trw': (False, 'a whole class: the answers of retraining without it'),
  'boundary_shrink': (False, 'the class across the nearest boundary'),
  'gradient_ascent': (False, 'a few steps up the loss of the forget set'),
}
_LIST = '\n'.join(
  f'    {name:<16} {text}{" (needs --retain)" if needs else ""}'
  for name, (needs, text) in METHODS.items()
)
_TEXT = f"""\
usage: python -m cmu_jax unlearn --weights=FILE --model=NAME --forget=FOLDER
                                 --out=DIR [--retain=FOLDER] [--method=NAME]

Makes a trained classifier forget some of its training pictures, and measures
its remaining knowledge of them.

{flags.NETWORK}
  --forget=FOLDER      training pictures to forget, FOLDER/<class>/*.png or .jpg
                       with the class that they were trained with
  --out=DIR            folder for the new weights, the numbers and the report;
                       the same command continues after a kill
  --retain=FOLDER      training pictures to keep, in class folders likewise
  --test=FOLDER        pictures that were not trained on, in class folders:
                       measured before and after, never used to choose anything
  --method=NAME        amun is the default:
{_LIST}

{flags.INFERRED}

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


@flags.documented(_TEXT)
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
  image_size: int | None = None
  classes: tuple[str, ...] | None = None
  epochs: int = 10
  learning_rate: float | None = None
  weight_decay: float = 5e-4
  batch_size: int = 128
  seed: int = 0


def _check(request: UnlearnRequest) -> None:
  if request.method not in METHODS:
    raise errors.unknown_name('--method', request.method, METHODS)
  flags.check_positive(request, 'epochs')
  flags.check_least(request, weight_decay=0)
  alone = ', '.join(name for name, (needs, _) in METHODS.items() if not needs)
  errors.check(
    request.retain is not None or not METHODS[request.method][0],
    f'--method={request.method} needs --retain=FOLDER, the training pictures '
    f'to keep; without them use one of {alone}',
  )


COMMAND = flags.Command(UnlearnRequest, _TEXT, _check)
