"""The request of a repair: its flags, and values that contradict each other."""

from typing import Annotated, NamedTuple

from cmu_jax.commands import flags
from cmu_jax.commands.flags import Flag

KINDS = ('label_noise', 'poison')


@flags.documented
class RepairRequest(NamedTuple):
  """A repair as the user asks for it; None is inferred."""

  weights: Annotated[str, flags.WEIGHTS]
  model: Annotated[str, flags.MODEL]
  proxy: Annotated[
    str,
    Flag(
      'FOLDER',
      'bad samples that the network was not trained on. label_noise: '
      'FOLDER/<the wrong class>/*.png or .jpg; poison: FOLDER/*.png, with the '
      'trigger in the picture',
    ),
  ]
  kind: Annotated[str, Flag('KIND', ' or '.join(KINDS), KINDS)]
  out: Annotated[str, flags.OUT]
  mean: Annotated[tuple[float, ...] | None, flags.MEAN] = None
  std: Annotated[tuple[float, ...] | None, flags.STD] = None
  image_size: Annotated[int | None, flags.IMAGE_SIZE] = None
  classes: Annotated[tuple[str, ...] | None, flags.CLASSES] = None
  target: Annotated[
    str | None,
    Flag('CLASS', 'poison: class to which the trigger leads, name or number'),
  ] = None
  ordinary: Annotated[
    str | None,
    Flag(
      'FOLDER',
      'poison: unlabelled pictures without the trigger. We locate the trigger '
      'by comparison and unlearn it along directions that these pictures do '
      'not need (a method of ours); without them CUTS as published',
    ),
  ] = None
  labels: Annotated[
    str,
    Flag(
      'bad|true',
      "label_noise: FOLDER's classes are the wrong labels (bad), or the true "
      'labels (true), which are then replaced at random, twice',
      ('bad', 'true'),
    ),
  ] = 'bad'
  rule: Annotated[
    str,
    Flag(
      'safe|published',
      'label_noise: safe chooses alpha on held-out bad samples and edits only '
      "if they confirm that the edit helps; published is the paper's rule. "
      'poison: safe uses --ordinary, if given, and does not edit a network '
      'that the trigger does not fool',
      ('safe', 'published'),
    ),
  ] = 'safe'
  test: Annotated[str | None, flags.TEST] = None
  lipschitz: Annotated[
    bool,
    Flag(
      'true',
      "bounds the network's Lipschitz constant before and after: a minute for "
      'a ResNet-20',
    ),
  ] = False
  steps: Annotated[
    int | None,
    Flag(
      'N',
      'steps of the fine-tuning: at most 200, and with label noise until half '
      'of the wrong labels are learnt',
      above=0,
    ),
  ] = None
  learning_rate: Annotated[
    float | None,
    Flag(
      'X', 'constant rate of AdamW: 5e-4 (label_noise), 1e-4 (poison)', above=0
    ),
  ] = None
  batch_size: Annotated[int, flags.BATCH_SIZE] = 128
  seed: Annotated[int, flags.SEED] = 0


COMMAND = flags.Command(
  name='repair',
  request=RepairRequest,
  summary=(
    'Repairs a trained classifier from its weights and a folder of bad samples '
    '(CUTS, arXiv 2511.18660): fine-tunes on the bad samples and subtracts the '
    'change of the weights, as far as the samples show that it helps. The '
    'training data are not needed. Reports the kind of corruption that the '
    'samples show, its certainty, and contradictions to --kind.'
  ),
  usage=(
    '--weights=FILE --model=NAME --proxy=FOLDER --kind=label_noise|poison '
    '--out=DIR [...]',
  ),
  sections={
    '': 'weights model proxy kind out',
    flags.INFERRED: 'mean std image_size classes target',
    'Choices:': 'ordinary labels rule test lipschitz steps learning_rate '
    'batch_size seed',
  },
  examples=(
    '--weights=resnet20.npz --model=resnet20 \\\n'
    '    --proxy=bad_samples --kind=poison --out=repaired \\\n'
    '    --mean=0.485,0.456,0.406 --std=0.229,0.224,0.225',
  ),
  check=lambda request: None,
)
