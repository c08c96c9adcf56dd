"""Pictures that two sets share: left out with a line, or refused."""

import shutil

import copying_network
import numpy as np
import PIL.Image
import pytest

from cmu_jax import __main__ as program
from cmu_jax.commands import intake, requests
from cmu_jax.commands.audit import reference_networks
from cmu_jax.commands.repair import subject
from cmu_jax.core import errors, files
from cmu_jax.core.types import Batch
from cmu_jax.data import sources

CLASSES = {'ant': 0, 'bee': 1, 'cat': 2}


@pytest.fixture
def folder(tmp_path):
  """A perfect network of three classes, and four disjoint sets of pictures."""
  copying_network.ship(tmp_path, [0, 1, 2], {'classes': list(CLASSES)})
  for seed, name in enumerate('abcd'):
    copying_network.pictures(tmp_path / name, CLASSES, 4, seed)
  return tmp_path


def copy(source, target, name, count=None):
  """Copies pictures of a class into another folder, under other names."""
  (target / name).mkdir(parents=True, exist_ok=True)
  for i, path in enumerate(sorted((source / name).iterdir())[:count]):
    shutil.copy(path, target / name / f'{source.name}-{i}.png')


def run(folder, command, **values):
  """The results and the remarks of a command that succeeds."""
  flags = copying_network.flags(folder, **values)
  assert program.main([command, *flags]) == 0
  results = files.read_json(folder / 'out' / 'results.json')
  return results, results['remarks']


UNLEARN = {'method': 'gradient_ascent', 'epochs': 1, 'learning_rate': 1e-9}


def test_unlearn_keeps_no_picture_to_forget_and_tests_on_none(folder, capsys):
  copy(folder / 'a', folder / 'b', 'bee', 3)
  # The test pictures have one to forget, and four to keep.
  copy(folder / 'a', folder / 'c', 'cat', 1)
  copy(folder / 'b', folder / 'c', 'ant')
  values = {'forget': folder / 'a', 'retain': folder / 'b'}
  results, remarks = run(
    folder, 'unlearn', **values, test=folder / 'c', **UNLEARN
  )
  assert results['pictures'] == {'forget': 12, 'retain': 12, 'test': 12}
  expected = (
    'Left out of --retain: 3 of 15 pictures, which are also in --forget',
    'Left out of --test: 1 of 17 pictures, which are also in --forget',
    'Left out of --test: 4 of 17 pictures, which are also in --retain',
  )
  out = capsys.readouterr().out
  page = (folder / 'out' / 'report.html').read_text('utf-8')
  for line in expected:
    assert sum(remark.startswith(line) for remark in remarks) == 1
    assert out.count(line) == 1 and line in page


@pytest.mark.parametrize('flag', ['retain', 'test'])
def test_a_set_of_nothing_but_copies_stops(flag, folder, capsys):
  shutil.copytree(folder / 'a', folder / 'same')
  values = {'forget': folder / 'a', flag: folder / 'same', **UNLEARN}
  assert (
    program.main(['unlearn', *copying_network.flags(folder, **values)]) == 2
  )
  told = capsys.readouterr().err
  assert f'every picture of --{flag} is also in --forget' in told
  assert told.count('\n') == 1 and not (folder / 'out').exists()


def test_repair_tests_on_no_proxy_and_no_ordinary_picture(folder):
  bad = folder / 'bad'
  bad.mkdir()
  for i in range(5):
    pixels = copying_network.picture(0, 900 + i)
    pixels[7, 5:] = 200
    PIL.Image.fromarray(pixels).save(bad / f'{i}.png')
  shutil.copy(bad / '2.png', folder / 'b' / 'ant' / 'bad.png')
  shutil.copy(bad / '3.png', folder / 'c' / 'ant' / 'bad.png')
  copy(folder / 'b', folder / 'c', 'cat', 2)
  request = requests.RepairRequest(
    weights=str(folder / 'w.npz'),
    model=copying_network.MODEL,
    proxy=str(bad),
    kind='poison',
    out=str(folder / 'out'),
    target='ant',
    ordinary=str(folder / 'b'),
    test=str(folder / 'c'),
  )
  with errors.collect_remarks() as remarks:
    case = subject.read_case(request)
  assert case.test.label.shape == (12,)
  left_out = [remark for remark in remarks if remark.startswith('Left out')]
  assert [remark.partition(',')[0] for remark in left_out] == [
    'Left out of --test: 1 of 15 pictures',
    'Left out of --ordinary: 1 of 13 pictures',
    'Left out of --test: 2 of 14 pictures',
  ]


def audit(folder, **values):
  """The case of an audit, and the remarks on it."""
  request = requests.AuditRequest(
    weights=str(folder / 'w.npz'),
    model=copying_network.MODEL,
    out=str(folder / 'out'),
    refs=2,
    **{name: str(path) for name, path in values.items()},
  )
  with errors.collect_remarks() as remarks:
    case = reference_networks.read_case(request)
  return case, [remark for remark in remarks if remark.startswith('Left out')]


def test_an_audit_takes_further_pictures_and_copies_out(folder):
  copy(folder / 'a', folder / 'a', 'ant', 2)
  copy(folder / 'b', folder / 'b', 'bee', 1)
  copy(folder / 'a', folder / 'c', 'bee')
  copy(folder / 'b', folder / 'c', 'cat', 3)
  case, remarks = audit(
    folder, members=folder / 'a', nonmembers=folder / 'b', data=folder / 'c'
  )
  assert case.member.sum() == 12 == case.further.sum()
  assert case.pool.label.shape == (36,)
  assert [remark.partition(';')[0] for remark in remarks] == [
    'Left out of --members: 2 of 14 pictures, which are also elsewhere in '
    '--members',
    'Left out of --nonmembers: 1 of 13 pictures, which are also elsewhere in '
    '--nonmembers',
    'Left out of --data: 4 of 19 pictures, which are also in --members',
    'Left out of --data: 3 of 19 pictures, which are also in --nonmembers',
  ]


def test_a_member_that_is_a_nonmember_is_refused(folder):
  copy(folder / 'a', folder / 'b', 'ant', 2)
  with pytest.raises(errors.UserError, match='2 pictures are in --members='):
    audit(folder, members=folder / 'a', nonmembers=folder / 'b')


def test_an_audit_without_copies_is_as_it_was(folder):
  case, remarks = audit(
    folder, members=folder / 'a', nonmembers=folder / 'b', data=folder / 'd'
  )
  assert remarks == [] and case.pool.label.shape == (36,)


@pytest.mark.parametrize('kind', ['folder', 'npz'])
def test_a_dataset_says_which_test_pictures_are_training_pictures(
  kind, folder, capsys
):
  if kind == 'folder':
    shutil.copytree(folder / 'a', folder / 'set' / 'train')
    shutil.copytree(folder / 'b', folder / 'set' / 'test')
    copy(folder / 'a', folder / 'set' / 'test', 'bee', 2)
    name = f'folder:{folder / "set"}'
  else:
    image = np.stack([copying_network.picture(0, i) for i in range(6)])
    arrays = {'images': image, 'labels': [0, 0, 0, 1, 1, 1]}
    again = {'test_images': image[[1, 5]], 'test_labels': [0, 1]}
    np.savez(folder / 'x.npz', **arrays, **again)
    name = f'npz:{folder / "x.npz"}'
  for _ in range(2):
    # From the cache, too.
    sources.load(name, cache_dir=folder / 'cache')
    count = {'folder': '2 of 14', 'npz': '2 of 2'}[kind]
    assert f'Warning: {count} test pictures' in capsys.readouterr().out


def test_one_different_pixel_is_another_picture():
  image = np.zeros((2, 4, 4, 3), np.uint8)
  other = image.copy()
  other[0, 0, 0, 2] = 1
  batch = Batch(image, np.zeros(2, np.int32))
  kept = intake.drop_copies(
    '--test', batch, {'--forget': Batch(other[:1], [0])}
  )
  assert kept is batch
  assert intake.drop_copies('--test', None, {'--forget': batch}) is None
