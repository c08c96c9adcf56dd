"""What all cells of a sweep share: data, networks, methods, and originals."""

import pathlib
from typing import NamedTuple

from ml_collections import ConfigDict

from cmu_jax.core import jit, provenance, rng, store
from cmu_jax.core.types import Batch, Dataset, Method, Variables
from cmu_jax.studies.corrective import cells, roster, settings, world
from cmu_jax.studies.corrective.cells import Case
from cmu_jax.studies.corrective.world import Scene, World
from cmu_jax.studies.engine import binding, recipes
from cmu_jax.training import early_stopping, train


class Stage(NamedTuple):
  """What all cells share, and where they are kept.

  Attributes:
    config: every setting.
    folder: the work folder.
    worlds: by manipulation.
    summed: digest of the data.
    methods: by manipulation and name; the same objects for all seeds, so that
      they compile once.
  """

  config: ConfigDict
  folder: pathlib.Path
  worlds: dict[str, World]
  summed: str
  methods: dict[tuple[str, str], Method]


def bind(config: ConfigDict, folder: pathlib.Path, dataset: Dataset) -> Stage:
  """Binds everything once.

  Raises:
    UserError: settings that do not fit the data.
  """
  made = {
    kind: world.bind_world(config, dataset, kind)
    for kind in config.manipulations
  }
  methods = {}
  for kind, one in made.items():
    first = world.draw_scene(
      config, one, config[kind].sizes[0], config.seeds[0]
    )
    size = first.problem.truth.size
    for name in dict.fromkeys(('rewod', *config.methods)):
      methods[kind, name] = roster.ENTRIES[name].make(config, one, size)
  return Stage(
    config, folder, made, provenance.dataset_digest(dataset), methods
  )


def original(place: Stage, case: Case, scene: Scene) -> Variables:
  """The network as trained on S_tr, from its checkpoint if it is done."""
  config, one = place.config, place.worlds[case.manipulation]
  name = cells.case_address(config, place.summed, case)
  image = one.inputs.eval(scene.reported.image[:1], None)
  batch = scene.problem.train
  options = recipes.fit_options(config.train, batch.label.shape[0], 'train')
  return train.fit(
    rng.fold_in(scene.key, 'train'),
    one.network,
    jit.compile_cheaply(one.model.init)(rng.fold_in(scene.key, 'init'), image),
    batch,
    checkpoint=store.npz_checkpoint(
      place.folder, name, config.checkpoint_seconds
    ),
    title=f'original, {case.manipulation} {case.size}, seed {case.seed}',
    watch=_watch(config, one, scene),
    training=options,
  ).variables


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


def scene_of(place: Stage, case: Case) -> Scene:
  """What a case works on."""
  one = place.worlds[case.manipulation]
  return world.draw_scene(place.config, one, case.size, case.seed)


def load(config: ConfigDict, folder: pathlib.Path) -> Stage:
  """Checks the settings, loads the data and binds everything.

  Raises:
    UserError: bad data or settings, in one line.
  """
  settings.check(config)
  return bind(config, folder, binding.load(config).dataset)
