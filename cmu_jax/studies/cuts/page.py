"""page."""

from cmu_jax.report import page, style
from cmu_jax.studies.cuts import figures, names, seed_stats, tables, words
from cmu_jax.studies.cuts.load import Results
from cmu_jax.studies.cuts.verdict import Verdict

_TONES = {
  'repaired': 'good',
  'partly repaired': 'good',
  'made worse': 'bad',
}


_RULES = {
  'label_noise': (
    'The verdict is "repaired" when on average at least 90 % of the gap to the '
    'oracle is closed and the 95 % interval of the change lies above zero, '
    '"partly repaired" when only the latter holds, and "made worse" when the '
    'interval lies below zero or accuracy fell by more than a point on '
    "average. The interval is Student's t over paired differences of seeds."
  ),
  'poison': (
    'The verdict is "repaired" when the attack success rate on triggered test '
    'images is at most 0.05, test accuracy fell by at most 2 points and no '
    'class by more than 5; "partly repaired" when the rate at least halved '
    'without such harm; and "made worse" with such harm, even if the trigger '
    'no longer works.'
  ),
}


def _method_row(row: tables.Row, keys: list[str]) -> str:
  note = f'<small>{page.escape(row.note)}</small>' if row.note else ''
  numbers = ''.join(
    f'<td class="number">{tables.cell(key, row.metrics.get(key))}</td>'
    for key in keys
  )
  kind = ' class="own"' if row.method == 'cuts' else ''
  return (
    f'<tr{kind}><td>{page.escape(row.label)}{note}</td>'
    f'<td class="alpha">{page.escape(row.alpha or "–")}</td>{numbers}'
    f'<td class="seen">{page.escape(row.information)}</td></tr>'
  )


def _methods(results: Results) -> str:
  keys = tables.columns(results)
  head = [('', 'method'), ('', 'alpha')]
  head += [('number', names.metric(key)) for key in keys]
  head += [('', 'what it could see')]
  rows = [_method_row(row, keys) for row in tables.summary(results)]
  caption = f'<p class="soft">{page.escape(tables.caption(results))}</p>'
  return page.table(head, rows) + caption


def _figure(drawn: style.ReportFigure, png: bytes | None) -> str:
  if png is None or drawn.figure is None:
    title = drawn.name.replace('_', ' ')
    return (
      f'<p class="soft">The figure "{page.escape(title)}" was left out: '
      f'{page.escape(drawn.reason)}.</p>'
    )
  # The heading of the figure is what its picture shows, in words.
  title = ' '.join(drawn.figure.get_suptitle().split())
  return page.picture(png, title, figures.CAPTIONS[drawn.name])


def _sure(results: Results, found: Verdict) -> str:
  few = len(seed_stats.by_seed(results, 'cuts', 'test_accuracy'))
  limits = (
    f'This is one network on one data set, repeated with '
    f'{names.count(few, "seed")}; another network or another corruption may '
    'behave differently.'
  )
  return page.paragraphs([*found.sure, _RULES[results['task']], limits])


def _audited(results: Results) -> dict[str, str]:
  """A section on what an audit found; none without an audit."""
  told = words.audited(results)
  heading = 'Are the wrong labels still in there?'
  return {heading: page.paragraphs(told)} if told else {}


def render(
  results: Results,
  found: Verdict,
  drawn: list[tuple[style.ReportFigure, bytes | None]],
) -> str:
  """The whole page as HTML that needs nothing else.

  Args:
    results: results.json of a run.
    found: its verdict.
    drawn: the figures and their PNGs; None for one that was left out.
  """
  return page.fill_page(
    name=page.escape(results['name']),
    label=page.escape(found.label),
    banner=page.banner(results['smoke']),
    tone='flat' if results['smoke'] else _TONES.get(found.label, 'flat'),
    heading=page.escape(found.label[0].upper() + found.label[1:]),
    sentences=page.paragraphs(found.sentences),
    sections={
      page.harm_heading(found.harmed): page.harm_table(found.harmed),
      'All methods': _methods(results),
      'Figures': '\n'.join(_figure(figure, png) for figure, png in drawn),
      'What was wrong': page.paragraphs(words.wrong(results)),
      'What was done': page.paragraphs(words.done(results)),
      'How sure this is': _sure(results, found),
      **_audited(results),
      'How to get the same numbers': page.reproduction_section(
        results['provenance'],
        results['config'],
        sorted({row['seed'] for row in results['rows']}),
      ),
      'Words used here': page.definition_list(words.GLOSSARY),
    },
  )
