"""Backdoor poison, with and without changed labels."""

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
  """Adds the trigger to random samples and labels them as the target class.

  Args:
    key: determines the samples.
    label: true labels [n].
    rate: share of *all* n samples, of which round(rate * n) are poisoned; None
      if `count` or `indices` is given.
    trigger: painted on them by the input step.
    target: their new class.
    include_target: draw from all classes, so that some samples carry the
      trigger under their true label; otherwise from the other classes only.
    indices: the samples to poison instead of random ones.
    count: number of samples to poison, instead of `rate`.

  Raises:
    UserError: a rate, label or index out of range, or too few eligible samples.

  References:
    CUTS, arXiv 2511.18660, section 4; with include_target=True and a count,
    Corrective Machine Unlearning, arXiv 2402.14015, section 4.
  """
  sizes = [x is not None for x in (rate, count, indices)]
  errors.check(
    sum(sizes) == 1, 'poison needs exactly one of rate, count and indices'
  )
  host = kind.check_target(label, target, 'poison')
  eligible = np.full(host.shape, True) if include_target else host != target
  if indices is None:
    if rate is not None:
      splits.check_rate(rate)
    # CUTS rounds here, while its label noise takes the floor.
    number = round(rate * host.size) if rate is not None else count or 0
    errors.check(
      0 <= number <= eligible.sum(),
      f'cannot poison {number} samples: {eligible.sum()} are eligible (target '
      f'class {target}); lower the rate or set include_target=True',
    )
    mask = kind.random_mask(key, eligible, number)
  else:
    mask = kind.index_mask(
      indices,
      eligible,
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
  """Poisons every image of a pool outside the target class.

  Raises:
    UserError: no trigger is given.

  References:
    CUTS, arXiv 2511.18660, section 3.
  """
  trigger = kind.require(trigger, 'poison', 'a trigger')
  count = int(np.sum(np.asarray(label) != target))
  return poison(key, label, None, trigger, target, count=count)


def _poison_arguments(settings: ConfigDict, facts: DatasetFacts) -> Info:
  return {'target': settings.target, 'trigger': facts.trigger}


POISON = Kind(poison, _poison_proxy, _poison_arguments, task='poison')


def clean_label(
  key: PRNGKey,
  label: Labels,
  rate: float,
  trigger: Trigger,
  target: int = 0,
  indices: Indices | None = None,
) -> Corruption:
  """Adds the trigger to floor(rate * n_t) samples of the target class t.

  No label changes. Any trigger will do; published are sinusoidal ones.

  Args:
    key: determines the samples.
    label: true labels [n].
    rate: share of the target class, 0 to 1.
    trigger: painted on them by the input step.
    target: the class that the trigger leads to.
    indices: the samples to poison instead of random ones; `rate` is unused.

  Raises:
    UserError: a rate, label or index out of range, or an index of another
      class.

  References:
    A New Backdoor Attack in CNNs by Training Set Corruption Without Label
    Poisoning, arXiv 1902.11237, section 3.
  """
  splits.check_rate(rate)
  host = kind.check_target(label, target, 'poison')
  eligible = host == target
  if indices is None:
    count = splits.floor_share(rate, int(eligible.sum()))
    mask = kind.random_mask(key, eligible, count)
  else:
    mask = kind.index_mask(
      indices,
      eligible,
      f'indices has samples of other classes than the target class {target}; '
      "drop them or use corruption 'poison'",
    )
  return kind.make_corruption(host, mask, trigger)


# No rule is published for its proxy. Ours is that of `poison`: every image
# outside the target class, with the trigger and the target label. That is the
# effect of the trigger on the network; images of the target class with the
# trigger are labelled correctly, so they are no evidence of it.
CLEAN_LABEL = Kind(clean_label, _poison_proxy, _poison_arguments, task='poison')
