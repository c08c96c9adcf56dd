"""The request of an unlearning: its flags, and the methods it offers."""

from typing import Annotated, NamedTuple

from cmu_jax.commands import flags
from cmu_jax.commands.flags import Flag
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
  'ssd': (True, 'damps the weights that matter to forget'),
  'relabel_second': (True, 'the second best class on the forget set'),
  'trw': (False, 'a whole class: the answers of retraining without it'),
  'boundary_shrink': (False, 'the class across the nearest boundary'),
  'gradient_ascent': (False, 'a few steps up the loss of the forget set'),
}


@flags.documented
class UnlearnRequest(NamedTuple):
  """An unlearning as the user asks for it; None is inferred."""

  weights: Annotated[str, flags.WEIGHTS]
  model: Annotated[str, flags.MODEL]
  forget: Annotated[
    str,
    Flag(
      'FOLDER',
      'training pictures to forget, FOLDER/<class>/*.png or .jpg with the '
      'class that they were trained with',
    ),
  ]
  out: Annotated[str, flags.OUT]
  retain: Annotated[
    str | None,
    Flag('FOLDER', 'training pictures to keep, in class folders likewise'),
  ] = None
  method: Annotated[
    str, Flag('NAME', 'one of the methods below', tuple(METHODS))
  ] = 'amun'
  test: Annotated[str | None, flags.TEST] = None
  mean: Annotated[tuple[float, ...] | None, flags.MEAN] = None
  std: Annotated[tuple[float, ...] | None, flags.STD] = None
  image_size: Annotated[int | None, flags.IMAGE_SIZE] = None
  classes: Annotated[tuple[str, ...] | None, flags.CLASSES] = None
  epochs: Annotated[
    int, Flag('N', 'passes over --retain, or over --forget without it', above=0)
  ] = 10
  learning_rate: Annotated[
    float | None,
    Flag(
      'X',
      'constant rate of SGD with momentum 0.9: 0.01, and 0.001 for '
      'gradient_ascent',
      above=0,
    ),
  ] = None
  weight_decay: Annotated[float, flags.WEIGHT_DECAY] = 5e-4
  batch_size: Annotated[int, flags.BATCH_SIZE] = 128
  seed: Annotated[int, flags.SEED] = 0


def _check(request: UnlearnRequest) -> None:
  alone = ', '.join(name for name, (needs, _) in METHODS.items() if not needs)
  errors.check(
    request.retain is not None or not METHODS[request.method][0],
    f'--method={request.method} needs --retain=FOLDER, the training pictures '
    f'to keep; without them use one of {alone}',
  )


_METHOD_LIST = '\n'.join(
  f'  {name:<16} {text}{" (needs --retain)" if needs else ""}'
  for name, (needs, text) in METHODS.items()
)
COMMAND = flags.Command(
  name='unlearn',
  request=UnlearnRequest,
  summary=(
    'Makes a trained classifier forget some of its training pictures, and '
    'measures its remaining knowledge of them.'
  ),
  usage=(
    '--weights=FILE --model=NAME --forget=FOLDER --out=DIR [--retain=FOLDER] '
    '[--method=NAME] [...]',
  ),
  sections={
    '': 'weights model forget out retain method test',
    f'Methods:\n{_METHOD_LIST}': '',
    flags.INFERRED: 'mean std image_size classes',
    'Choices:': 'epochs learning_rate weight_decay batch_size seed',
  },
  examples=(
    '--weights=resnet20.npz --model=resnet20 \\\n'
    '    --forget=withdrawn --retain=still_ours --out=forgotten \\\n'
    '    --mean=0.485,0.456,0.406 --std=0.229,0.224,0.225',
  ),
  check=_check,
)
