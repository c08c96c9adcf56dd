"""Backdoor poison: a trigger and the label of the target class."""

import numpy as np
from ml_collections import ConfigDict

from cmu_jax.core import errors
from cmu_jax.core.types import Corruption, Info, PRNGKey, Trigger
from cmu_jax.data import splits
from cmu_jax.data.corruption import kind
from cmu_jax.data.corruption.kind import Kind, Known
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
    mask = kind.first(key, eligible, wanted)
  else:
    mask = kind.chosen(indices, host.size)
    errors.check(
      eligible[mask].all(),
      f'indices has samples of the target class {target}; '
      'set include_target=True to poison them too',
    )
  return kind.result(np.where(mask, target, host), mask, trigger)


def proxy(
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
  painted = kind.needed(trigger, 'poison', 'a trigger')
  count = int(np.sum(np.asarray(label) != target))
  return poison(key, label, None, painted, target, count=count)


def arguments(settings: ConfigDict, known: Known) -> Info:
  """Trigger and target class, as the config has them."""
  return {'target': settings.target, 'trigger': known.trigger}


KIND = Kind(poison, proxy, arguments, task='poison')
