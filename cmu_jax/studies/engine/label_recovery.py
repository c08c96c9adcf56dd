"""Whether the wrong labels of a run are still to be read out of its networks.

Networks that never saw them are there already: the oracles, of the other
seeds. An oracle is audited beside those of the other seeds too, and is what
nothing to be found looks like.
"""

from collections.abc import Callable, Sequence

import numpy as np
from ml_collections import ConfigDict

from cmu_jax import audits
from cmu_jax.core import errors, rng
from cmu_jax.core.types import Info, Network, Variables
from cmu_jax.data import splits
from cmu_jax.studies.cuts import scene
from cmu_jax.training import metrics, train

AUDITS = ('', 'rmia')
COLUMNS = ('label_recovery_rate', 'label_recovery_low', 'label_recovery_high')


def check(config: ConfigDict, classes: int) -> None:
  """Refuses an audit that there is not, or that needs more classes.

  Raises:
    UserError: names the field, its value and what would do.
  """
  if config.audit not in AUDITS:
    raise errors.unknown_name('config.audit', config.audit, AUDITS[1:])
  errors.check(
    not config.audit or classes >= 3,
    f'config.audit={config.audit} offers two wrong labels of an image, but '
    f'there are {classes} classes: leave it out',
  )


def auditor(
  config: ConfigDict,
  world: scene.World,
  place: scene.Scene,
  fits: Sequence[train.Fit],
  at: int,
) -> Callable[[Variables], Info]:
  """A function from a network to what its audit found.

  Args:
    config: `audit`, and how many images are looked at together.
    world: of the run.
    place: of the seed.
    fits: the oracle of each seed: none of them saw a wrong label.
    at: which of the seeds this is; its own oracle is no reference.

  Returns:
    network -> label_recovery_rate, how often a label that was trained on is
    told from another wrong one, with its 95 % interval over images;
    nothing without `audit`, None where no label is wrong.
  """
  if not config.audit:
    return lambda variables: {}
  given, truth = np.asarray(place.train.label), np.asarray(place.truth)
  wrong = np.flatnonzero(given != truth)
  if not wrong.size:
    return lambda variables: dict.fromkeys(COLUMNS)
  batch = splits.take(place.train, wrong)
  size = min(config.evaluate.batch_size, wrong.size)

  def logits(variables: Variables) -> np.ndarray:
    found = metrics.logits(
      Network(world.model, world.inputs), variables, batch, size
    )
    return np.asarray(found, np.float32)

  others = [fit.variables for i, fit in enumerate(fits) if i != at]
  known = np.stack([logits(one) for one in others]) if others else None

  def look(variables: Variables) -> Info:
    found = audits.recover_labels(
      rng.fold_in(place.key, 'audit'),
      logits(variables),
      given[wrong],
      truth[wrong],
      known,
    )
    return dict(zip(COLUMNS, found[:3], strict=True))

  return look
