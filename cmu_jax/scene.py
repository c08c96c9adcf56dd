"""What one seed of an experiment works on: data, corruption, proxy.

Everything is drawn here, once and before any training; afterwards no stage
touches the dataset again. The proxy is held out before the corruption.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cmu_jax import (
  checks,
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


def _limited(
  field: str, batch: Batch, limit: int, names: tuple[str, ...]
) -> Batch:
  """At most `limit` images, the same share of every class; 0 keeps all."""
  count = batch.label.shape[0]
  if not limit or limit >= count:
    return batch
  sizes = np.bincount(np.asarray(batch.label), minlength=len(names))
  fewest = int(sizes.argmin())
  least = math.ceil(count / sizes[fewest])
  errors.check(
    limit >= least,
    f"config.{field} {limit} leaves no image of class '{names[fewest]}'; use "
    f'{least} or more, or 0 for all',
  )
  return splits.hold_out(rng.named(0, field), batch, limit / count, len(names))[
    0
  ]


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
  sources = [source.strip() for source, _ in pairs]
  errors.check(
    len(set(sources)) == len(sources),
    f"config.corruption.class_map '{text}' sends a class to two others; give "
    'every class before a colon once',
  )
  return class_maps.class_map({a.strip(): b.strip() for a, b in pairs}, names)


def stage(config: ConfigDict) -> Stage:
  """Loads the data and binds the network.

  Raises:
    UserError: bad data or settings, in one line.
  """
  checks.check(config)
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
  names = dataset.class_names
  dataset = dataset._replace(
    train=_limited('train_limit', dataset.train, config.train_limit, names),
    test=_limited('test_limit', dataset.test, config.test_limit, names),
  )
  shape = dataset.train.image.shape[1:]
  trigger = _trigger(config, shape)
  settings = config.input
  side = settings.resize or min(shape[:2])
  errors.check(
    settings.pad < side,
    f'config.input.pad is {settings.pad}, but the images have a side of {side} '
    'pixels; choose a smaller one',
  )
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
  return Stage(dataset, model, pixels, trigger, _class_map(config, names))


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
  if held >= 2 * classes:
    return
  least = smallest_fraction(label, classes)
  remedy = (
    f'use --config.proxy_fraction={least:g} or more'
    if least < 1
    else f'the {label.size} training images are too few'
  )
  raise errors.UserError(
    f'config.proxy_fraction {config.proxy_fraction} holds out {held} images '
    f'for {classes} classes; at least {2 * classes} are needed: {remedy}'
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
    errors.check(
      drawn.mask.any() or not config.noise_rate,
      f'config.noise_rate {config.noise_rate} poisons none of the '
      f'{batch.label.size} training images; use {1 / batch.label.size:.2g} or '
      'more, or 0 for a run without poison',
    )
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
