"""Networks that never saw S_m, which an audit of wrong labels compares with.

A network may prefer one of two wrong labels because it was trained on it, or
because it is the likelier mistake, as 9 for a 4. The preference of networks
trained on S_tr without S_m tells these apart.
"""

import functools

import jax
import numpy as np

from cmu_jax import audits
from cmu_jax.audits import shadow
from cmu_jax.core import rng, tree
from cmu_jax.studies.corrective import benchmark, measure, problem
from cmu_jax.studies.corrective.benchmark import Benchmark
from cmu_jax.studies.corrective.trials import Case
from cmu_jax.studies.corrective.world import Scene
from cmu_jax.studies.engine import recipes, references
from cmu_jax.studies.engine.study import Cell, Context
from cmu_jax.training import metrics


def _offer(context: Context[Benchmark], case: Case) -> measure.Offer | None:
  # The offer does not depend on the references, which the scene lacks yet.
  shared = context.world.worlds[case.manipulation]
  return measure.select_images(
    shared, benchmark.get_scene(context, case)
  ).recovered


def _make_job(context: Context[Benchmark], case: Case) -> shadow.ShadowJob:
  """Prepares networks that are trained on S_tr without S_m."""
  config, scene = context.config, benchmark.get_scene(context, case)
  shared = context.world.worlds[case.manipulation]
  clean = ~problem.find_manipulated(scene.problem)
  training = recipes.fit_options(config.train, int(clean.sum()), 'train')
  # Their statistics would be of plain images: `add_expectations` stamps them.
  return shadow.make_job(
    rng.fold_in(scene.key, 'references'),
    shared.model,
    scene.problem.train,
    np.tile(clean, (config.references, 1)),
    shadow.ShadowTraining(shared.inputs, *training),
    shadow.Plan(
      save_seconds=config.checkpoint_seconds,
      folder=context.store.folder,
      address=benchmark.case_address(context, case),
      # Every worker has a device of its own, and is on it already.
      devices=tuple(jax.local_devices()[:1]),
      title=f'references, {case.manipulation}',
    ),
    signals=(),
    weights=True,
  )


def list_cells(context: Context[Benchmark], case: Case) -> list[Cell]:
  """Lists the groups of reference networks of a problem as cells."""
  if _offer(context, case) is None:
    return []
  groups = references.list_groups(_make_job(context, case))
  # The job is prepared again for each group: together the jobs of all problems
  # would hold all their images in memory.
  return [
    group._replace(compute=functools.partial(_train_group, context, case, i))
    for i, group in enumerate(groups)
  ]


def _train_group(context: Context[Benchmark], case: Case, number: int) -> None:
  references.list_groups(_make_job(context, case))[number].compute()


def add_expectations(context: Context[Benchmark], case: Case) -> Scene:
  """Adds to a scene the preferences of reference networks for the labels.

  Returns:
    The same scene where nothing is audited, or without references.

  Raises:
    TimeIsUp: the reference networks are not trained yet.
  """
  config, scene = context.config, benchmark.get_scene(context, case)
  offer = _offer(context, case)
  if offer is None or not config.references:
    return scene
  shadows = references.read_shadows(context, _make_job(context, case))
  # `_make_job` asks for the weights.
  assert shadows.variables is not None
  network = context.world.worlds[case.manipulation].network
  size = config.evaluate.batch_size
  # The input step of `network` stamps the trigger on images of S_m.
  logits = np.stack(
    [
      metrics.logits(
        network, tree.index(shadows.variables, i), offer.batch, size
      )
      for i in range(config.references)
    ]
  )
  labels = np.asarray(offer.batch.label), np.asarray(offer.other)
  expected = audits.expected_advantage(logits, *labels)
  return scene._replace(expected=expected.astype(np.float32))
