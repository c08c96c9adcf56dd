"""Settings that cannot be, refused before anything is loaded or trained.

What depends on the data (labels, image size, sizes of classes) is checked where
the data are known; what only depends on the config is checked here, so that a
mistake in the last stage does not cost the hours of the first ones.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cmu_jax.core import errors
from cmu_jax.data import corruption
from cmu_jax.data.corruption import triggers
from cmu_jax.studies.engine import recipes

_TASKS = ('label_noise', 'poison')
_HEAD_INPUTS = ('raw', 'normalized')
_RULES = ('published', 'safe')
_TRAININGS = ('train', 'proxy_train', 'finetune')

AUDITS = ('', 'rmia')
_AT_LEAST = {
  'proxy_draws': 1,
  'evaluate.points': 2,
  'evaluate.batch_size': 1,
  'evaluate.path_images': 0,
  'image_size': 0,
  'train_limit': 0,
  'test_limit': 0,
  'input.resize': 0,
  'input.pad': 0,
  'select.patience': 0,
  'select.folds': 0,
  'select.replicates': 2,
  'checkpoint_seconds': 0,
}
# Beyond these nothing gets better, and memory runs out.
_AT_MOST = {'proxy_draws': 1000, 'select.replicates': 100_000}
_SHARES = ('select.class_share', 'select.threshold')


def _value(config: ConfigDict, field: str) -> Any:
  for name in field.split('.'):
    config = config[name]
  return config


def _ranges(config: ConfigDict) -> None:
  """Numbers that lie outside what they can mean."""
  for field, least in _AT_LEAST.items():
    value = _value(config, field)
    errors.check(
      value >= least, f'config.{field} is {value}; it must be at least {least}'
    )
  for field, most in _AT_MOST.items():
    value = _value(config, field)
    errors.check(
      value <= most, f'config.{field} is {value}; it must be at most {most}'
    )
  for field in _SHARES:
    value = _value(config, field)
    errors.check(
      0 <= value <= 1, f'config.{field} is {value}; give a share from 0 to 1'
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


def _names(config: ConfigDict) -> None:
  """Words that are not among those that are known."""
  kind, task = config.corruption.kind, config.task
  _known('task', task, _TASKS)
  _known(
    f'corruption.kind of task {task}',
    kind,
    [name for name, one in corruption.KINDS.items() if one.task == task],
  )
  _known('corruption.trigger', config.corruption.trigger, triggers.KINDS)
  _known('select.head_input', config.select.head_input, _HEAD_INPUTS)
  _known('select.rule', config.select.rule, _RULES)


def _known(field: str, name: str, known: Iterable[str]) -> None:
  if name not in known:
    raise errors.unknown_name(f'config.{field}', name, known)


def _folds(settings: ConfigDict) -> None:
  folds, confidence = settings.folds, settings.confidence
  errors.check(
    folds >= 2 or (folds == 0 and settings.rule == 'published'),
    f'config.select.folds is {folds} with select.rule={settings.rule}; use 2 '
    'or more, or 0 with select.rule=published',
  )
  errors.check(
    0 < confidence < 1,
    f'config.select.confidence is {confidence}; it must lie between 0 and 1',
  )


def names(field: str, given: Any, known: Iterable[str]) -> None:
  """Refuses names that are unknown, come twice, or none.

  Args:
    field: of the config, without 'config.'.
    given: one name, or several.
    known: every name there is.
  """
  values = (given,) if isinstance(given, str) else tuple(given)
  errors.check(
    values and len(set(values)) == len(values),
    f'config.{field} is {values}: give one or more different ones',
  )
  for name in values:
    _known(field, name, known)


def seeds(given: tuple, field: str = 'seeds') -> None:
  """Refuses seeds that no key can be made of, or that come twice."""
  # Keys are made of 32 bits: a larger seed would equal a smaller one.
  errors.check(
    given
    and all(type(s) is int and 0 <= s < 2**32 for s in given)
    and len(set(given)) == len(given),
    f'config.{field} is {given}: give one or more different integers from 0 to '
    '4294967295, for example 0,1,2',
  )


def _trigger(margin: tuple) -> None:
  errors.check(
    len(margin) == 2 and all(type(m) is int and m >= 0 for m in margin),
    f'config.corruption.trigger_margin is {margin}; give rows and columns, '
    'both 0 or more, for example 2,2',
  )


def statistics(mean: tuple, std: tuple) -> None:
  """Refuses a mean and a standard deviation of pixels that do not fit."""
  errors.check(
    len(mean) == len(std) > 0,
    f'config.input.mean {mean} and config.input.std {std} differ in length or '
    'are empty; give both one value a channel',
  )
  errors.check(
    min(np.asarray(std)) > 0,
    f'config.input.std is {std}; every value must be above 0',
  )


def model(options: ConfigDict) -> None:
  """Refuses options of a network that are below one."""
  for name, value in options.items():
    errors.check(
      type(value) is not int or value >= 1,
      f'config.model.{name} is {value}; it must be at least 1',
    )


def label_audit(config: ConfigDict, classes: int) -> None:
  """Refuses an unknown audit, or an audit that needs more classes.

  Raises:
    UserError: names the field, its value and what would do.
  """
  if config.audit not in AUDITS:
    raise errors.unknown_name('config.audit', config.audit, AUDITS[1:])
  errors.check(
    not config.audit or classes >= 3,
    f'config.audit={config.audit} offers two wrong labels of an image, but '
    f'there are {classes} classes: leave it out',
  )


def check(config: ConfigDict) -> None:
  """Refuses settings that cannot be, whatever the data are.

  Raises:
    UserError: names the field, its value and what would do.
  """
  _names(config)
  seeds(tuple(config.seeds))
  _ranges(config)
  _folds(config.select)
  _trigger(tuple(config.corruption.trigger_margin))
  statistics(tuple(config.input.mean), tuple(config.input.std))
  model(config.model)
  for part in _TRAININGS:
    # A schedule's own limits do not depend on how many images there are.
    recipes.fit_options(config[part], 1, part)
