"""Flags that only look are added to a finished edit without repeating it."""

import json

import pytest
import unlearn_case

from cmu_jax import __main__ as program
from cmu_jax.commands import flags, requests
from cmu_jax.commands.repair import edit
from cmu_jax.commands.unlearn import job


@pytest.fixture(scope='module')
def case(tmp_path_factory):
  folder = tmp_path_factory.mktemp('finished')
  unlearn_case.make(folder, steps=300)
  return folder


def argv(case, command, out, **changes):
  own = {
    'repair': {
      'proxy': case / 'retain',
      'kind': 'label_noise',
      'steps': 3,
      'rule': 'published',
    },
    'unlearn': {'forget': case / 'forget', 'method': 'amun', 'epochs': 1},
  }[command]
  values = {
    'weights': case / 'w.npz',
    'model': 'fc:width=64',
    'out': out,
    **own,
    **changes,
  }
  return [command, *(f'--{k}={v}' for k, v in values.items())]


def results(out):
  return json.loads((out / 'results.json').read_text())


@pytest.mark.parametrize('command', ['repair', 'unlearn'])
def test_what_only_looks_joins_a_finished_run(
  case, tmp_path, command, monkeypatch, capsys
):
  assert program.main(argv(case, command, tmp_path)) == 0
  plain = results(tmp_path)
  written = (tmp_path / plain['weights']).read_bytes()
  assert 'give --test' in (tmp_path / 'report.html').read_text()

  def refuse(*_, **__):
    raise AssertionError('the edit is repeated')

  for module, name in ((edit, 'edit_network'), (job, 'make_method')):
    monkeypatch.setattr(module, name, refuse)
  test = {'test': case / 'test'}
  assert program.main(argv(case, command, tmp_path, **test)) == 0
  tested = results(tmp_path)
  assert (tmp_path / plain['weights']).read_bytes() == written
  assert tested['settings'] == plain['settings']
  assert tested['provenance'] == plain['provenance'] and 'looked' in tested
  assert tested['looks']['test'] == str(case / 'test')
  before, after = tested['measured'].values()
  assert None not in (before['class_accuracy'][0], after['class_accuracy'][0])
  assert 'give --test' not in (tmp_path / 'report.html').read_text()
  # The same without the flag: what was measured stays.
  assert program.main(argv(case, command, tmp_path)) == 0
  assert results(tmp_path)['measured'] == tested['measured']
  assert results(tmp_path)['looks'] == tested['looks']


def test_a_second_look_joins_the_first(case, tmp_path):
  for look in ({'test': case / 'test'}, {'lipschitz': 'true'}):
    assert program.main(argv(case, 'repair', tmp_path, **look)) == 0
  joined = results(tmp_path)
  assert joined['looks'] == {'test': str(case / 'test'), 'lipschitz': True}
  for measured in joined['measured'].values():
    assert measured['test_accuracy'] > 0 and measured['lipschitz']['value'] > 0


@pytest.mark.parametrize('damage', ['gone', 'other', 'broken'])
def test_weights_that_are_not_those_of_the_run_are_made_again(
  case, tmp_path, damage
):
  assert program.main(argv(case, 'repair', tmp_path)) == 0
  path = tmp_path / results(tmp_path)['weights']
  written = path.read_bytes()
  if damage == 'gone':
    path.unlink()
  else:
    other = (case / 'w.npz').read_bytes()
    path.write_bytes(other if damage == 'other' else written[:50])
  assert program.main(argv(case, 'repair', tmp_path)) == 0
  assert path.read_bytes() == written


def test_what_chooses_is_another_run(case, tmp_path, capsys):
  assert program.main(argv(case, 'repair', tmp_path)) == 0
  changed = argv(case, 'repair', tmp_path, steps=4, test=case / 'test')
  assert program.main(changed) == 2
  assert 'steps: 3 there, 4 here' in capsys.readouterr().err


def test_help_says_which_flags_may_be_added():
  for command in (requests.REPAIR, requests.UNLEARN, requests.AUDIT):
    said = [
      name
      for name, _, *text in flags._FLAG.findall(command.text)
      if 'may be added' in ' '.join(' '.join(text).lower().split())
    ]
    assert sorted(said) == sorted(command.looks)
    assert set(command.looks) <= set(command.request._fields)
