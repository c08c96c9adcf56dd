"""Reference networks for RMIA: shadow models on halves of D and D_T."""

import numpy as np

from cmu_jax import audits
from cmu_jax.audits import shadow
from cmu_jax.core import rng
from cmu_jax.studies.engine import bounds
from cmu_jax.studies.subsets import addresses
from cmu_jax.studies.subsets.measure import References
from cmu_jax.studies.subsets.world import Place


def references(place: Place) -> References | None:
  """Trains what is not done yet; None where there are none."""
  config = place.config
  if not config.references:
    return None
  key, size = rng.fold_in(0, 'references'), place.pool.label.shape[0]
  inside = shadow.assign_halves(key, config.references, size)
  training = bounds.training(config, place.bounded, size - size // 2)
  name = config.rmia.signal
  found = shadow.train(
    key,
    place.model,
    place.pool,
    inside,
    shadow.ShadowTraining(place.inputs, *training),
    signals={name: audits.SIGNALS[name]},
    plan=shadow.Plan(
      group=config.reference_group,
      save_seconds=config.checkpoint_seconds,
      folder=place.folder,
      address=addresses.trained(place, 'reference'),
      # One after another: side by side, every step would clip all of them.
      strategy='map' if place.bounded else None,
      images_at_once=config.evaluate.batch_size,
      title='references',
    ),
  )
  return References(found.statistics[name].astype(np.float64), inside)
