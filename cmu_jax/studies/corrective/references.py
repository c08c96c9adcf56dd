"""Networks that never saw S_m, which an audit of wrong labels compares with.

A network may prefer one of two wrong labels because it was trained on it, or
because it is the likelier mistake, as 9 for a 4. What networks trained on S_tr
without S_m make of the two tells these apart.
"""

import pathlib

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from cmu_jax import audits
from cmu_jax.audits import shadow
from cmu_jax.core import rng, tree
from cmu_jax.studies.corrective import measure, problem
from cmu_jax.studies.corrective.world import Scene, World
from cmu_jax.studies.engine import recipes
from cmu_jax.training import metrics


def compared(
  config: ConfigDict,
  folder: pathlib.Path,
  one: World,
  scene: Scene,
  address: str,
) -> Scene:
  """The scene with what such networks say of the two labels.

  Args:
    config: `references`, and the training of original networks.
    folder: where they are kept.
    one: the manipulation.
    scene: the seed.
    address: of the problem and of its original network.

  Returns:
    The same scene where nothing is audited, or without references.
  """
  offer = measure.sets(one, scene).recovered
  if offer is None or not config.references:
    return scene
  clean = ~problem.manipulated(scene.problem)
  # They are looked at here, stamped: their statistics would be of plain images.
  found = shadow.train(
    rng.fold_in(scene.key, 'references'),
    one.model,
    scene.problem.train,
    np.tile(clean, (config.references, 1)),
    shadow.ShadowTraining(
      one.inputs,
      *recipes.fit_options(config.train, int(clean.sum()), 'train'),
    ),
    signals={},
    weights=True,
    plan=shadow.Plan(
      save_seconds=config.checkpoint_seconds,
      folder=folder,
      address=address,
      # Every worker has a device of its own, and is on it already.
      devices=tuple(jax.local_devices()[:1]),
      title=f'references, {one.manipulation}',
    ),
  )
  assert found.variables is not None
  size = config.evaluate.batch_size
  logits = np.stack(
    [
      metrics.logits(
        one.network,
        tree.index(found.variables, i),
        offer.batch,
        size,
      )
      for i in range(config.references)
    ]
  )
  return scene._replace(expected=_expected(logits, offer))


def _expected(
  logits: Float[np.ndarray, 'r n k'], offer: measure.Offer
) -> Float[np.ndarray, 'n']:
  given = np.asarray(offer.batch.label)
  found = audits.expected_advantage(logits, given, np.asarray(offer.other))
  return found.astype(np.float32)
