"""Work folders: one config, one process, a folder for each cell of a sweep."""

import json
import os
import pathlib

import pytest
import small_config
from small_config import FILE, refusal

from cmu_jax import main
from cmu_jax.commands import study, workdir
from cmu_jax.core import config, errors

path = pytest.fixture(small_config.place)
runs = pytest.fixture(small_config.stand_in)


def test_a_workdir_belongs_to_one_config(path, runs, capfd):
  argv = [f'--config={path}', '--workdir=w']
  assert main.main([*argv, '--config.train.epochs=3']) == 0
  assert main.main([*argv, '--config.train.epochs=3']) == 0
  said = refusal(capfd, [*argv, '--config.train.epochs=4', '--config.seeds=7'])
  assert 'train.epochs: 3 there, 4 here' in said
  assert 'seeds: [0, 1] there, [7] here' in said
  assert '--workdir' in said
  assert len(runs.seen) == 2


def test_many_changes_are_not_all_spelled_out(tmp_path):
  before = {f'a{i}': i for i in range(9)}
  with workdir.open_run(tmp_path, before):
    pass
  with (
    pytest.raises(errors.UserError, match='and 6 more') as caught,
    workdir.open_run(tmp_path, {'a8': 7, 'b': 1}),
  ):
    pass
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('text', ['', '[]', '{"a": '])
def test_a_workdir_with_a_broken_config_json(path, runs, capfd, text):
  pathlib.Path('w').mkdir()
  pathlib.Path('w/config.json').write_text(text)
  assert 'config.json' in refusal(capfd, [f'--config={path}', '--workdir=w'])


def test_two_runs_in_one_workdir(path, runs, capfd):
  with workdir.open_run(pathlib.Path('w'), config.load(path).config):
    said = refusal(capfd, [f'--config={path}', '--workdir=w'])
  assert f'in use by process {os.getpid()}' in said
  assert main.main([f'--config={path}', '--workdir=w']) == 0


def test_sweep(path, runs, capfd):
  argv = [f'--config={path}', '--sweep', '--workdir=s']
  runs.fail.append(errors.UserError('no such data'))
  assert main.main(argv) == 2
  said = capfd.readouterr().err.splitlines()
  assert said[-1] == 'error: cell noise=0.2: no such data'
  assert [folder.name for _, folder in runs.seen] == [
    'noise=0.2',
    'noise=0.4',
    'noise=0.6',
  ]
  assert (
    '| cuts | – | 0.4500 ± 0.0707 (2) |'
    in pathlib.Path('s/sweep.md').read_text()
  )
  # The second time only the failed cell is run.
  assert main.main(argv) == 0
  assert [folder.name for _, folder in runs.seen[3:]] == ['noise=0.2']
  assert pathlib.Path('s/sweep.md').read_text() == (
    'Test accuracy: mean ± sample standard deviation (number of runs).\n\n'
    '| method | noise=0.2 | noise=0.4 | noise=0.6 |\n'
    '|---|---|---|---|\n'
    '| none |' + ' 0.5500 ± 0.0707 (2) |' * 3 + '\n'
    '| cuts | 0.2500 ± 0.0707 (2) | 0.4500 ± 0.0707 (2) '
    '| 0.6500 ± 0.0707 (2) |\n'
  )


def test_a_sweep_whose_cells_do_not_load_runs_nothing(path, runs, capfd):
  file = pathlib.Path(path)
  file.write_text(FILE.replace('add(noise=noise)', 'add(nois=noise)'))
  argv = [f'--config={path}', '--sweep', '--workdir=s']
  assert "did you mean 'noise'" in refusal(capfd, argv)
  assert not runs.seen


@pytest.mark.parametrize(
  ('results', 'known'),
  [
    ({}, False),
    ([], False),
    ({'provenance': {'config_hash': 'x'}}, False),
    ({'finished': False, 'provenance': {'config_hash': None}}, False),
    ({'finished': True, 'provenance': {'config_hash': None}}, True),
  ],
)
def test_finished(tmp_path, results, known):
  cfg = {'a': 1}
  if results and 'provenance' in results:
    made_by = results['provenance']
    made_by['config_hash'] = made_by['config_hash'] or config.fingerprint(cfg)
  assert study.read_finished(tmp_path, cfg) is None
  (tmp_path / 'results.json').write_text(json.dumps(results))
  assert (study.read_finished(tmp_path, cfg) is not None) == known
  (tmp_path / 'results.json').write_text('{"finished": tr')
  assert study.read_finished(tmp_path, cfg) is None


def test_only_our_own_temporaries_are_tidied(tmp_path):
  kept = ['.hidden', 'a.part', '.a.part', '.a.ABCDEFGH.part', 'b.abcdefgh.part']
  for name in [*kept, '.a.json.abc_efg1.part', '.results.json.12345678.part']:
    (tmp_path / name).write_text('')
  (tmp_path / '.checkpoint.abcdefgh.part').mkdir()
  with workdir.open_run(tmp_path, {'a': 1}):
    pass
  left = {path.name for path in tmp_path.iterdir()}
  assert left == {
    *kept,
    '.checkpoint.abcdefgh.part',
    'config.json',
    '.lock',
  }


def test_a_failure_after_training_keeps_the_claim(path, runs, capfd):
  argv = [f'--config={path}', '--workdir=w']
  runs.fail.append(errors.UserError('no such data'))
  assert main.main(argv) == 2
  assert not pathlib.Path('w/config.json').exists()
  pathlib.Path('w/checkpoints').mkdir()
  runs.fail.append(errors.UserError('diverged'))
  assert main.main(argv) == 2
  assert pathlib.Path('w/config.json').exists()
