"""The audit of stored scores as a command."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmu_jax import __main__ as program
from cmu_jax import audits
from cmu_jax.commands.audit import (
  AuditRequest,
  audit,
  job,
  npz_points,
  page,
)
from cmu_jax.core import errors


def pool(seed=0, n=400, k=4, models=8, shift=1.5):
  """Points whose logits rise by `shift` where a network was trained on them."""
  generator = np.random.default_rng(seed)
  labels = generator.integers(0, k, n)
  member = generator.random(n) < 0.5
  inside = np.argsort(generator.random((models, n)), axis=0) < models // 2
  base = generator.normal(0, 2, (1, n, k))
  rows = np.concatenate([member[None], inside])
  logits = base + generator.normal(0, 0.5, (models + 1, n, k))
  logits[:, np.arange(n), labels] += shift * rows
  return {
    'logits': logits[0].astype(np.float32),
    'labels': labels,
    'member': member,
    'reference_logits': logits[1:].astype(np.float32),
    'inside': inside,
  }


def save(folder, **arrays):
  path = folder / 'scores.npz'
  np.savez(path, **arrays)
  return path


def run(path, folder, **changes):
  return audit(out=str(folder / 'out'), scores=str(path), **changes)


def test_references_find_what_confidence_alone_does_not(tmp_path):
  arrays = pool()
  found = run(save(tmp_path, **arrays), tmp_path, replicates=200)
  rows = {row['attack']: row for row in found['rows']}
  assert list(rows) == [
    'RMIA',
    'RMIA, ratio alone',
    'LiRA',
    'confidence',
    'entropy',
  ]
  auc = {name: row['auroc']['value'] for name, row in rows.items()}
  assert auc['RMIA, ratio alone'] > auc['confidence'] + 0.1
  assert auc['LiRA'] > auc['confidence'] + 0.1
  assert rows['RMIA']['verdict'] == 'leaks'
  # The number is that of the library's own call.
  signal = [
    np.asarray(
      audits.taylor_softmax(jnp.asarray(x), jnp.asarray(arrays['labels']))
    )
    for x in (arrays['logits'], arrays['reference_logits'])
  ]
  direct = audits.rmia(*signal, arrays['inside'], ~arrays['member'])
  member = arrays['member']
  expected = audits.auc(direct.score[member], direct.score[~member])
  assert auc['RMIA'] == pytest.approx(expected, abs=1e-6)
  written = json.loads((tmp_path / 'out/results.json').read_text())
  assert written['rows'] == found['rows'] and written['finished']
  page = (tmp_path / 'out/report.html').read_text()
  assert 'Members can be told' in page and 'data:image/png' in page


def test_scores_of_ones_own(tmp_path):
  generator = np.random.default_rng(0)
  mine, rest = generator.normal(1, 1, 500), generator.normal(0, 1, 500)
  path = save(tmp_path, member_scores=mine, other_scores=rest)
  found = run(path, tmp_path, replicates=200)
  (row,) = found['rows']
  assert row['auroc']['value'] == pytest.approx(audits.auc(mine, rest))
  assert row['references'] is None and page.overall_verdict(found) == 'leaks'


def test_few_points_conclude_nothing_and_many_do(tmp_path):
  generator = np.random.default_rng(1)
  for size, expected in ((20, 'cannot conclude'), (4000, 'no leak found')):
    scores = generator.normal(0, 1, (2, size))
    folder = tmp_path / str(size)
    folder.mkdir()
    path = save(folder, member_scores=scores[0], other_scores=scores[1])
    assert page.overall_verdict(run(path, folder, replicates=100)) == expected


def test_two_references_are_too_few(tmp_path):
  arrays = pool(models=2)
  found = run(save(tmp_path, **arrays), tmp_path, replicates=50)
  rows = {row['attack']: row for row in found['rows']}
  assert 'LiRA' not in rows
  assert rows['RMIA']['verdict'] == 'cannot conclude'
  assert 'too few' in rows['RMIA']['says']


def test_offline_needs_no_reference_with_the_point(tmp_path):
  arrays = pool()
  without = {**arrays, 'inside': np.zeros_like(arrays['inside'])}
  read = npz_points.read_points(str(save(tmp_path, **without)))
  asked = AuditRequest('o', 's', offline_a=0.3)
  names = [one.name for one in job.run_attacks(asked, read)]
  assert names[:3] == ['RMIA', 'RMIA, ratio alone', 'LiRA']


def unlike(arrays, kind):
  """References that were trained otherwise than the network."""
  change = dict(arrays)
  if kind == 'weaker':
    change['reference_logits'] = arrays['reference_logits'] - 4 * np.eye(4)[
      arrays['labels']
    ].astype(np.float32)
  if kind == 'surer':
    change['reference_logits'] = arrays['reference_logits'] + 4 * np.eye(4)[
      arrays['labels']
    ].astype(np.float32)
  if kind == 'smaller':
    few = np.arange(len(arrays['member'])) % 9 == 0
    change['inside'] = arrays['inside'] & few
  return change


@pytest.mark.parametrize(
  ('kind', 'said'),
  [
    ('alike', 'believe RMIA and LiRA first'),
    ('weaker', 'Warning: the references are unlike the network: accuracy on'),
    ('surer', 'Believe the attacks without references'),
    ('smaller', 'training points against at least 1'),
  ],
)
def test_references_are_compared_with_the_network(tmp_path, kind, said):
  arrays = unlike(pool(), kind)
  found = run(save(tmp_path, **arrays), tmp_path, replicates=50)
  assert found['references']['alike'] == (kind == 'alike')
  assert said in page.outcome(found)[0]
  assert said in (tmp_path / 'out/report.html').read_text()
  quiet = {
    **found,
    'rows': [{**r, 'verdict': 'no leak found'} for r in found['rows']],
  }
  expected = 'No leak found' if kind == 'alike' else 'unlike the network'
  assert expected in page.headline(quiet)


def test_scores_below_chance_are_a_warning(tmp_path):
  """Not a leak: members that score lower point to a fault of the audit."""
  generator = np.random.default_rng(2)
  mine, rest = generator.normal(-0.4, 1, 500), generator.normal(0, 1, 700)
  path = save(tmp_path, member_scores=mine, other_scores=rest)
  found = run(path, tmp_path, replicates=100)
  assert found['rows'][0]['verdict'] == 'reversed'
  assert 'distrust this audit' in page.headline(found)
  assert 'told from' not in page.headline(found)


def wrong(name, change):
  def spoil(arrays):
    return {**arrays, name: change(arrays[name])}

  return spoil


def nan(values):
  values = values.copy()
  values.flat[3] = np.nan
  return values


def softmax(values):
  return np.asarray(jax.nn.softmax(values))


@pytest.mark.parametrize('name', ['logits', 'reference_logits'])
def test_bfloat16_logits_are_read(tmp_path, name):
  half = np.asarray(jnp.asarray(pool()[name], jnp.bfloat16))
  path = save(tmp_path, **{**pool(), name: half})
  points = npz_points.read_points(str(path))
  assert np.array_equal(getattr(points, name), half.astype(np.float32))


@pytest.mark.parametrize(
  ('spoil', 'said'),
  [
    (wrong('logits', nan), 'logits'),
    (wrong('reference_logits', nan), 'reference_logits'),
    (wrong('logits', softmax), 'logits in'),
    (wrong('reference_logits', softmax), 'are probabilities, since each row'),
    (wrong('labels', lambda x: x + 4), 'go up to 7, but 4 classes count'),
    (wrong('labels', lambda x: x + 1), 'count from 1 to 4: subtract 1'),
    (wrong('labels', lambda x: x - 2), 'have label -2 of sample'),
    (wrong('labels', lambda x: x.astype(float)), 'are float64: give labels.as'),
    (wrong('labels', lambda x: x + 0.25), 'are float64; integers are needed'),
    (wrong('labels', lambda x: x > 1), 'are booleans: for two classes'),
    (wrong('labels', lambda x: np.eye(4)[x]), 'one-hot, (400, 4): give labels'),
    (wrong('labels', lambda x: x[:, None]), 'have shape (400, 1): flatten'),
    (wrong('labels', lambda x: x[None]), 'have shape (1, 400): flatten'),
    (wrong('labels', lambda x: x.astype(str)), 'are text: give the position'),
    (wrong('labels', lambda x: x[:-7]), 'are 393, but logits have 400 points'),
    (wrong('member', lambda x: x.astype(int)), 'member'),
    (wrong('member', lambda x: x & False), 'marks 0 of 400'),
    (wrong('inside', lambda x: x[:, :-1]), 'inside'),
    (wrong('inside', lambda x: x[0]), 'a row for each reference'),
    (
      lambda a: {**a, 'member_scores': np.ones(3), 'other_scores': np.ones(3)},
      'scores and logits',
    ),
    (wrong('reference_logits', lambda x: x[:-1]), 'reference_logits'),
    (lambda a: {k: v for k, v in a.items() if k != 'inside'}, 'no inside'),
    (lambda a: {k: v for k, v in a.items() if k != 'labels'}, 'no labels'),
    (lambda a: {**a, 'lables': a['labels']}, "did you mean 'labels'"),
    (lambda a: {**a, 'population': a['member'] & False}, 'population'),
    (lambda a: {'member_scores': np.zeros(3)}, 'no other_scores'),
    (
      lambda a: {'member_scores': np.zeros(3), 'other_scores': nan(np.ones(4))},
      'other_scores',
    ),
    (
      lambda a: {'member_scores': np.zeros(0), 'other_scores': np.ones(4)},
      'member_scores',
    ),
  ],
)
def test_an_array_that_does_not_fit_is_one_line(tmp_path, capsys, spoil, said):
  path = save(tmp_path, **spoil(pool()))
  argv = [f'--scores={path}', f'--out={tmp_path / "out"}']
  assert program.main(['audit', *argv]) == 2
  lines = capsys.readouterr().err.strip().splitlines()
  assert len(lines) == 1 and said in lines[0]
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'gamma': 0.5}, '--gamma'),
    ({'offline_a': 2.0}, '--offline_a'),
    ({'taylor_order': 5}, '--taylor_order'),
    ({'replicates': 1}, '--replicates'),
  ],
)
def test_a_setting_that_cannot_be_is_named(changes, said):
  with pytest.raises(errors.UserError, match=said):
    audit(out='o', scores='s', **changes)


def test_pickles_and_other_files_are_not_read(tmp_path, capsys):
  path = tmp_path / 'scores.npz'
  np.savez(path, member_scores=np.array([{}], object), other_scores=np.ones(3))
  for content in (None, b'nothing of the kind', b''):
    if content is not None:
      path.write_bytes(content)
    assert (
      program.main(['audit', f'--scores={path}', f'--out={tmp_path / "o"}'])
      == 2
    )
    said = capsys.readouterr().err
    assert 'not a readable .npz' in said
    assert 'unsafely' not in said
  assert program.main(['audit', '--scores=/no/where.npz', '--out=o']) == 2
  assert '/no/where.npz' in capsys.readouterr().err
