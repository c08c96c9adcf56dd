"""Settings that cannot be, refused before anything is loaded or trained.

What depends on the data (labels, image size, sizes of classes) is checked where
the data are known; what only depends on the config is checked here, so that a
mistake in the last stage does not cost the hours of the first ones.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cmu_jax.core import errors
from cmu_jax.data import normalisation
from cmu_jax.studies.engine import recipes

AUDITS = ('', 'rmia')
# A larger number of networks, steps or images is a typing error.
_LARGEST_COUNT = 10_000_000


def check_ranges(config: Any, intervals: Mapping[str, str]) -> None:
  """Refuses numbers outside their intervals.

  Args:
    config: every setting.
    intervals: field -> its interval, such as '(0, 1]' or '[2, inf)'. In a field
      of several numbers, each must lie in it.

  Raises:
    UserError: names the field, its value and the interval.
  """
  for field, interval in intervals.items():
    value: Any = config
    for name in field.split('.'):
      value = value[name]
    low, high = map(float, interval[1:-1].split(','))
    # The brackets of an interval tell whether its ends belong to it.
    bounds = [f'{"at least" if interval[0] == "[" else "above"} {low:.12g}']
    if math.isfinite(high):
      limit = 'at most' if interval[-1] == ']' else 'below'
      bounds.append(f'{limit} {high:.12g}')
    for number in (value,) if isinstance(value, int | float) else value:
      errors.check(
        low < number < high
        or (number == low and interval[0] == '[')
        or (number == high and interval[-1] == ']'),
        f'config.{field} is {value}; it must be {" and ".join(bounds)}',
      )
      errors.check(
        type(number) is not int or number <= _LARGEST_COUNT,
        f'config.{field} is {value}; it may be at most {_LARGEST_COUNT}',
      )


def check_names(field: str, names: Any, known: Iterable[str]) -> None:
  """Refuses names that are unknown, come twice, or none."""
  values = (names,) if isinstance(names, str) else tuple(names)
  errors.check(
    values and len(set(values)) == len(values),
    f'config.{field} is {values}: give one or more different ones',
  )
  for name in values:
    if name not in known:
      raise errors.unknown_name(f'config.{field}', name, known)


def check_seeds(config: ConfigDict, *fields: str) -> None:
  """Refuses seeds that no key can be made of, or that come twice."""
  for field in fields or ('seeds',):
    seeds = tuple(config[field])
    # Keys are made of 32 bits: a larger seed would equal a smaller one.
    errors.check(
      seeds
      and all(type(s) is int and 0 <= s < 2**32 for s in seeds)
      and len(set(seeds)) == len(seeds),
      f'config.{field} is {seeds}: give one or more different integers from 0 '
      'to 4294967295, for example 0,1,2',
    )


def check_tuning(config: ConfigDict, tuning: str, reported: str) -> None:
  """Refuses seeds or classes for choices that are reported on as well."""
  check_seeds(config, tuning, reported)
  # A choice on what is reported would flatter the method.
  shared = sorted(set(config[reported]) & set(config[tuning]))
  errors.check(
    not shared,
    f'config.{tuning} and config.{reported} share {shared}: what is chosen on '
    'them may not be reported on them',
  )


def check_network(config: ConfigDict, *trainings: str) -> None:
  """Refuses an input step, a network or trainings that cannot be.

  A config without `input` has an input step of its own.
  """
  if 'input' in config:
    mean, std = tuple(config.input.mean), tuple(config.input.std)
    errors.check(
      len(mean) == len(std) > 0,
      f'config.input.mean {mean} and config.input.std {std} differ in length '
      'or are empty; give both one value a channel',
    )
    errors.check(
      min(np.asarray(std)) > 0,
      f'config.input.std is {std}; every value must be above 0',
    )
    normalisation.check_range(mean, std, recipes.NORMALISATION)
  for name, value in config.model.items():
    errors.check(
      type(value) is not int or value >= 1,
      f'config.model.{name} is {value}; it must be at least 1',
    )
  for part in trainings:
    # The limits of a schedule do not depend on the number of images.
    recipes.fit_options(config[part], 1, part)


def check_label_audit(config: ConfigDict, classes: int) -> None:
  """Refuses an unknown audit, or an audit that needs more classes.

  Raises:
    UserError: names the field, its value and a remedy.
  """
  if config.audit not in AUDITS:
    raise errors.unknown_name('config.audit', config.audit, AUDITS[1:])
  errors.check(
    not config.audit or classes >= 3,
    f'config.audit={config.audit} offers two wrong labels of an image, but '
    f'there are {classes} classes: leave it out',
  )
