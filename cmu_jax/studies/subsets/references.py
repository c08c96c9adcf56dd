"""Reference networks for RMIA: shadow models on halves of D and D_T."""

import numpy as np

from cmu_jax import audits
from cmu_jax.audits import shadow
from cmu_jax.core import rng
from cmu_jax.studies.engine import bounds
from cmu_jax.studies.subsets import cells
from cmu_jax.studies.subsets.measure import References
from cmu_jax.studies.subsets.world import Place


def references(place: Place) -> References | None:
  """Trains what is not done yet; None where there are none."""
  config = place.config
  if not config.references:
    return None
  key, size = rng.named(0, 'references'), place.pool.label.shape[0]
  inside = shadow.membership(key, config.references, size)
  options = bounds.training(config, place.bounded, size - size // 2)
  name = config.rmia.signal
  found = shadow.train(
    key,
    place.model,
    place.pool,
    inside,
    shadow.Fit(place.inputs, **options),
    signals={name: audits.SIGNALS[name]},
    plan=shadow.Plan(
      group=config.reference_group,
      seconds=config.checkpoint_seconds,
      folder=place.folder,
      address=cells.trained(place, 'reference'),
      # One after another: side by side, every step would clip all of them.
      how='map' if place.bounded else None,
      images=config.evaluate.batch_size,
      title='references',
    ),
  )
  return References(found.statistics[name].astype(np.float64), inside)
