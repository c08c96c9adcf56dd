"""What one seed of an experiment works on: data, corruption, proxy.

Everything is drawn here, once and before any training; afterwards no stage
touches the dataset again. The proxy is held out before the corruption.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cmu_jax import (
  class_maps,
  corruption,
  corruption_record,
  data,
  errors,
  inputs,
  models,
  proxy,
  rng,
  splits,
  triggers,
)
from cmu_jax.types import (
  Batch,
  Corruption,
  Dataset,
  Info,
  InputStep,
  Model,
  PRNGKey,
  Proxy,
  Trigger,
)


class Stage(NamedTuple):
  """What all seeds share.

  Attributes:
    dataset: train and test split, shrunk if the config says so.
    model: the network.
    inputs: raw pixels to network input, trigger included.
    trigger: the backdoor, or None.
    class_map: of asymmetric noise, or None.
  """

  dataset: Dataset
  model: Model
  inputs: InputStep
  trigger: Trigger | None
  class_map: dict[int, int] | None


class Scene(NamedTuple):
  """What one seed works on.

  Attributes:
    key: of this seed.
    train: what the model is trained on: corrupted labels, stamps.
    clean: its uncorrupted part, for the oracle.
    proxy: what CUTS sees.
    clean_proxy: the same images with true labels, for fine-tuning.
    record: a small manifest that reproduces the corruption.
  """

  key: PRNGKey
  train: Batch
  clean: Batch
  proxy: Proxy
  clean_proxy: Batch
  record: Info


def _limited(key: PRNGKey, batch: Batch, limit: int, classes: int) -> Batch:
  """At most `limit` images, the same share of every class; 0 keeps all."""
  count = batch.label.shape[0]
  if not limit or limit >= count:
    return batch
  return splits.hold_out(key, batch, limit / count, classes)[0]


def _trigger(config: ConfigDict, shape: tuple[int, ...]) -> Trigger | None:
  if config.task != 'poison':
    return None
  settings = config.corruption
  return triggers.badnet(
    shape[0],
    shape[1],
    percent=settings.trigger_percent,
    margin=tuple(settings.trigger_margin),
  )


def _class_map(
  config: ConfigDict, names: tuple[str, ...]
) -> dict[int, int] | None:
  """The map of asymmetric noise: a published one, or pairs '3:5,5:3'."""
  text = config.corruption.class_map
  if config.corruption.kind != 'asymmetric':
    return None
  if ':' not in text:
    return class_maps.class_map(text, names)
  pairs = [pair.strip().split(':') for pair in text.split(',')]
  errors.check(
    all(len(pair) == 2 for pair in pairs),
    f"config.corruption.class_map is '{text}'; write pairs such as '3:5,5:3'",
  )
  index = lambda name: int(name) if name.isdigit() else name
  return class_maps.class_map({index(a): index(b) for a, b in pairs}, names)


def check(config: ConfigDict) -> None:
  """Refuses settings that cannot be, before anything is loaded.

  Raises:
    UserError: names the field.
  """
  tasks = {'label_noise': ('symmetric', 'asymmetric'), 'poison': ('poison',)}
  if config.task not in tasks:
    raise errors.unknown('config.task', config.task, tasks)
  if config.corruption.kind not in tasks[config.task]:
    raise errors.unknown(
      f'config.corruption.kind of task {config.task}',
      config.corruption.kind,
      tasks[config.task],
    )
  seeds = list(config.seeds)
  errors.check(
    seeds and len(set(seeds)) == len(seeds) and min(seeds) >= 0,
    f'config.seeds is {tuple(seeds)}: give one or more different integers, 0 '
    'or above, for example 0,1,2',
  )
  errors.check(
    0 <= config.noise_rate < 1,
    f'config.noise_rate is {config.noise_rate}; it must be at least 0 and '
    'below 1',
  )
  errors.check(
    0 < config.proxy_fraction < 1,
    f'config.proxy_fraction is {config.proxy_fraction}; it must lie between '
    '0 and 1',
  )
  errors.check(
    config.proxy_draws >= 1,
    f'config.proxy_draws is {config.proxy_draws}; it must be at least 1',
  )
  errors.check(
    config.evaluate.points >= 2,
    f'config.evaluate.points is {config.evaluate.points}; at least 2',
  )


def stage(config: ConfigDict) -> Stage:
  """Loads the data and binds the network.

  Raises:
    UserError: bad data or settings, in one line.
  """
  check(config)
  dataset = data.load(
    config.dataset,
    data_dir=config.data_dir,
    download=config.download,
    image_size=config.image_size or None,
  )
  classes = dataset.num_classes
  errors.check(
    0 <= config.corruption.target < classes,
    f'config.corruption.target is {config.corruption.target}, but '
    f'{dataset.name} has classes 0 to {classes - 1}',
  )
  dataset = dataset._replace(
    train=_limited(
      rng.named(0, 'train_limit'), dataset.train, config.train_limit, classes
    ),
    test=_limited(
      rng.named(0, 'test_limit'), dataset.test, config.test_limit, classes
    ),
  )
  shape = dataset.train.image.shape[1:]
  trigger = _trigger(config, shape)
  settings = config.input
  pixels = inputs.make(
    tuple(settings.mean),
    tuple(settings.std),
    trigger=trigger,
    pad=settings.pad,
    flip=settings.flip,
    resize=(settings.resize, settings.resize) if settings.resize else None,
  )
  seen = pixels.eval(dataset.train.image[:1], None).shape[1:]
  options = dict(config.model)
  model = models.make(options.pop('name'), classes, seen, **options)
  return Stage(
    dataset, model, pixels, trigger, _class_map(config, dataset.class_names)
  )


def smallest_fraction(label: np.ndarray, classes: int) -> float:
  """The smallest proxy fraction that holds out at least 2 images a class."""
  sizes = np.bincount(label, minlength=classes)
  candidates = np.unique(
    np.concatenate([np.arange(1, 2 * classes + 1) / n for n in sizes if n])
  )
  for fraction in candidates[candidates <= 1]:
    share = float(np.ceil(fraction * 1e4) / 1e4)
    if sum(splits.floor_share(share, int(n)) for n in sizes) >= 2 * classes:
      return share
  return 1.0


def _check_proxy(config: ConfigDict, label: np.ndarray, classes: int) -> None:
  held = sum(
    splits.floor_share(config.proxy_fraction, int(n))
    for n in np.bincount(label, minlength=classes)
  )
  errors.check(
    held >= 2 * classes,
    f'config.proxy_fraction {config.proxy_fraction} holds out {held} images '
    f'for {classes} classes; at least {2 * classes} are needed: use '
    f'--config.proxy_fraction={smallest_fraction(label, classes):g} or more',
  )


def _corrupt(
  config: ConfigDict, world: Stage, key: PRNGKey, batch: Batch
) -> tuple[Corruption, Info]:
  """The corruption of the training split and its manifest."""
  kind = config.corruption.kind
  facts: Info = {'rate': config.noise_rate}
  if kind == 'symmetric':
    facts['num_classes'] = world.dataset.num_classes
    drawn = corruption.symmetric(key, batch.label, **facts)
  elif kind == 'asymmetric':
    facts['class_map'] = world.class_map
    drawn = corruption.asymmetric(key, batch.label, **facts)
  else:
    assert world.trigger is not None  # `_trigger` made one for this task
    facts['target'] = config.corruption.target
    drawn = corruption.poison(key, batch.label, trigger=world.trigger, **facts)
  return drawn, corruption_record.manifest(drawn, kind, key, **facts)


def scene(config: ConfigDict, world: Stage, seed: int) -> Scene:
  """Draws hold-out, corruption and proxy of one seed.

  Raises:
    UserError: a proxy of fewer than two images a class; names the smallest
      fraction that works.
  """
  key = rng.named(seed)
  classes, settings = world.dataset.num_classes, config.corruption
  _check_proxy(config, np.asarray(world.dataset.train.label), classes)
  pool, rest = splits.hold_out(
    rng.named(key, 'hold_out'),
    world.dataset.train,
    config.proxy_fraction,
    classes,
  )
  drawn, record = _corrupt(config, world, rng.named(key, 'corrupt'), rest)
  corrupted = corruption.apply(drawn, rest)
  clean = splits.take(rest, jnp.flatnonzero(~drawn.mask))
  return Scene(
    key,
    corrupted,
    clean,
    proxy.make_proxy(
      rng.named(key, 'proxy'),
      settings.kind,
      pool,
      config.proxy_draws,
      classes,
      class_map=world.class_map,
      trigger=world.trigger,
      target=settings.target,
    ),
    proxy.clean_proxy(settings.kind, pool, class_map=world.class_map),
    record,
  )
