"""Audits networks for the wrong labels that they were trained on.

The oracles of the other seeds never saw these labels, and serve as references.
The audit of an oracle shows the result for a network without wrong labels.
"""

from collections.abc import Callable, Sequence

import numpy as np
from ml_collections import ConfigDict

from cmu_jax import audits
from cmu_jax.core import rng
from cmu_jax.core.types import Info, Network, Variables
from cmu_jax.data import splits
from cmu_jax.studies.cuts import scene
from cmu_jax.training import metrics, train

COLUMNS = ('label_recovery_rate', 'label_recovery_low', 'label_recovery_high')


def make_audit(
  config: ConfigDict,
  world: scene.World,
  data: scene.Scene,
  oracles: Sequence[train.Fit],
  position: int,
) -> Callable[[Variables], Info]:
  """Creates the audit of a seed.

  Args:
    config: `audit`, and the batch size of evaluations.
    world: of the run.
    data: of the seed.
    oracles: of each seed; no oracle saw a wrong label.
    position: of the seed; its own oracle is no reference.

  Returns:
    network -> label_recovery_rate, how often the audit tells a label that was
    trained on from another wrong label, with its 95 % interval over images;
    nothing without `audit`, None without wrong labels.
  """
  if not config.audit:
    return lambda variables: {}
  label, truth = np.asarray(data.train.label), np.asarray(data.truth)
  wrong = np.flatnonzero(label != truth)
  # Null columns keep the rows of all seeds alike.
  if not wrong.size:
    return lambda variables: dict.fromkeys(COLUMNS)
  batch = splits.take(data.train, wrong)
  # A batch that is larger than the set would only add padding.
  size = min(config.evaluate.batch_size, wrong.size)
  network = Network(world.model, world.inputs)

  def logits(variables: Variables) -> np.ndarray:
    values = metrics.logits(network, variables, batch, size)
    return np.asarray(values, np.float32)

  # The audit also covers this oracle, which cannot be its own reference.
  others = [fit.variables for i, fit in enumerate(oracles) if i != position]
  # All audited networks of the seed share these references.
  reference = np.stack([logits(v) for v in others]) if others else None

  def audit(variables: Variables) -> Info:
    recovery = audits.recover_labels(
      rng.fold_in(data.key, 'audit'),
      logits(variables),
      label[wrong],
      truth[wrong],
      reference,
    )
    return dict(zip(COLUMNS, recovery[:3], strict=True))

  return audit
