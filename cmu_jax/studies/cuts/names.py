"""How methods and numbers are called and ordered wherever people read them."""

from collections.abc import Iterable
from typing import NamedTuple


class Method(NamedTuple):
  """How a method is presented.

  Attributes:
    label: its name in tables and figures.
    note: what sets it apart from a method that could be used as it is.
  """

  label: str
  note: str = ''


_FIRST = {
  'corrupted': Method('do nothing'),
  'cuts': Method('CUTS'),
  'cuts_safe': Method('CUTS, safe alpha', 'may leave the model as it is'),
  'cuts_simplex': Method('CUTS, simplex', 'mean of one network a proxy draw'),
  'cuts_best_alpha': Method('CUTS, best alpha', 'diagnostic: uses test labels'),
  'random_vector': Method('random vector', 'control'),
  'random_vector_uniform': Method('random vector, uniform', 'control'),
  'distill_projected': Method('projected distillation', 'keeps the class'),
  'distill_both': Method('distillation, both copies', 'no projection'),
  'distill_untriggered': Method('distillation, triggered copies', 'baseline'),
  'finetune_clean_proxy': Method(
    'fine-tune, clean proxy', 'needs clean labels'
  ),
}
_LAST = {'oracle': Method('oracle', 'needs the clean training data')}

METRICS = {
  'test_accuracy': 'test accuracy',
  'recovery_percent': 'recovery [%]',
  'attack_success_rate': 'attack success',
  'target_class_accuracy': 'target class acc.',
  'label_recovery_rate': 'label recovery',
}


def method(name: str, task: str = 'label_noise') -> Method:
  """The presentation of a method; unknown ones keep their own name."""
  if name == 'cuts_best_alpha' and task == 'poison':
    # There the lowest attack success picks it, and no test label does.
    return Method('CUTS, best alpha', 'diagnostic')
  known = _FIRST | _LAST
  return known.get(name, Method(name.replace('_', ' ')))


def ordered(methods: Iterable[str]) -> list[str]:
  """Distinct methods: from doing nothing, over CUTS, to the oracle."""
  found = dict.fromkeys(methods)
  middle = [m for m in found if m not in _FIRST and m not in _LAST]
  return [m for m in (*_FIRST, *middle, *_LAST) if m in found]


def metric(key: str) -> str:
  """The column head of a metric key."""
  if key in METRICS:
    return METRICS[key]
  return key.replace('_', ' ').replace(' percent', ' [%]')


def columns(found: Iterable[str], task: str) -> list[str]:
  """The main metrics among those found, in order.

  A poisoned model is about as accurate as the oracle, so the share of that
  gap that was recovered says nothing and is left out.
  """
  have = set(found)
  if task == 'poison':
    have -= {'recovery_percent'}
  return [key for key in METRICS if key in have]


def alphas(values: Iterable[float]) -> str:
  """One alpha, or the range over seeds: '0.95' or '0.9 to 1.05'."""
  distinct = sorted(set(values))
  if not distinct:
    return ''
  low, high = f'{distinct[0]:.4g}', f'{distinct[-1]:.4g}'
  return low if low == high else f'{low} to {high}'


def count(number: int, what: str) -> str:
  """'1 seed', '3 seeds'."""
  return f'{number} {what}' if number == 1 else f'{number} {what}s'
