"""The methods of the corrective benchmark, bound to a config.

Names, variants and descriptions are those of `methods.study_names`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from cmu_jax import networks
from cmu_jax.core.types import Info, Method, Training
from cmu_jax.methods import detection, factories, study_names, wrappers
from cmu_jax.methods.cuts import alpha_search
from cmu_jax.methods.detection import wrapper
from cmu_jax.methods.unlabelled import information_maximization
from cmu_jax.studies.corrective.world import World
from cmu_jax.studies.engine import recipes
from cmu_jax.training import early_stopping, train


class Entry(NamedTuple):
  """A method of the benchmark.

  Attributes:
    make: (config, world, training images) -> Method.
    settings: the fields of the config that it reads: if another one changes,
      its cells stay valid.
  """

  make: Callable[[ConfigDict, World, int], Method]
  settings: tuple[str, ...] = ()


Options = Callable[[ConfigDict, World, int], Info]


def _find_factory(name: str) -> Callable[..., Method]:
  return factories.factory(study_names.find(study_names.CORRECTIVE, name))


def _fit_options(config: ConfigDict, part: str, size: int) -> Training:
  """Reads the training of a part, with batches of at most `size` images."""
  training = recipes.fit_options(config[part], size, part)
  # All batches are full: a smaller training set has smaller ones.
  return training._replace(batch_size=min(training.batch_size, size))


def _training_entry(
  name: str,
  part: str = 'unlearn',
  fields: tuple[str, ...] = (),
  options: Options = lambda config, world, size: {},
  best_epoch: bool = False,
) -> Entry:
  """Makes the entry of a method that trains.

  Args:
    name: in the benchmark.
    part: the settings of its training.
    fields: others that it reads.
    options: of its factory.
    best_epoch: whether its published code keeps the best epoch.
  """

  def make(config: ConfigDict, world: World, size: int) -> Method:
    arguments = options(config, world, size)
    if best_epoch and config.best_epoch:
      interval = train.steps_per_epoch(size, config[part].batch_size)
      arguments['keep'] = early_stopping.BestEpoch(
        world.network, interval, config.evaluate.batch_size
      )
    training = _fit_options(config, part, size)
    return _find_factory(name)(world.network, training, **arguments)

  return Entry(make, (part, *fields))


def _freeze_options(config: ConfigDict, world: World, size: int) -> Info:
  """Names the modules that methods of the last layers leave as they are."""
  # Factories of options share their signature.
  del world, size
  options = dict(config.model)
  name = options.pop('name')
  return {'frozen': networks.frozen_modules(name, config.layers, **options)}


def _selection_options(config: ConfigDict, world: World, size: int) -> Info:
  """Selects alpha by the published rule of CUTS, not by the benchmark's."""
  del config, size
  kind: alpha_search.Kind = (
    'poison' if world.manipulation == 'poison' else 'label_noise'
  )
  return {'selection': alpha_search.Selection(kind)}


def _dampening_entry(name: str, kinds: bool = True) -> Entry:
  """Makes the entry of a method on importances of S_f and of the rest."""

  def make(config: ConfigDict, world: World, size: int) -> Method:
    settings = config.ssd
    # POTION has a kind of importance of its own.
    kind = {'kind': settings.importance} if kinds else {}
    return _find_factory(name)(
      world.network,
      denominator=settings.retain,
      batch_size=min(settings.batch_size, size),
      augment=settings.augment,
      **kind,
    )

  return Entry(make, ('ssd',))


def _make_sap(config: ConfigDict, world: World, size: int) -> Method:
  del config
  # A smoke run has fewer images than the method takes by default.
  return _find_factory('sap')(world.network, samples=min(1000, size))


def _make_information_maximization(
  config: ConfigDict, world: World, size: int
) -> Method:
  """Reads the images of the retain set, whose labels it does not know."""
  del config
  return _find_factory('information_maximization')(
    world.network, information_maximization.make_training(size)
  )


def _make_retrain_twice(config: ConfigDict, world: World, size: int) -> Method:
  retraining = ENTRIES['rewod'].make(config, world, size)
  return wrappers.retrain_twice(retraining, world.network)


def _make_by_labels(config: ConfigDict, world: World, size: int) -> Method:
  """Leaves S_f out, or corrects it if it has several labels."""
  # One point of its grid: a composed method is tried once.
  exchanged = _training_entry(
    'relabel_second', options=lambda *_: {'weights': (1.0,)}
  )
  return wrappers.by_labels(
    ENTRIES['rewod_twice'].make(config, world, size),
    exchanged.make(config, world, size),
  )


def _make_when_needed(config: ConfigDict, world: World, size: int) -> Method:
  """Retrains without S_f, with more suspects if that does not suffice."""
  retraining, fallback = (
    ENTRIES[name].make(config, world, size)
    for name in ('rewod', 'clustering_by_labels')
  )
  return wrappers.when_needed(retraining, fallback, world.network)


def _make_bn_recalibration(
  config: ConfigDict, world: World, size: int
) -> Method:
  del config, size
  return _find_factory('bn_recalibration')(world.network)


def _detection_entry(detector: str, name: str) -> Entry:
  """Makes the entry of a method whose forget set a detector enlarges."""

  def make(config: ConfigDict, world: World, size: int) -> Method:
    return wrapper.with_detector(
      ENTRIES[name].make(config, world, size),
      detection.DETECTORS[detector](),
      world.network,
      batch_size=config.evaluate.batch_size,
      extract=detection.extractor_of(detector),
    )

  return Entry(make, ENTRIES[name].settings)


ENTRIES: dict[str, Entry] = {
  'rewod': _training_entry('rewod', 'train', best_epoch=True),
  'rewod_twice': Entry(_make_retrain_twice, ('train',)),
  'cf': _training_entry('cf', best_epoch=True),
  'ssd': _dampening_entry('ssd'),
  'badt': _training_entry(
    'badt',
    fields=('badt_reduction',),
    options=lambda config, *_: {'reduction': config.badt_reduction},
    best_epoch=True,
  ),
  'scrub': _training_entry(
    'scrub',
    'scrub',
    ('scrub_ascent_steps',),
    lambda config, *_: {'msteps': config.scrub_ascent_steps},
    best_epoch=True,
  ),
  'eu_k': _training_entry(
    'eu_k', 'unlearn', ('layers',), _freeze_options, best_epoch=True
  ),
  'cf_k': _training_entry(
    'cf_k', 'unlearn', ('layers',), _freeze_options, best_epoch=True
  ),
  'scrub_original': _training_entry('scrub_original', 'scrub'),
  'assd': _dampening_entry('assd'),
  'potion': _dampening_entry('potion', kinds=False),
  'neggrad_plus': _training_entry('neggrad_plus'),
  'npo': _training_entry('npo'),
  'gradient_ascent': _training_entry('gradient_ascent', 'ascent'),
  'random_label': _training_entry('random_label'),
  'salun': _training_entry('salun'),
  'l1_sparse': _training_entry('l1_sparse'),
  'relabel_second': _training_entry('relabel_second'),
  'by_labels': Entry(_make_by_labels, ('train', 'unlearn')),
  'sap': Entry(_make_sap),
  'information_maximization': Entry(_make_information_maximization),
  'cuts': _training_entry('cuts', 'proxy_train', (), _selection_options),
  'cuts_grid': _training_entry('cuts_grid', 'proxy_train'),
  'cuts_simplex': _training_entry('cuts_simplex', 'proxy_train'),
  'amun': _training_entry('amun'),
  'amun_no_forget': _training_entry('amun_no_forget'),
  'boundary_shrink': _training_entry('boundary_shrink'),
  'fine_pruning': _training_entry('fine_pruning'),
  'bn_recalibration': Entry(_make_bn_recalibration),
}
# They read the entries above, hence their own statement.
ENTRIES |= {
  f'{detector}_{name}': _detection_entry(detector, name)
  for detector in detection.DETECTORS
  for name in ('rewod', 'cf', 'ssd', 'relabel_second', 'by_labels')
} | {'clustering_when_needed': Entry(_make_when_needed, ('train', 'unlearn'))}
# Any other method trains as the section `unlearn` of the config says.
ENTRIES |= {
  name: _training_entry(name)
  for name in study_names.NAMES[study_names.CORRECTIVE].values()
  if name != 'none' and name not in ENTRIES
}


def information(method: Method) -> str:
  """Names the inputs of a method besides the weights."""
  return study_names.information(study_names.CORRECTIVE, method.needs)


def settings_of(config: ConfigDict, name: str) -> dict[str, Any]:
  """Selects the part of the config that a method's cells depend on."""
  return {field: config[field] for field in ENTRIES[name].settings}
