"""Pictures of a request, compared with each other and with the network.

Mistakes of this kind give wrong numbers and no error: classes in another order,
or the same picture in two sets that must not share any.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from cmu_jax.core.types import Batch
from cmu_jax.data import splits
from cmu_jax.networks import shipped
from cmu_jax.networks.shipped import ShippedNetwork
from cmu_jax.training import metrics

# Pictures of a set that the order of the classes is compared with: enough for
# any contradiction, and few enough for a large network on a CPU.
_COMPARED = 200


def check_classes(
  network: ShippedNetwork, sets: Mapping[str, Batch | None]
) -> None:
  """Compares the order of the classes with the network's answers.

  Args:
    network: as shipped.
    sets: flag -> pictures with true labels, or with those of the training.

  Raises:
    UserError: the network is far better in another order than the assumed one.
  """
  # The head of a CLIP is made of the names: no order contradicts it.
  if network.reader is not None:
    return
  samples = {
    flag: splits.take(batch, _few_of_each(np.asarray(batch.label)))
    for flag, batch in sets.items()
    if batch is not None
  }
  if not samples:
    return
  # A single batch: the program is compiled once.
  batch = Batch(
    jnp.concatenate([sample.image for sample in samples.values()]),
    jnp.concatenate([sample.label for sample in samples.values()]),
  )
  predicted = metrics.predict(network.classifier, network.variables, batch, 256)
  label = np.asarray(batch.label)
  origin = f'{label.size} pictures of {" and ".join(samples)}'
  shipped.check_order(network.order, label, predicted, origin)


def _few_of_each(label: Int[np.ndarray, 'n']) -> Int[np.ndarray, 'm']:
  """Chooses some pictures, as many of each class as possible."""
  rank = splits.rank_in_class(label, np.argsort(label, kind='stable'))
  return np.sort(np.lexsort((label, rank))[:_COMPARED])
