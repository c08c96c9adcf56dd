"""The audit of a network with references of its own, as a command."""

import json

import numpy as np
import pytest
import repair_case
import unlearn_case

from cmu_jax import __main__ as program
from cmu_jax import networks
from cmu_jax.commands import flags as command_flags
from cmu_jax.commands import requests
from cmu_jax.core import errors, rng
from cmu_jax.core.types import Batch, Network, Training
from cmu_jax.data import sources
from cmu_jax.training import optimizers, train


@pytest.fixture(scope='module')
def shipped(tmp_path_factory):
  """A network that learnt 100 pictures by heart, those, and 100 others."""
  folder = tmp_path_factory.mktemp('shipped')
  digits = sources.load('digits')
  part = Batch(digits.train.image[:100], digits.train.label[:100])
  model = networks.make('fc', 10, (8, 8, 1), width=16)
  key = rng.fold_in(0, 'auditing case')
  step = repair_case.STEP
  fitted = train.fit(
    key,
    Network(model, step),
    model.init(key, step.eval(part.image[:1], None)),
    part,
    training=Training(
      optimizer=optimizers.sgd(optimizers.constant_schedule(0.1)),
      steps=400,
      batch_size=32,
    ),
  )
  repair_case.ship(folder, fitted.variables)
  np.savez(
    folder / 'members.npz',
    images=np.asarray(part.image),
    labels=np.asarray(part.label),
  )
  unlearn_case.pictures(folder / 'others', digits.test, range(100))
  return folder


def argv(folder, out, **changes):
  flags = {
    'weights': folder / 'w.npz',
    'model': 'fc:width=16',
    'members': folder / 'members.npz',
    'nonmembers': folder / 'others',
    'refs': 4,
    'epochs': 20,
    'batch_size': 32,
    'replicates': 50,
    'out': out,
  }
  return [
    f'--{k}={v}' for k, v in {**flags, **changes}.items() if v is not None
  ]


def test_a_network_is_audited(shipped, tmp_path, capsys):
  out = tmp_path / 'audit'
  assert program.main(['audit', *argv(shipped, out)]) == 0
  said = capsys.readouterr().out
  assert '\n4 references of 100 pictures and 80 steps: about ' in said
  found = json.loads((out / 'results.json').read_text())
  rows = {row['attack']: row for row in found['rows']}
  assert list(rows)[:3] == ['RMIA', 'RMIA, ratio alone', 'LiRA']
  for row in rows.values():
    assert row['positives'] == row['negatives'] == 100
  assert rows['RMIA']['references'] == 4
  assert rows['RMIA, ratio alone']['auroc']['value'] > 0.55
  page = (out / 'report.html').read_text()
  assert 'trained with the recipe that was given' in page
  # References are done: the same command trains nothing again.
  before = {p: p.stat().st_mtime_ns for p in (out / 'shadow').iterdir()}
  assert len(before) == 1
  assert program.main(['audit', *argv(shipped, out)]) == 0
  after = json.loads((out / 'results.json').read_text())
  assert after['rows'] == found['rows']
  assert {p: p.stat().st_mtime_ns for p in (out / 'shadow').iterdir()} == before


@pytest.mark.slow
def test_further_pictures_are_neither(shipped, tmp_path):
  further = sources.load('digits').test
  unlearn_case.pictures(tmp_path / 'more', further, range(100, 150))
  out = tmp_path / 'audit'
  flags = argv(shipped, out, data=tmp_path / 'more', refs=2, epochs=1)
  assert program.main(['audit', *flags]) == 0
  found = json.loads((out / 'results.json').read_text())
  rows = {row['attack']: row for row in found['rows']}
  assert rows['RMIA']['positives'] == rows['RMIA']['negatives'] == 100
  assert rows['RMIA']['verdict'] == 'cannot conclude'
  assert '2 reference models are too few' in rows['RMIA']['says']
  assert 'LiRA' not in rows


def test_a_picture_cannot_be_both(shipped, tmp_path, capsys):
  flags = argv(shipped, tmp_path / 'a', nonmembers=shipped / 'members.npz')
  assert program.main(['audit', *flags]) == 2
  lines = capsys.readouterr().err.strip().splitlines()
  assert len(lines) == 1
  assert '100 pictures are in --members' in lines[0]
  assert not (tmp_path / 'a').exists()


@pytest.mark.parametrize(
  ('arrays', 'said'),
  [
    ({'images': np.zeros((3, 8, 8), np.uint8)}, "no 'labels'"),
    (
      {'images': np.zeros((3, 8, 8)), 'labels': np.arange(3)},
      'uint8 of 0 to 255',
    ),
    (
      {'images': np.zeros((3, 9, 9), np.uint8), 'labels': np.arange(3)},
      'pixels, 8 are asked for',
    ),
    (
      {'images': np.zeros((3, 8, 8), np.uint8), 'labels': np.arange(9, 12)},
      'label 11',
    ),
  ],
)
def test_an_archive_that_does_not_fit(shipped, tmp_path, capsys, arrays, said):
  np.savez(tmp_path / 'x.npz', **arrays)
  flags = argv(shipped, tmp_path / 'a', nonmembers=tmp_path / 'x.npz')
  assert program.main(['audit', *flags]) == 2
  lines = capsys.readouterr().err.strip().splitlines()
  assert len(lines) == 1 and said in lines[0]


GIVEN = {'weights': 'w', 'model': 'fc', 'members': 'm', 'nonmembers': 'n'}


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({}, 'one of them'),
    ({**GIVEN, 'refs': 4, 'scores': 's'}, 'one of them'),
    ({'scores': 's', 'refs': 4}, '--refs goes with --weights'),
    (GIVEN, '--refs missing'),
    ({**GIVEN, 'refs': 3}, '--refs is 3'),
    ({**GIVEN, 'refs': 4, 'epochs': 0}, '--epochs is 0'),
    ({**GIVEN, 'refs': 4, 'pad': -1}, '--pad is -1'),
    ({**GIVEN, 'refs': 4, 'mean': (0.5,)}, '--mean and --std'),
  ],
)
def test_flags_that_do_not_go_together(changes, said):
  with pytest.raises(errors.UserError, match=said):
    command_flags.check(requests.AUDIT, requests.AuditRequest('out', **changes))
