"""Small records of a corruption, from which it can be drawn again and checked.

The record holds no labels: kind, key, arguments, counts and SHA-256 sums. With
the true labels of the same dataset it reproduces the corruption exactly.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cmu_jax.core import errors
from cmu_jax.core.types import Corruption, PRNGKey, Trigger
from cmu_jax.data import corruption as corruptions
from cmu_jax.data.splits import Labels


def _sha256(values: Any, dtype: str) -> str:
  """The sum of an array's bytes, the same on every machine."""
  return hashlib.sha256(np.asarray(values).astype(dtype).tobytes()).hexdigest()


def _trigger_record(trigger: Trigger) -> dict[str, Any]:
  mask, value = np.asarray(trigger.mask), np.asarray(trigger.value)
  patch = {
    'shape': list(mask.shape),
    'pixels': np.argwhere(mask).tolist(),
    'value': float(value) if value.ndim == 0 else None,
    'stage': trigger.stage,
  }
  if value.ndim == 0 and not trigger.keep:
    return patch
  pattern = {
    'shape': list(value.shape),
    'float32': base64.b64encode(value.astype('<f4').tobytes()).decode(),
  }
  pixels = None if mask.all() else patch['pixels']
  return {**patch, 'pixels': pixels, 'keep': trigger.keep, 'pattern': pattern}


def _trigger_of(record: Mapping) -> Trigger:
  mask = np.zeros(record['shape'], bool)
  if record['pixels'] is None:
    mask[:] = True
  else:
    mask[tuple(np.array(record['pixels'], int).reshape(-1, 2).T)] = True
  pattern = record.get('pattern')
  value = np.asarray(record['value'] or 0.0, np.float32)
  if pattern is not None:
    stored = np.frombuffer(base64.b64decode(pattern['float32']), '<f4')
    value = stored.reshape(pattern['shape'])
  return Trigger(
    jnp.asarray(mask),
    jnp.asarray(value, jnp.float32),
    record['stage'],
    record.get('keep', 0.0),
  )


def _to_json(value: Any) -> Any:
  """An argument as JSON has it."""
  if isinstance(value, Mapping):
    return {str(name): int(item) for name, item in value.items()}
  if isinstance(value, np.ndarray | jax.Array):
    return np.asarray(value).tolist()
  return value


def make_record(
  corruption: Corruption, kind: str, key: PRNGKey, **arguments: Any
) -> dict[str, Any]:
  """What it takes to draw a corruption again, as JSON-serialisable values.

  Args:
    corruption: what `cmu_jax.data.corruption.<kind>` returned.
    kind: a name in `cmu_jax.data.corruption.KINDS`.
    key: the key it was drawn with.
    **arguments: the arguments it was drawn with, besides key and label. Those
      with an entry a sample are not recorded.

  Raises:
    UserError: an unknown kind.
  """
  apart = {'trigger', *corruptions.find_kind(kind).per_sample}
  kept = {name: value for name, value in arguments.items() if name not in apart}
  trigger = corruption.trigger
  return {
    'kind': kind,
    'key': np.asarray(jax.random.key_data(key)).tolist(),
    'key_impl': str(jax.random.key_impl(key)),
    'arguments': {name: _to_json(value) for name, value in kept.items()},
    'trigger': None if trigger is None else _trigger_record(trigger),
    'samples': int(corruption.label.shape[0]),
    'corrupted': int(corruption.mask.sum()),
    'label_sha256': _sha256(corruption.label, '<i4'),
    'mask_sha256': _sha256(corruption.mask, '|b1'),
  }


def from_manifest(
  record: Mapping[str, Any], label: Labels, **per_sample: Any
) -> Corruption:
  """Draws the corruption of a manifest again and checks that it is the same.

  Args:
    record: what `manifest` returned, possibly read back from JSON.
    label: the true labels [n] that the corruption was drawn on.
    **per_sample: arguments with an entry a sample, which no record holds.

  Raises:
    UserError: the record lacks a field, or the labels or the mask differ from
      those of the record.
  """
  try:
    kind = corruptions.find_kind(record['kind'])
    data = jnp.asarray(record['key'], jnp.uint32)
    key = jax.random.wrap_key_data(data, impl=record['key_impl'])
    arguments = {**record['arguments'], **per_sample}
    if record['trigger'] is not None:
      arguments['trigger'] = _trigger_of(record['trigger'])
    if arguments.get('indices') is not None:
      arguments['indices'] = np.array(arguments['indices'], int)
    sums = record['label_sha256'], record['mask_sha256']
    lacking = sorted(set(kind.per_sample) - set(per_sample))
    errors.check(
      not lacking,
      f"a manifest of kind '{record['kind']}' has no labels; pass "
      f'{"".join(lacking[:1])}=, one of each sample',
    )
    drawn = kind.draw(key, label, **arguments)
  except (KeyError, TypeError, binascii.Error) as error:
    raise errors.UserError(
      f'the corruption manifest is damaged or incomplete: {error}'
    ) from error
  found = _sha256(drawn.label, '<i4'), _sha256(drawn.mask, '|b1')
  errors.check(
    found == sums,
    'the corruption drawn from the manifest differs from the recorded one '
    f'({record["samples"]} samples, {record["corrupted"]} corrupted); '
    'load the same dataset, split and sample order',
  )
  return drawn
