"""Backdoor poison: a trigger and the label of the target class.

Clean-label poison: a trigger on images of the target class only.
"""

import numpy as np
from ml_collections import ConfigDict

from cmu_jax.core import errors
from cmu_jax.core.types import Corruption, Info, PRNGKey, Trigger
from cmu_jax.data import splits
from cmu_jax.data.corruption import kind
from cmu_jax.data.corruption.kind import DatasetFacts, Kind
from cmu_jax.data.splits import Indices, Labels


def poison(
  key: PRNGKey,
  label: Labels,
  rate: float | None,
  trigger: Trigger,
  target: int = 0,
  include_target: bool = False,
  indices: Indices | None = None,
  count: int | None = None,
) -> Corruption:
  """Stamps the trigger on some samples and labels them as the target class.

  Args:
    key: decides which samples.
    label: true labels [n].
    rate: share of *all* n samples, of which round(rate * n) are poisoned; None
      where `count` or `indices` says how many.
    trigger: what the input step paints on them.
    target: the class they are labelled as.
    include_target: draw from all classes, so that some samples carry the
      trigger under their true label; otherwise from the other classes only.
    indices: the samples to poison instead of drawn ones.
    count: how many samples to poison, instead of `rate`.

  Raises:
    UserError: a rate, label or index out of range, or more samples asked for
      than are eligible.

  References:
    CUTS, arXiv 2511.18660, section 4; with include_target=True and a count,
    Corrective Machine Unlearning, arXiv 2402.14015, section 4.
  """
  given = [x is not None for x in (rate, count, indices)]
  errors.check(
    sum(given) == 1, 'poison needs exactly one of rate, count and indices'
  )
  errors.check(target >= 0, f'poison target {target} is not a class')
  host = splits.check_labels(
    label, 1 + max(target, int(np.max(label, initial=0)))
  )
  eligible = np.full(host.shape, True) if include_target else host != target
  if indices is None:
    if rate is not None:
      splits.check_rate(rate)
    wanted = round(rate * host.size) if rate is not None else count or 0
    errors.check(
      0 <= wanted <= eligible.sum(),
      f'cannot poison {wanted} samples: {eligible.sum()} are eligible (target '
      f'class {target}); lower the rate or set include_target=True',
    )
    mask = kind.random_mask(key, eligible, wanted)
  else:
    mask = kind.index_mask(indices, host.size)
    errors.check(
      eligible[mask].all(),
      f'indices has samples of the target class {target}; '
      'set include_target=True to poison them too',
    )
  return kind.make_corruption(np.where(mask, target, host), mask, trigger)


def _poison_proxy(
  key: PRNGKey,
  label: Labels,
  num_classes: int,
  trigger: Trigger | None = None,
  target: int = 0,
) -> Corruption:
  """A pool of which every image is poisoned that is not of the target class.

  Raises:
    UserError: no trigger is given.

  References:
    CUTS, arXiv 2511.18660, section 3.
  """
  painted = kind.require(trigger, 'poison', 'a trigger')
  count = int(np.sum(np.asarray(label) != target))
  return poison(key, label, None, painted, target, count=count)


def _poison_arguments(settings: ConfigDict, known: DatasetFacts) -> Info:
  """Trigger and target class, as the config has them."""
  return {'target': settings.target, 'trigger': known.trigger}


POISON = Kind(poison, _poison_proxy, _poison_arguments, task='poison')


def clean_label(
  key: PRNGKey,
  label: Labels,
  rate: float,
  trigger: Trigger,
  target: int = 0,
  indices: Indices | None = None,
) -> Corruption:
  """Stamps the trigger on floor(rate * n_t) samples of the target class t.

  No label changes. Any trigger will do; published are sinusoidal ones.

  Args:
    key: decides which samples.
    label: true labels [n].
    rate: share of the target class, 0 to 1.
    trigger: what the input step paints on them.
    target: the class that the trigger leads to.
    indices: the samples to stamp instead of drawn ones; `rate` is unused.

  Raises:
    UserError: a rate, label or index out of range, or an index of another
      class.

  References:
    A New Backdoor Attack in CNNs by Training Set Corruption Without Label
    Poisoning, arXiv 1902.11237, section 3.
  """
  splits.check_rate(rate)
  errors.check(target >= 0, f'poison target {target} is not a class')
  host = splits.check_labels(
    label, 1 + max(target, int(np.max(label, initial=0)))
  )
  eligible = host == target
  if indices is None:
    count = splits.floor_share(rate, int(eligible.sum()))
    mask = kind.random_mask(key, eligible, count)
  else:
    mask = kind.index_mask(indices, host.size)
    errors.check(
      eligible[mask].all(),
      f'indices has samples of other classes than the target class {target}; '
      "drop them or use corruption 'poison'",
    )
  return kind.make_corruption(host, mask, trigger)


# No rule is published for its proxy. Ours is that of `poison`: every image that
# is not of the target class, stamped and labelled as the target. That is what
# the trigger does to the network; stamped images of the target class are right.
CLEAN_LABEL = Kind(clean_label, _poison_proxy, _poison_arguments, task='poison')
