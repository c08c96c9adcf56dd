"""What the README says can be pasted, can be."""

import pathlib
import re
import shlex

import pytest

from cmu_jax.commands import usage
from cmu_jax.core import config

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
    assert config.sweep_cells(loaded)


def _anchor(heading):
  """What a heading is called in a link."""
  return re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')


@pytest.mark.parametrize(
  'page',
  [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))],
  ids=lambda page: page.name,
)
def test_what_a_page_links_to_is_there(page):
  text = page.read_text(encoding='utf-8')
  for name, anchor in re.findall(r'\]\(([\w./-]*)(?:#([\w-]+))?\)', text):
    there = page.parent / name if name else page
    assert there.exists(), name
    if anchor:
      headings = re.findall(r'^#+ (.*)$', there.read_text('utf-8'), re.M)
      assert anchor in map(_anchor, headings), anchor


def test_results_that_are_named_are_there():
  """A number counts with its file."""
  for page in (TEXT, (ROOT / 'docs' / 'numbers.md').read_text('utf-8')):
    for name in re.findall(r'`(results/[^`]+\.json)`', page):
      assert (ROOT / name).is_file(), name
