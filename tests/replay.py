"""Draws the corruption of a record again: the test that a record is enough."""

import base64
import binascii
import hashlib

import jax
import jax.numpy as jnp
import numpy as np

from cmu_jax.core import errors
from cmu_jax.core.types import Trigger
from cmu_jax.data import corruption as corruptions


def _digest(values, dtype):
  return hashlib.sha256(np.asarray(values).astype(dtype).tobytes()).hexdigest()


def _trigger(record):
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
    record.get('form', 'pattern'),
  )


def draw_again(record, label, **per_sample):
  """The corruption of a record; UserError if it is another one."""
  try:
    kind = corruptions.find_kind(record['kind'])
    data = jnp.asarray(record['key'], jnp.uint32)
    key = jax.random.wrap_key_data(data, impl=record['key_impl'])
    arguments = {**record['arguments'], **per_sample}
    if record['trigger'] is not None:
      arguments['trigger'] = _trigger(record['trigger'])
    if arguments.get('indices') is not None:
      arguments['indices'] = np.array(arguments['indices'], int)
    drawn = kind.draw(key, label, **arguments)
    recorded = record['label_sha256'], record['mask_sha256']
  except (KeyError, TypeError, binascii.Error) as error:
    raise errors.UserError(
      f'the record is damaged or incomplete: {error}'
    ) from error
  digests = _digest(drawn.label, '<i4'), _digest(drawn.mask, '|b1')
  errors.check(digests == recorded, 'differs from the recorded one')
  return drawn
