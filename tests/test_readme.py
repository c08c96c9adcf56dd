"""What the README says can be pasted, can be."""

import pathlib
import re
import shlex

import pytest

from cmu_jax import config, usage

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / 'README.md').read_text(encoding='utf-8')
COMMANDS = [
  line.partition('#')[0].strip()
  for block in re.findall(r'```bash\n(.*?)```', TEXT, re.S)
  for line in block.splitlines()
  if line.startswith('python -m cmu_jax.main --config')
]


@pytest.mark.slow
def test_the_library_example_runs(capsys):
  code = re.search(r'```python\n(.*?)```', TEXT, re.S)
  assert code is not None
  exec(compile(code[1], 'README.md', 'exec'), {})
  printed = capsys.readouterr().out.split()
  assert printed[0] == 'alpha' and 0 <= float(printed[1]) <= 4


@pytest.mark.parametrize('command', COMMANDS)
def test_commands_are_understood(command, monkeypatch):
  monkeypatch.chdir(ROOT)
  flags, overrides = usage.parse(shlex.split(command)[3:])
  loaded = config.load(flags.config, overrides)
  if flags.sweep and loaded.config.task != 'corrective':
    assert config.cells(loaded)


def test_files_it_names_are_there():
  for name in re.findall(r'\]\(([\w./-]+)\)', TEXT):
    assert (ROOT / name).exists(), name
