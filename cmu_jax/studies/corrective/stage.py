"""What all cells of the benchmark share: data, networks, methods, originals."""

import pathlib
from typing import NamedTuple

from ml_collections import ConfigDict

from cmu_jax.core import jit, provenance, rng
from cmu_jax.core.store import Checkpoint
from cmu_jax.core.types import Batch, Method, Variables
from cmu_jax.studies.corrective import cells, roster, world
from cmu_jax.studies.corrective.cells import Case
from cmu_jax.studies.corrective.world import Scene, World
from cmu_jax.studies.engine import binding, recipes
from cmu_jax.studies.engine.study import Context
from cmu_jax.training import early_stopping, train


class Benchmark(NamedTuple):
  """What all cells share.

  Attributes:
    worlds: by manipulation.
    digest: of the dataset.
    methods: by manipulation and name; the same objects for all seeds, so that
      they compile once.
  """

  worlds: dict[str, World]
  digest: str
  methods: dict[tuple[str, str], Method]


def load(config: ConfigDict, folder: pathlib.Path) -> Benchmark:
  """Loads the data, and binds networks and methods.

  Raises:
    UserError: bad data, or settings that do not fit the data.
  """
  del folder
  dataset = binding.load(config).dataset
  worlds = {
    kind: world.bind_world(config, dataset, kind)
    for kind in config.manipulations
  }
  methods = {}
  for kind, bound in worlds.items():
    # All seeds have training sets of one size.
    scene = world.draw_scene(
      config, bound, config[kind].sizes[0], config.seeds[0]
    )
    size = scene.problem.truth.size
    for name in dict.fromkeys(('rewod', *config.methods)):
      methods[kind, name] = roster.ENTRIES[name].make(config, bound, size)
  return Benchmark(worlds, provenance.dataset_digest(dataset), methods)


def draw_scene(context: Context[Benchmark], case: Case) -> Scene:
  """Draws the data of a case."""
  bound = context.world.worlds[case.manipulation]
  return world.draw_scene(context.config, bound, case.size, case.seed)


def train_original(
  context: Context[Benchmark], case: Case, scene: Scene
) -> Variables:
  """Trains the network on S_tr, or reads it."""
  config, bound = context.config, context.world.worlds[case.manipulation]
  image = bound.inputs.eval(scene.reported.image[:1], None)
  init = jit.compile_cheaply(bound.model.init)
  start = init(rng.fold_in(scene.key, 'init'), image)
  batch = scene.problem.train
  size = batch.label.shape[0]

  def fit(checkpoint: Checkpoint) -> Variables:
    return train.fit(
      rng.fold_in(scene.key, 'train'),
      bound.network,
      start,
      batch,
      checkpoint=checkpoint,
      title=f'original, {case.manipulation} {case.size}, seed {case.seed}',
      watch=_watch(config, bound, scene),
      training=recipes.fit_options(config.train, size, 'train'),
    ).variables

  address = cells.case_address(config, context.world.digest, case)
  return context.store.read_or_train(address, start, fit)


def _watch(
  config: ConfigDict, one: World, scene: Scene
) -> tuple[early_stopping.BestEpoch, Batch] | None:
  """How the best epoch of the original is found; None for the last iterate."""
  if not config.best_epoch:
    return None
  size = scene.problem.train.label.shape[0]
  epoch = train.steps_per_epoch(size, config.train.batch_size)
  size = config.evaluate.batch_size
  keep = early_stopping.BestEpoch(one.network, epoch, size)
  return keep, scene.problem.validation
