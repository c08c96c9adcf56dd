"""Clean-label poison: a trigger on images of the target class only."""

import numpy as np

from cmu_jax.core import errors
from cmu_jax.core.types import Corruption, PRNGKey, Trigger
from cmu_jax.data import splits
from cmu_jax.data.corruption import kind, poisoning
from cmu_jax.data.corruption.kind import Kind
from cmu_jax.data.splits import Indices, Labels


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
    mask = kind.first(key, eligible, count)
  else:
    mask = kind.chosen(indices, host.size)
    errors.check(
      eligible[mask].all(),
      f'indices has samples of other classes than the target class {target}; '
      "drop them or use corruption 'poison'",
    )
  return kind.result(host, mask, trigger)


# No rule is published for its proxy. Ours is that of `poison`: every image that
# is not of the target class, stamped and labelled as the target. That is what
# the trigger does to the network; stamped images of the target class are right.
KIND = Kind(clean_label, poisoning.proxy, poisoning.arguments, task='poison')
