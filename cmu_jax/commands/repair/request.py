"""The request of a repair: its help text and its flags."""

from typing import NamedTuple

from cmu_jax.commands import flags

_TEXT = f"""\
usage: python -m cmu_jax repair --weights=FILE --model=NAME --proxy=FOLDER
                                --kind=label_noise|poison --out=DIR [...]

Repairs a trained classifier from its weights and a folder of bad samples (CUTS,
arXiv 2511.18660): fine-tunes on the bad samples and subtracts the change of the
weights, as far as the samples show that it helps. The training data are not
needed. Reports the corruption that the samples show, its certainty, and
contradictions to --kind.

{flags.NETWORK}
  --proxy=FOLDER       bad samples that the network was not trained on.
                       label_noise: FOLDER/<the wrong class>/*.png or .jpg;
                       poison: FOLDER/*.png, with the trigger in the picture
  --kind=label_noise|poison  the corruption
  --out=DIR            folder for the repaired weights, the curve and the
                       report; the same command continues after a kill

{flags.INFERRED}
  --target=CLASS       poison: class to which the trigger leads; name or number

Choices:
  --ordinary=FOLDER    poison: unlabelled pictures without the trigger. We
                       locate the trigger by comparison and unlearn it along
                       directions that these pictures do not need (a method of
                       ours); without them, CUTS as published
  --labels=bad|true    label_noise: FOLDER's classes are the wrong labels (bad,
                       the default) or the true labels (true), which are then
                       replaced at random, twice
  --rule=safe|published  label_noise: safe (the default) chooses alpha on
                       held-out bad samples and edits only if they confirm that
                       the edit helps; published is the paper's rule. poison:
                       safe uses --ordinary, if given, and does not edit a
                       network that the trigger does not fool
  --test=FOLDER        ordinary pictures by class: measured before and after,
                       never used to choose anything
  --lipschitz=true     bounds the Lipschitz constant of the network, before and
                       after: a minute for a ResNet-20
  --steps=N            of the fine-tuning: at most 200, and with label noise
                       until half of the wrong labels are learnt
  --learning_rate=X    of AdamW, constant: 5e-4 (label_noise), 1e-4 (poison)
  --batch_size=N       of the fine-tuning (default 128)
  --seed=N             of everything random

example:
  python -m cmu_jax repair --weights=resnet20.npz --model=resnet20 \\
    --proxy=bad_samples --kind=poison --out=repaired \\
    --mean=0.485,0.456,0.406 --std=0.229,0.224,0.225
"""


@flags.documented(_TEXT)
class RepairRequest(NamedTuple):
  """A repair as the user asks for it; None is inferred."""

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


COMMAND = flags.Command(
  RepairRequest, _TEXT, lambda request: flags.check_positive(request, 'steps')
)
