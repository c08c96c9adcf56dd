"""The world of the benchmark: data, networks, methods and original networks."""

import pathlib
from typing import NamedTuple

from ml_collections import ConfigDict

from cmu_jax.core import jit, provenance, rng
from cmu_jax.core.types import Batch, Method, Variables
from cmu_jax.studies.corrective import roster, trials, world
from cmu_jax.studies.corrective.trials import Case
from cmu_jax.studies.corrective.world import Scene, World
from cmu_jax.studies.engine import binding, recipes
from cmu_jax.studies.engine.study import Context
from cmu_jax.training import early_stopping, train


class Benchmark(NamedTuple):
  """Everything that all cells share.

  Attributes:
    worlds: by manipulation.
    digest: of the data.
    methods: by manipulation and name; the same objects for all seeds, so that
      they compile once.
  """

  worlds: dict[str, World]
  digest: str
  methods: dict[tuple[str, str], Method]


def load(config: ConfigDict, folder: pathlib.Path) -> Benchmark:
  """Loads the data and binds worlds and methods.

  Raises:
    UserError: bad data, or settings that do not fit them, in one line.
  """
  # All studies share this signature; this one reads no file of the folder.
  del folder
  dataset = binding.load(config).dataset
  worlds = {
    kind: world.bind_world(config, dataset, kind)
    for kind in config.manipulations
  }
  methods = {}
  for kind, shared in worlds.items():
    # All seeds and sizes have as many training images.
    scene = world.draw_scene(
      config, shared, config[kind].sizes[0], config.seeds[0]
    )
    size = scene.problem.truth.size
    # U* needs retraining in every run.
    for name in dict.fromkeys((trials.RETRAIN, *config.methods)):
      methods[kind, name] = roster.ENTRIES[name].make(config, shared, size)
  return Benchmark(worlds, provenance.dataset_digest(dataset), methods)


def get_scene(context: Context[Benchmark], case: Case) -> Scene:
  """Returns the data of a problem, from memory if they are recent."""
  shared = context.world.worlds[case.manipulation]
  return context.recent(
    'scene',
    case,
    lambda: world.draw_scene(context.config, shared, case.size, case.seed),
  )


def case_address(context: Context[Benchmark], case: Case) -> str:
  """Computes the address of a problem and of its original network."""
  return trials.case_address(context.config, context.world.digest, case)


def train_original(context: Context[Benchmark], case: Case) -> Variables:
  """Trains the network of a problem on S_tr, or reads it."""
  config, scene = context.config, get_scene(context, case)
  shared = context.world.worlds[case.manipulation]
  image = shared.inputs.eval(scene.reported.image[:1], None)
  # Runs once, so that optimizing it would take longer than running it.
  initialize = jit.compile_cheaply(shared.model.init)
  start = initialize(rng.fold_in(scene.key, 'init'), image)
  batch = scene.problem.train
  training = recipes.fit_options(config.train, batch.label.shape[0], 'train')
  return context.store.read_or_train(
    case_address(context, case),
    start,
    lambda checkpoint: (
      train.fit(
        rng.fold_in(scene.key, 'train'),
        shared.network,
        start,
        batch,
        training,
        train.Session(
          f'original, {case.manipulation} {case.size}, seed {case.seed}',
          checkpoint,
          watch=_watch(config, shared, scene),
        ),
      ).variables
    ),
  )


def get_original(context: Context[Benchmark], case: Case) -> Variables:
  """Returns the original network of a problem, from memory if it is recent."""
  return context.recent('original', case, lambda: train_original(context, case))


def _watch(
  config: ConfigDict, shared: World, scene: Scene
) -> tuple[early_stopping.BestEpoch, Batch] | None:
  """Selects the best epoch of an original network; None for the last."""
  if not config.best_epoch:
    return None
  count = scene.problem.train.label.shape[0]
  epoch = train.steps_per_epoch(count, config.train.batch_size)
  size = config.evaluate.batch_size
  best = early_stopping.BestEpoch(shared.network, epoch, size)
  return best, scene.problem.validation
