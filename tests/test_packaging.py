"""What an installed package has: the configs, and words for their fields."""

import importlib.metadata
import pathlib
import tomllib

import pytest

from cmu_jax.commands import field_words, study, usage
from cmu_jax.core import config

REPOSITORY = pathlib.Path(__file__).parents[1]
CONFIGS = sorted((REPOSITORY / 'configs').glob('*.py'))


@pytest.fixture
def installed(tmp_path, monkeypatch):
  """The records of a wheel in an empty current folder."""
  place = tmp_path / 'share' / 'cmu_jax' / 'configs'
  place.mkdir(parents=True)
  (place / 'cuts_digits.py').write_text(CONFIGS[0].read_text())
  records = []
  for name in ('cuts_digits.py', 'notes.txt'):
    record = importlib.metadata.PackagePath(f'share/cmu_jax/configs/{name}')
    record.dist = importlib.metadata.PathDistribution(tmp_path / 'x.dist-info')
    records.append(record)
  monkeypatch.setattr(importlib.metadata, 'files', lambda name: records)
  (tmp_path / 'elsewhere').mkdir()
  monkeypatch.chdir(tmp_path / 'elsewhere')
  return place


def test_a_wheel_holds_every_config():
  project = tomllib.loads((REPOSITORY / 'pyproject.toml').read_text())
  ((folder, patterns),) = project['tool']['setuptools']['data-files'].items()
  assert folder == 'share/cmu_jax/configs'
  files = {path for p in patterns for path in REPOSITORY.glob(p)}
  assert files == set(CONFIGS)


def test_configs_are_found_without_a_checkout(installed, capfd):
  loaded = config.load('configs/cuts_digits.py')
  assert loaded.config.task and loaded.name == 'cuts_digits'
  assert study.main(['--help']) == 0
  assert 'configs/cuts_digits.py: ' in capfd.readouterr().out
  assert study.main(['--config=configs/cuts_digit.py']) == 2
  assert "did you mean 'configs/cuts_digits.py'" in capfd.readouterr().err


def test_a_file_at_hand_precedes_an_installed_one(installed):
  pathlib.Path('configs').mkdir()
  pathlib.Path('configs/cuts_digits.py').write_text(
    'import ml_collections\n'
    'def get_config():\n'
    '  return ml_collections.ConfigDict({"mine": 1})\n'
  )
  assert config.load('configs/cuts_digits.py').config.to_dict() == {'mine': 1}


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_every_field_has_words(path):
  loaded = config.load(str(path))
  fields = config.flatten(loaded.config)
  assert [name for name in fields if not field_words.describe(name)] == []
  text = usage.help_text(REPOSITORY / 'configs', loaded)
  for name in fields:
    (line,) = [x for x in text.splitlines() if f'--config.{name}=' in x][-1:]
    assert line.endswith(field_words.describe(name))
