"""What a sweep shows says what its rows say, whatever names they bear."""

import html.parser
import json
import re
import shutil
import subprocess

import corrective_fakes as fakes
import hypothesis
import pytest
from hypothesis import strategies as st

from cmu_jax.report import frame, style
from cmu_jax.studies.corrective import (
  figures,
  picker,
  report,
  summary,
  tables,
)
from cmu_jax.studies.corrective.summary import Line

POISON, CONFUSED = fakes.PROBLEMS
MANY = (*fakes.PAPER, *(f'method_{i}' for i in range(12)))


class _Reader(html.parser.HTMLParser):
  """Collects the text, the addresses and the scripts of a page."""

  def __init__(self):
    super().__init__()
    self.text, self.addresses, self.scripts, self.inside = [], [], [], None

  def handle_starttag(self, tag, attrs):
    self.inside = tag
    self.addresses += [v for k, v in attrs if k in ('src', 'href')]
    if tag == 'script':
      self.scripts.append('')

  def handle_endtag(self, tag):
    self.inside = None

  def handle_data(self, data):
    if self.inside == 'script':
      self.scripts[-1] += data
    elif self.inside != 'style':
      self.text.append(data)


def _read(text):
  read = _Reader()
  read.feed(text)
  return read, ' '.join(' '.join(read.text).split())


@pytest.fixture(scope='module')
def shown(tmp_path_factory):
  run = fakes.results(fractions=(0.1, 1.0), class_names=fakes.NASTY * 2)
  folder = fakes.save(tmp_path_factory.mktemp('sweep'), run)
  (folder / 'figures').mkdir()
  patch = pytest.MonkeyPatch()
  patch.setattr(style, '_PIXELS_PER_INCH', 40)
  for name in ('curves_others_9', 'mine'):
    (folder / f'figures/{name}.png').write_bytes(b'old')
  yield run, folder, frame.show(report.REPORT, folder)
  patch.undo()


def test_show_writes_tables_figures_and_the_page(shown):
  run, folder, written = shown
  assert written == folder / 'report.html'
  made = {str(p.relative_to(folder)) for p in folder.rglob('*') if p.is_file()}
  stems = [f'tables/{name}' for name in tables.build_tables(run)]
  assert made == {
    'results.json',
    'report.html',
    'figures/mine.png',
    *(f'figures/{name}.png' for name in figures.list_names(run)),
    *(f'{stem}.{kind}' for stem in stems for kind in ('md', 'tex')),
  }
  assert {'tables/table1_retain', 'tables/poison_acc_corr'} <= set(stems)
  assert set(figures.list_names(run)) == {
    'curves_paper',
    'importance',
    'utility_poison_600',
    'utility_interclass_400',
    'cost',
  }


def test_the_page_is_whole_and_needs_nothing_else(shown):
  run, _, written = shown
  read, text = _read(written.read_text(encoding='utf-8'))
  assert all(a.startswith('data:image/png;base64,') for a in read.addresses)
  assert len(read.addresses) == len(figures.list_names(run))
  order = ['No method reaches', 'Doing nothing has', 'Pick a chart', 'Tables']
  places = [text.index(part) for part in [*order, 'How to get the same']]
  assert places == sorted(places)
  for name in fakes.NASTY[:2]:
    assert name in text
  assert 'one half of the test set' in text


def test_the_data_of_the_chart_survive_any_name(shown):
  run, _, written = shown
  read, _ = _read(written.read_text(encoding='utf-8'))
  assert len(read.scripts) == 2
  data = json.loads(json.dumps(picker.describe_chart(run)))
  assert json.loads(read.scripts[0]) == data
  assert '</' not in read.scripts[0]


@hypothesis.given(st.text())
def test_embedded_text_never_ends_its_script(text):
  embedded = picker.embed_json({text: [text]})
  assert not set('<>&') & set(embedded)
  assert json.loads(embedded) == {text: [text]}


def test_the_chart_has_the_numbers_of_the_rows():
  run = fakes.mixed()
  held, view = picker.describe_chart(run), summary.index_rows(run)
  entry = held['problems'][0]
  got = entry['lines']['paper']['scrub']['acc_corr'][1]
  cell = summary.get_cell(view, Line(POISON, 'scrub', 'paper'), 0.5, 'acc_corr')
  assert got == [pytest.approx(cell.values[0], abs=1e-5), None, 0, 1, 0, 1]
  levels = entry['levels']['acc_corr']
  assert levels['0.9 U*'] == pytest.approx(0.9 * levels['U*'], abs=1e-5)
  assert held['problems'][1]['levels']['acc_corr']['0.9 U*'] is None
  assert 'attack_success_rate' not in held['problems'][1]['levels']


PICK = """<script>
window.onerror = function (text) { document.title = 'error: ' + text; };
function pick(name, value) {
  var one = document.getElementById('pick-' + name);
  one.value = value;
  one.dispatchEvent(new Event('change'));
}
document.querySelector('[data-set=no]').click();
document.getElementById('method-2').click();
pick('problem', 1); pick('metric', 'acc_retain'); pick('rule', 'oracle');
</script></body>"""


@pytest.mark.skipif(
  not shutil.which('chromium'), reason='no chromium to run the page in'
)
def test_the_chart_is_redrawn_for_what_was_picked(tmp_path):
  run = fakes.results(seeds=2, class_names=fakes.NASTY * 2)
  path = tmp_path / 'page.html'
  text = frame.render(report.REPORT, run, []).replace('</body>', PICK)
  path.write_text(text, encoding='utf-8')
  flags = ['--headless', '--no-sandbox', '--disable-gpu', '--dump-dom']
  command = ['chromium', *flags, f'--user-data-dir={tmp_path}/u']
  done = subprocess.run(
    [*command, path.as_uri()], capture_output=True, text=True, timeout=60
  )
  assert '<title>error' not in done.stdout
  marks = re.findall(r'role="img" aria-label="([^"]*)"', done.stdout)
  assert len(marks) == len(fakes.FRACTIONS)
  line = Line(CONFUSED, 'ssd', 'oracle')
  cell = summary.get_cell(summary.index_rows(run), line, 0.1, 'acc_retain')
  mean = cell.spread.mean
  assert marks[0].startswith(f'ssd, 0.1 identified: {mean:.3f} ± ')
  assert '2 collapsed' in marks[0]


def test_an_empty_sweep_has_a_page_and_no_figures():
  run = fakes.results(seeds=0, problems=(), finished=False)
  read, text = _read(frame.render(report.REPORT, run, []))
  assert 'No verdict yet' in text and 'not finished' in text
  assert figures.list_names(run) == () and read.scripts == []
