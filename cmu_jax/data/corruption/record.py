"""Small records of a corruption, sufficient to draw it again and check it.

A record contains no labels: kind, key, arguments, counts and SHA-256 digests.
With the true labels of the same dataset they determine the corruption exactly.
"""

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from cmu_jax.core.types import Corruption, PRNGKey, Trigger
from cmu_jax.data import corruption as corruptions


def _sha256(values: Any, dtype: str) -> str:
  # A fixed dtype and byte order: the digest must not depend on the machine.
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
    # As bytes, because decimal text may round the floats.
    'float32': base64.b64encode(value.astype('<f4').tobytes()).decode(),
  }
  # A pattern usually covers the image: None spares the list of all pixels.
  pixels = None if mask.all() else patch['pixels']
  record = {
    **patch,
    'pixels': pixels,
    'keep': trigger.keep,
    'pattern': pattern,
  }
  # Records of older runs have no form: theirs is a pattern.
  form = {} if trigger.form == 'pattern' else {'form': trigger.form}
  return {**record, **form}


def _to_json(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {str(name): int(item) for name, item in value.items()}
  if isinstance(value, np.ndarray | jax.Array):
    return np.asarray(value).tolist()
  return value


def make_record(
  corruption: Corruption, kind: str, key: PRNGKey, **arguments: Any
) -> dict[str, Any]:
  """Describes a corruption by JSON values from which it can be drawn again.

  Args:
    corruption: result of `cmu_jax.data.corruption.<kind>`.
    kind: a name in `cmu_jax.data.corruption.KINDS`.
    key: its random key.
    **arguments: its arguments, besides key and label. Those with an entry for
      each sample are not recorded.

  Raises:
    UserError: an unknown kind.
  """
  omitted = {'trigger', *corruptions.find_kind(kind).per_sample}
  trigger = corruption.trigger
  return {
    'kind': kind,
    'key': np.asarray(jax.random.key_data(key)).tolist(),
    'key_impl': str(jax.random.key_impl(key)),
    'arguments': {
      name: _to_json(value)
      for name, value in arguments.items()
      if name not in omitted
    },
    'trigger': None if trigger is None else _trigger_record(trigger),
    'samples': int(corruption.label.shape[0]),
    'corrupted': int(corruption.mask.sum()),
    'label_sha256': _sha256(corruption.label, '<i4'),
    'mask_sha256': _sha256(corruption.mask, '|b1'),
  }
