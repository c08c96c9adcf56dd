"""A report says what the two result files say, and nothing else."""

import html.parser
import io
import json
import re
import warnings

import numpy as np
import pytest
import report_fakes

from cmu_jax.core import errors
from cmu_jax.report import frame, text_tables
from cmu_jax.studies.cuts import report, tables

NASTY = ['<b>x</b>', 'a|b', '$x_{', '[red]r', '"&\'', 'é', '`c`', '\\', '', '9']


class _Reader(html.parser.HTMLParser):
  """Collects the text, the tags and the addresses of a page."""

  def __init__(self):
    super().__init__()
    self.text, self.tags, self.addresses = [], [], []

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.addresses += [v for k, v in attrs if k in ('src', 'href')]

  def handle_data(self, data):
    self.text.append(data)


def _read(path):
  read = _Reader()
  read.feed(path.read_text(encoding='utf-8'))
  return read, ' '.join(' '.join(read.text).split())


def _render(run):
  return frame.render(report.REPORT, run, [])


def _files(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }


@pytest.fixture(scope='module')
def poison(tmp_path_factory):
  run = report_fakes.results('poison')
  folder = tmp_path_factory.mktemp('poison')
  report_fakes.save(folder, run, report_fakes.arrays(deleted=0))
  return folder, frame.show(report.REPORT, folder)


def test_build_writes_tables_figures_and_the_page(poison):
  folder, written = poison
  assert written == folder / 'report.html'
  made = set(_files(folder)) - {'results.json', 'arrays.npz'}
  assert made == {
    'report.html',
    'tables/results.md',
    'tables/per_class.md',
    *(f'figures/{name}.png' for name in report.CAPTIONS),
  }


def test_the_page_opens_with_the_verdict_then_the_harm(poison):
  _, text = _read(poison[1])
  order = [
    'Made worse',
    "class '0' is no longer recognised: 1.00 → 0.00",
    'Harm: 1 class fell by more than 5 points',
    'All methods',
    'Figures',
    'What was wrong',
    'What was done',
    'How sure this is',
    'How to get the same numbers',
    'Words used here',
  ]
  places = [text.index(part) for part in order]
  # The title of the document repeats the verdict, hence the first place.
  assert places == sorted(places)
  for fact in ('9f2c1ab04d', 'edbb61c0a1b2c3d4', 'jax 0.10.2', '0, 1, 2'):
    assert fact in text


def test_the_page_needs_nothing_from_elsewhere(poison):
  read, _ = _read(poison[1])
  assert 'script' not in read.tags and 'link' not in read.tags
  assert len(read.addresses) == len(report.CAPTIONS)
  assert all(a.startswith('data:image/png;base64,') for a in read.addresses)
  source = poison[1].read_text(encoding='utf-8')
  assert 'http' not in source and '@import' not in source
  assert 'url(' not in source


def test_the_same_files_give_the_same_report(poison, tmp_path):
  folder, _ = poison
  for name in ('results.json', 'arrays.npz'):
    (tmp_path / name).write_bytes((folder / name).read_bytes())
  frame.show(report.REPORT, tmp_path)
  assert _files(tmp_path) == _files(folder)


@pytest.mark.parametrize('smoke', [True, False])
def test_smoke_runs_carry_a_banner(smoke):
  run = report_fakes.results(seeds=1, smoke=smoke)
  out = io.StringIO()
  tables.console(run, out)
  table = {'results': tables.methods_table(run)}
  file = text_tables.markdown_files(table, smoke)['results.md']
  for text in (_render(run), file, out.getvalue()):
    assert ('smoke: not evidence' in text) == smoke


def test_figures_without_their_arrays_are_left_out_with_a_reason(tmp_path):
  folder = report_fakes.save(tmp_path, report_fakes.results(seeds=1))
  stale = folder / 'figures/confusions.png'
  stale.parent.mkdir()
  stale.write_bytes(b'of an earlier run')
  read, text = _read(frame.show(report.REPORT, folder))
  assert not stale.exists()
  assert len(read.addresses) == 2
  assert 'recorded no confusion_corrupted, confusion_cuts' in text
  assert 'recorded no feature_path' in text


def test_names_are_never_read_as_markup(tmp_path):
  run = report_fakes.results(seeds=2)
  run['class_names'] = NASTY
  run['name'] = '<i>$n$</i>|[bold]'
  run['rows'][0]['information'] = '<script>alert(1)</script>'
  run['provenance']['command'] = 'x <y> & z'
  for row in run['per_class']:
    if row['method'] == 'cuts':
      row['accuracy'][0] = 0.0
  folder = report_fakes.save(tmp_path, run, report_fakes.arrays(seeds=2))
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    read, text = _read(frame.show(report.REPORT, folder))
  assert not {'script', 'b', 'i'} & set(read.tags)
  assert "Class '<b>x</b>' is no longer recognised" in text
  assert '<script>alert(1)</script>' in text and 'x <y> & z' in text
  rows = (tmp_path / 'tables/per_class.md').read_text().splitlines()
  bars = {len(re.findall(r'(?<!\\)\|', r)) for r in rows if r.startswith('|')}
  assert len(bars) == 1
  out = io.StringIO()
  tables.console(run, out)
  assert '[bold]' in out.getvalue()


def _without(key):
  run = report_fakes.results(seeds=1)
  del run[key]
  return run


def _with_nan():
  run = report_fakes.results(seeds=1)
  run['rows'][0]['test_accuracy'] = float('nan')
  return run


@pytest.mark.parametrize(
  'content, message',
  [
    ('not json', 'cannot read'),
    ('[]', 'not of task label_noise or poison, schema 1'),
    (json.dumps(report_fakes.results() | {'schema': 2}), 'schema 1'),
    (json.dumps(report_fakes.results() | {'task': 'x'}), 'label_noise or'),
    (json.dumps(_without('rows')), "'rows' is missing"),
    (json.dumps(report_fakes.results(seeds=1) | {'rows': []}), "'corrupted'"),
    (
      json.dumps(report_fakes.results(seeds=1) | {'rows': [{}]}),
      'has no method',
    ),
    (json.dumps(_with_nan()), 'test_accuracy is not finite'),
  ],
)
def test_foreign_results_are_one_line_errors(tmp_path, content, message):
  (tmp_path / 'results.json').write_text(content)
  with pytest.raises(errors.UserError, match=re.escape(message)) as caught:
    frame.show(report.REPORT, tmp_path)
  assert '\n' not in str(caught.value)
  assert not (tmp_path / 'report.html').exists()


def test_a_missing_file_is_a_one_line_error(tmp_path):
  with pytest.raises(errors.UserError, match='does not exist'):
    frame.show(report.REPORT, tmp_path / 'nowhere')


def _npz(**found):
  file = io.BytesIO()
  np.savez(file, **found)
  return file.getvalue()


@pytest.mark.parametrize(
  'content, message',
  [
    (b'', 'plain arrays'),
    (b'PK\x03\x04 broken', 'plain arrays'),
    (b'not an archive', 'plain arrays'),
    (_npz(objects=np.array([{}], object)), 'plain arrays'),
    (_npz(confusion_cuts=np.zeros((1, 3, 3), int)), 'confusion_cuts has shape'),
    (_npz(feature_path=np.zeros((2, 5, 2))), 'feature_path'),
  ],
)
def test_foreign_arrays_are_one_line_errors(tmp_path, content, message):
  (tmp_path / 'arrays.npz').write_bytes(content)
  with pytest.raises(errors.UserError, match=message) as caught:
    report.read_arrays(tmp_path, 10)
  assert '\n' not in str(caught.value)


def test_a_lone_array_under_the_name_is_refused(tmp_path):
  with (tmp_path / 'arrays.npz').open('wb') as file:
    np.save(file, np.zeros(3))
  with pytest.raises(errors.UserError, match='plain arrays'):
    report.read_arrays(tmp_path, 10)
