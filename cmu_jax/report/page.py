"""report.html: the verdict first, then the evidence, then how to repeat it."""

import base64
import html
import json
from typing import Any

from cmu_jax.report import stats, template
from cmu_jax.studies.cuts import figures, names, tables, words
from cmu_jax.studies.cuts.results import Results
from cmu_jax.studies.cuts.verdict import Harm, Verdict

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


def escape(value: Any) -> str:
  """Any value as text that is safe inside HTML."""
  return html.escape(str(value))


def paragraphs(sentences: tuple[str, ...] | list[str]) -> str:
  """A paragraph a sentence."""
  return '\n'.join(f'<p>{escape(sentence)}</p>' for sentence in sentences)


def terms(glossary: dict[str, str]) -> str:
  """Terms and what they mean; nothing where there are none."""
  listed = ''.join(
    f'<dt>{escape(term)}</dt><dd>{escape(text)}</dd>'
    for term, text in glossary.items()
  )
  return f'<dl>{listed}</dl>' if listed else ''


def warning(text: str) -> str:
  """A line above the page that nobody overlooks."""
  return f'<div class="smoke" role="alert">{escape(text)}</div>'


def banner(smoke: bool) -> str:
  """The warning of a smoke run; nothing above others."""
  return warning('smoke: not evidence') if smoke else ''


def table(head: list[tuple[str, str]], rows: list[str], kind: str = '') -> str:
  """A table that scrolls sideways where the screen is too narrow.

  Args:
    head: for each column, its class and its name.
    rows: rows as HTML.
    kind: class of the table.
  """
  cells = ''.join(
    f'<th class="{shape}" scope="col">{escape(name)}</th>'
    for shape, name in head
  )
  return (
    f'<div class="wide" tabindex="0"><table class="{kind}">'
    f'<thead><tr>{cells}</tr></thead>'
    f'<tbody>{"".join(rows)}</tbody></table></div>'
  )


def harm(harmed: tuple[Harm, ...]) -> str:
  """The classes that got worse, as a table; nothing if there are none."""
  if not harmed:
    return ''
  head = [('', 'class'), ('number', 'before'), ('number', 'after')]
  rows = [
    f'<tr><td>{escape(harm.name)}</td>'
    f'<td class="number">{harm.before:.2f}</td>'
    f'<td class="number">{harm.after:.2f}</td>'
    f'<td class="number">{100 * (harm.after - harm.before):+.1f}</td></tr>'
    for harm in harmed
  ]
  return table([*head, ('number', 'change [points]')], rows, 'harm')


def harm_heading(harmed: tuple[Harm, ...]) -> str:
  """What the table of harm shows, in words."""
  classes = '1 class' if len(harmed) == 1 else f'{len(harmed)} classes'
  return f'Harm: {classes} fell by more than 5 points'


def _method_row(row: tables.Row, keys: list[str]) -> str:
  note = f'<small>{escape(row.note)}</small>' if row.note else ''
  numbers = ''.join(
    f'<td class="number">{tables.cell(key, row.metrics.get(key))}</td>'
    for key in keys
  )
  kind = ' class="own"' if row.method == 'cuts' else ''
  return (
    f'<tr{kind}><td>{escape(row.label)}{note}</td>'
    f'<td class="alpha">{escape(row.alpha or "–")}</td>{numbers}'
    f'<td class="seen">{escape(row.information)}</td></tr>'
  )


def _methods(results: Results) -> str:
  keys = tables.columns(results)
  head = [('', 'method'), ('', 'alpha')]
  head += [('number', names.metric(key)) for key in keys]
  head += [('', 'what it could see')]
  rows = [_method_row(row, keys) for row in tables.summary(results)]
  caption = f'<p class="soft">{escape(tables.caption(results))}</p>'
  return table(head, rows) + caption


def picture(png: bytes, title: str, caption: str) -> str:
  """A figure inside the page.

  Args:
    png: its bytes.
    title: what it shows, in words, for who cannot see it.
    caption: below it.
  """
  data = base64.b64encode(png).decode()
  return (
    f'<figure><div class="wide" tabindex="0"><img alt="{escape(title)}" '
    f'src="data:image/png;base64,{data}"></div>'
    f'<figcaption>{escape(caption)}</figcaption></figure>'
  )


def _figure(drawn: figures.Drawn, png: bytes | None) -> str:
  if png is None or drawn.figure is None:
    title = drawn.name.replace('_', ' ')
    return (
      f'<p class="soft">The figure "{escape(title)}" was left out: '
      f'{escape(drawn.missing)}.</p>'
    )
  # The heading of the figure is what its picture shows, in words.
  title = ' '.join(drawn.figure.get_suptitle().split())
  return picture(png, title, figures.CAPTIONS[drawn.name])


def _sure(results: Results, found: Verdict) -> str:
  few = len(stats.by_seed(results, 'cuts', 'test_accuracy'))
  limits = (
    f'This is one network on one data set, repeated with '
    f'{names.count(few, "seed")}; another network or another corruption may '
    'behave differently.'
  )
  return paragraphs([*found.sure, _RULES[results['task']], limits])


def reproduce(
  known: dict[str, Any], config: dict[str, Any], seeds: list[int]
) -> str:
  """Command, versions and configuration of a run.

  Args:
    known: the provenance in results.json.
    config: every setting.
    seeds: that were run.
  """
  versions = known.get('versions') or {}
  facts = {
    'seeds': ', '.join(map(str, seeds)),
    'configuration': known.get('config_hash'),
    'commit': known.get('commit'),
    'versions': ', '.join(f'{k} {v}' for k, v in versions.items()),
    'device': known.get('device'),
  }
  rows = [
    f'<tr><th scope="row">{escape(key)}</th>'
    f'<td><code>{escape(value or "not recorded")}</code></td></tr>'
    for key, value in facts.items()
  ]
  settings = escape(json.dumps(config, indent=2, sort_keys=True))
  return (
    f'<pre>{escape(known.get("command") or "not recorded")}</pre>'
    f'<div class="wide"><table>{"".join(rows)}</table></div>'
    f'<details><summary>The whole configuration</summary><pre>{settings}</pre>'
    '</details>'
  )


def _audited(results: Results) -> dict[str, str]:
  """A section on what an audit found; none without an audit."""
  told = words.audited(results)
  heading = 'Are the wrong labels still in there?'
  return {heading: paragraphs(told)} if told else {}


def render(
  results: Results,
  found: Verdict,
  drawn: list[tuple[figures.Drawn, bytes | None]],
) -> str:
  """The whole page as HTML that needs nothing else.

  Args:
    results: results.json of a run.
    found: its verdict.
    drawn: the figures and their PNGs; None for one that was left out.
  """
  return template.fill(
    name=escape(results['name']),
    label=escape(found.label),
    banner=banner(results['smoke']),
    tone='flat' if results['smoke'] else _TONES.get(found.label, 'flat'),
    heading=escape(found.label[0].upper() + found.label[1:]),
    sentences=paragraphs(found.sentences),
    sections={
      harm_heading(found.harmed): harm(found.harmed),
      'All methods': _methods(results),
      'Figures': '\n'.join(_figure(figure, png) for figure, png in drawn),
      'What was wrong': paragraphs(words.wrong(results)),
      'What was done': paragraphs(words.done(results)),
      'How sure this is': _sure(results, found),
      **_audited(results),
      'How to get the same numbers': reproduce(
        results['provenance'],
        results['config'],
        sorted({row['seed'] for row in results['rows']}),
      ),
      'Words used here': terms(words.GLOSSARY),
    },
  )
