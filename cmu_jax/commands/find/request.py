"""The request of find: help text, flags and checks."""

from typing import NamedTuple

from cmu_jax.commands import flags, requests
from cmu_jax.core import errors

_TEXT = f"""\
usage: python -m cmu_jax find --weights=FILE --model=NAME --data=PICTURES
                              --out=DIR [...]
       python -m cmu_jax find --probabilities=FILE.npz --out=DIR

Finds the bad samples of a labelled set of pictures: wrong labels, planted
triggers, near copies and outliers. Nobody needs to have identified one.

Wrong labels: confident learning (arXiv 1911.00068). A network that was trained
on these pictures repeats their wrong labels: then shifted and mirrored copies
are answered too, and a linear head that never saw a picture's label judges it.
Triggers: a patch that many pictures of a class share, that moves pictures of
other classes into it. Other kinds of triggers are not found.

{requests.NETWORK}
  --data=PICTURES      FOLDER/<given class>/*, or FILE.npz with images, uint8
                       [n,h,w] or [n,h,w,c], and labels, integers [n]
  --probabilities=FILE.npz  in place of a network and pictures: plain arrays
                       probabilities [n,k] and labels [n], and if at hand
                       features [n,d] and class_names [k]. A network that was
                       trained on these samples needs features, or answers by
                       cross-validation
  --out=DIR            folder for the list, the page and the folders of
                       suspects; the same command continues after a kill

{requests.INFERRED}

Choices:
  --precision=X        0 to 1: wrong labels are copied to their folder as long
                       as so large a share is expected to be wrong (default 0.8)
  --views=false        asks for no shifted or mirrored copies, for networks
                       that read position or handedness
  --batch_size=N       pictures that the network answers at a time (default 250)
  --seed=N             of everything random

Results in DIR: suspects.csv (all suspects, ranked, with the expected precision
of the list down to each), report.html with thumbnails, results.json, and copies
in suspects/<kind>/<given class>/*, as `repair --proxy` and `unlearn --forget`
read them. The originals stay as they are.

examples:
  python -m cmu_jax find --weights=net.npz --model=resnet20 --data=pictures \\
    --out=found --mean=0.485,0.456,0.406 --std=0.229,0.224,0.225
  python -m cmu_jax find --probabilities=answers.npz --out=found
"""


@flags.add_attributes(_TEXT)
class FindRequest(NamedTuple):
  """A search for bad samples as the user asks for it; None is absent."""

  out: str
  weights: str | None = None
  model: str | None = None
  data: str | None = None
  probabilities: str | None = None
  mean: tuple[float, ...] | None = None
  std: tuple[float, ...] | None = None
  channels: str | None = None
  image_size: int | None = None
  classes: tuple[str, ...] | None = None
  precision: float = 0.8
  views: bool = True
  batch_size: int = 250
  seed: int = 0


def _check(request: FindRequest) -> None:
  errors.check(
    0 <= request.precision <= 1,
    f'--precision is {request.precision}; it must lie from 0 to 1',
  )
  errors.check(
    (request.weights is None) != (request.probabilities is None),
    'give --weights=FILE or --probabilities=FILE.npz, one of them: see --help',
  )
  # A network without pictures, or pictures without a network, is a slip.
  needed = ('model', 'data')
  if request.weights is None:
    surplus = [name for name in needed if getattr(request, name)]
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


FIND = flags.Command(FindRequest, _TEXT, _check)
