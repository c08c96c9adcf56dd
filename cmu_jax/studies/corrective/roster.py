"""The methods of the benchmark by name. A new one is a line here."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from cmu_jax import networks
from cmu_jax.core.types import Info, Method, Training
from cmu_jax.methods import (
  amun,
  ascent,
  detection,
  relabelling,
  retraining,
  teachers,
  union_training,
  wrappers,
)
from cmu_jax.methods.backdoor import pruning
from cmu_jax.methods.cuts import alpha_search, forget_proxy, task_simplex
from cmu_jax.methods.dampening import assd, potion, ssd
from cmu_jax.methods.detection import wrapper
from cmu_jax.methods.projection import sap
from cmu_jax.studies.corrective.world import World
from cmu_jax.studies.engine import recipes
from cmu_jax.training import early_stopping, train

_WORDS = {
  'retain': 'S_tr without S_f',
  'forget': 'S_f',
  'proxy': 'corrupted proxy',
  'clean_proxy': 'clean proxy',
  'validation': 'validation labels',
}


class Entry(NamedTuple):
  """A method of the benchmark.

  Attributes:
    make: (config, world, training images) -> Method.
    settings: the fields of the config that it reads: when another one
      changes, its cells stand.
  """

  make: Callable[[ConfigDict, World, int], Method]
  settings: tuple[str, ...] = ()


def _training(config: ConfigDict, part: str, size: int) -> Training:
  """The training of a part of the config, with batches of at most `size`."""
  training = recipes.fit_options(config[part], size, part)
  return training._replace(batch_size=min(training.batch_size, size))


def _ending(config: ConfigDict, one: World, part: str, size: int) -> Info:
  """Where a training ends: at its best epoch, if that is asked for."""
  if not config.best_epoch:
    return {}
  epoch = train.steps_per_epoch(size, config[part].batch_size)
  batch = config.evaluate.batch_size
  return {'keep': early_stopping.BestEpoch(one.network, epoch, batch)}


def _epochs(factory: Callable[..., Method], part: str = 'unlearn') -> Entry:
  """As `_tuned`, of a method whose published code keeps the best epoch."""

  def make(config: ConfigDict, one: World, size: int) -> Method:
    ending = _ending(config, one, part, size)
    return factory(one.network, _training(config, part, size), **ending)

  return Entry(make, (part,))


def _tuned(factory: Callable[..., Method], part: str = 'unlearn') -> Entry:
  """A method whose only settings are those of one training."""

  def make(config: ConfigDict, one: World, size: int) -> Method:
    return factory(one.network, _training(config, part, size))

  return Entry(make, (part,))


def _partial(factory: Callable[..., Method]) -> Entry:
  """A method that trains the last layers only."""

  def make(config: ConfigDict, one: World, size: int) -> Method:
    options = dict(config.model)
    name = options.pop('name')
    frozen = networks.frozen_modules(name, config.layers, **options)
    training = _training(config, 'unlearn', size)
    ending = _ending(config, one, 'unlearn', size)
    return factory(one.network, training, frozen=frozen, **ending)

  return Entry(make, ('unlearn', 'layers'))


def _dampening(factory: Callable[..., Method], kinds: bool = True) -> Entry:
  """A method on importances of S_f and of the rest."""

  def make(config: ConfigDict, one: World, size: int) -> Method:
    chosen = config.ssd
    kind = {'kind': chosen.importance} if kinds else {}
    return factory(
      one.network,
      denominator=chosen.retain,
      batch_size=min(chosen.batch_size, size),
      augment=chosen.augment,
      **kind,
    )

  return Entry(make, ('ssd',))


def _sap(config: ConfigDict, one: World, size: int) -> Method:
  del config
  return sap.sap(one.network, samples=min(1000, size))


def _badt(config: ConfigDict, one: World, size: int) -> Method:
  return teachers.badt(
    one.network,
    _training(config, 'unlearn', size),
    reduction=config.badt_reduction,
    **_ending(config, one, 'unlearn', size),
  )


def _scrub(config: ConfigDict, one: World, size: int) -> Method:
  return teachers.scrub(
    one.network,
    _training(config, 'scrub', size),
    msteps=config.scrub_ascent_steps,
    **_ending(config, one, 'scrub', size),
  )


def _cuts(published: bool) -> Entry:
  """CUTS with S_f as proxy: c by its own rule, or by the benchmark's."""

  def make(config: ConfigDict, one: World, size: int) -> Method:
    poisoned = one.manipulation == 'poison'
    rule = alpha_search.Selection('poison' if poisoned else 'label_noise')
    return forget_proxy.cuts_forget(
      one.network,
      _training(config, 'proxy_train', size),
      selection=rule if published else None,
    )

  return Entry(make, ('proxy_train',))


def _rewod_twice(config: ConfigDict, one: World, size: int) -> Method:
  once = ENTRIES['rewod'].make(config, one, size)
  return wrappers.retrain_twice(once, one.network)


def _by_labels(config: ConfigDict, one: World, size: int) -> Method:
  """S_f is left out, or put right where it has several labels."""
  exchanged = functools.partial(relabelling.relabel_second, weights=(1.0,))
  return wrappers.by_labels(
    ENTRIES['rewod_twice'].make(config, one, size),
    _tuned(exchanged).make(config, one, size),
  )


def _detected(detector: str, inner: str) -> Entry:
  """A method that is told more bad samples than were identified."""

  def make(config: ConfigDict, one: World, size: int) -> Method:
    return wrapper.with_detector(
      ENTRIES[inner].make(config, one, size),
      detection.DETECTORS[detector](),
      one.network,
      batch_size=config.evaluate.batch_size,
      extract=detection.extractor_of(detector),
    )

  return Entry(make, ENTRIES[inner].settings)


def _when_needed(config: ConfigDict, one: World, size: int) -> Method:
  """Retraining without S_f, and more suspects where that is not enough."""
  once = ENTRIES['rewod'].make(config, one, size)
  more = ENTRIES['clustering_by_labels'].make(config, one, size)
  return wrappers.when_needed(once, more, one.network)


def _bn_recalibration(config: ConfigDict, one: World, size: int) -> Method:
  del config, size
  return pruning.bn_recalibration(one.network)


ENTRIES: dict[str, Entry] = {
  'rewod': _epochs(retraining.retrain, 'train'),
  'rewod_twice': Entry(_rewod_twice, ('train',)),
  'cf': _epochs(retraining.finetune),
  'ssd': _dampening(ssd.ssd),
  'badt': Entry(_badt, ('unlearn', 'badt_reduction')),
  'scrub': Entry(_scrub, ('scrub', 'scrub_ascent_steps')),
  'eu_k': _partial(retraining.eu_k),
  'cf_k': _partial(retraining.cf_k),
  'scrub_original': _tuned(teachers.scrub_original, 'scrub'),
  'assd': _dampening(assd.assd),
  'potion': _dampening(potion.potion, kinds=False),
  'neggrad_plus': _tuned(ascent.neggrad_plus),
  'npo': _tuned(ascent.npo),
  'gradient_ascent': _tuned(ascent.gradient_ascent, 'ascent'),
  'random_label': _tuned(relabelling.random_label),
  'salun': _tuned(relabelling.salun),
  'l1_sparse': _tuned(retraining.l1_sparse),
  'relabel_second': _tuned(relabelling.relabel_second),
  'by_labels': Entry(_by_labels, ('train', 'unlearn')),
  'sap': Entry(_sap),
  'cuts': _cuts(published=True),
  'cuts_grid': _cuts(published=False),
  'cuts_simplex': _tuned(task_simplex.cuts_simplex, 'proxy_train'),
  'amun': _tuned(amun.amun),
  'amun_no_forget': _tuned(functools.partial(amun.amun, sets=amun.NO_FORGET)),
  'boundary_shrink': _tuned(union_training.boundary_shrink),
  'fine_pruning': _tuned(pruning.fine_pruning),
  'bn_recalibration': Entry(_bn_recalibration),
}
ENTRIES |= {
  f'{detector}_{inner}': _detected(detector, inner)
  for detector in detection.DETECTORS
  for inner in ('rewod', 'cf', 'ssd', 'relabel_second', 'by_labels')
} | {'clustering_when_needed': Entry(_when_needed, ('train', 'unlearn'))}


def information(method: Method) -> str:
  """What a method sees besides the weights, in words."""
  return ' + '.join(['weights', *(_WORDS[name] for name in method.needs)])


def settings_of(config: ConfigDict, name: str) -> dict[str, Any]:
  """The part of the config that a method's cells depend on."""
  return {field: config[field] for field in ENTRIES[name].settings}
