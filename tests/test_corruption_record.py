"""A corruption's manifest draws it again, and tells when it cannot."""

import json

import numpy as np
import pytest
import replay

from cmu_jax.core import errors, rng
from cmu_jax.data import corruption
from cmu_jax.data.corruption import record as record_lib
from cmu_jax.data.corruption import triggers

N, K = 120, 6
KEY = rng.fold_in(8)


def patch():
  return triggers.badnet(8, 8, margin=(0, 0))


def _recorded(kind, label):
  if kind == 'symmetric':
    arguments = {'rate': 0.3, 'num_classes': K}
  elif kind == 'asymmetric':
    arguments = {'rate': 0.5, 'class_map': {1: 2}, 'indices': None}
  else:
    arguments = {
      'rate': None,
      'include_target': True,
      'indices': np.array([1, 4]),
    }
  extra = {'trigger': patch()} if kind == 'poison' else {}
  draw = corruption.KINDS[kind].draw
  done = draw(KEY, label, **arguments, **extra)
  return done, record_lib.make_record(done, kind, KEY, **arguments)


@pytest.mark.parametrize('kind', ['symmetric', 'asymmetric', 'poison'])
def test_a_manifest_read_back_from_json_draws_the_same(kind):
  label = np.arange(N) % K
  done, record = _recorded(kind, label)
  again = replay.draw_again(json.loads(json.dumps(record)), label)
  assert np.array_equal(again.label, done.label)
  assert np.array_equal(again.mask, done.mask)
  assert record['corrupted'] == int(done.mask.sum())
  if kind == 'poison':
    assert np.array_equal(again.trigger.mask, done.trigger.mask)
    assert again.trigger.value == done.trigger.value


def test_a_manifest_tells_other_labels_and_damage():
  label = np.arange(N) % K
  _, record = _recorded('symmetric', label)
  with pytest.raises(errors.UserError, match='differs from the recorded one'):
    replay.draw_again(record, label[::-1])
  with pytest.raises(errors.UserError, match=r'damaged.*label_sha256'):
    replay.draw_again(
      {k: v for k, v in record.items() if k != 'label_sha256'}, label
    )
  with pytest.raises(errors.UserError, match="did you mean 'poison'"):
    record_lib.make_record(_recorded('poison', label)[0], 'poisn', KEY)
