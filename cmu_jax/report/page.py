"""Pieces of report.html, which needs no script, font or file from elsewhere."""

import base64
import html
import json
import string
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

# Colours of both schemes; `tone` colours the verdict. A table or figure that is
# too wide scrolls inside `.wide`, so the page itself never does.
_CSS = """
:root{color-scheme:light dark;--ink:#22262b;--soft:#5b6470;--paper:#fff;
--card:#f6f7f9;--rule:#dfe3e8;--good:#00735a;--bad:#b3450a;--flat:#5b6470;
--link:#005a91}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#a8b0ba;
--paper:#15181c;--card:#1f242a;--rule:#39414a;--good:#3ec9a0;--bad:#ff9a5c;
--flat:#a8b0ba;--link:#7cc4f2}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:60rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.6rem;line-height:1.25;margin:.2rem 0 1rem;
overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.4rem 0 .6rem;padding-top:.8rem;
border-top:1px solid var(--rule)}
p{margin:.5rem 0;max-width:44rem}
.smoke{background:#ffd33d;color:#22262b;font-weight:700;padding:.6rem 1rem;
text-align:center}
.verdict{background:var(--card);border-left:6px solid var(--tone);
border-radius:6px;padding:.8rem 1.1rem}
.verdict strong{color:var(--tone);font-size:1.3rem}
.good{--tone:var(--good)}.bad{--tone:var(--bad)}.flat{--tone:var(--flat)}
.wide{overflow-x:auto;margin:.8rem 0}
table{border-collapse:collapse;font-size:.92rem;
font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.35rem .8rem .35rem 0;vertical-align:top;
border-bottom:1px solid var(--rule)}
th{color:var(--soft);font-weight:600;white-space:nowrap}
td.number,th.number{text-align:right;white-space:nowrap}
td.alpha{white-space:nowrap}
tr.own td{font-weight:700}
td small{display:block;color:var(--soft);font-weight:400;min-width:9rem}
td.seen{min-width:11rem;color:var(--soft);font-weight:400}
.harm td:last-child{color:var(--bad);font-weight:600}
li.harm{color:var(--bad)}
figure{margin:1.6rem 0}
figure .wide{background:#fff;border:1px solid var(--rule);border-radius:6px;
padding:.6rem;margin:0}
figure img{display:block;width:100%;min-width:36rem;height:auto}
figcaption,.soft{color:var(--soft);font-size:.92rem;max-width:44rem;
margin-top:.5rem}
pre,code{font:.86rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
pre{background:var(--card);border-radius:6px;padding:.7rem .9rem;
overflow-x:auto}
code{overflow-wrap:anywhere}
dt{font-weight:600;margin-top:.6rem}
dd{margin:0;max-width:44rem}
summary{cursor:pointer;color:var(--link)}
@media print{figure,table{break-inside:avoid}}
"""

# Not str.format, because the style sheet is full of braces.
_PAGE = string.Template(
  """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>$name: $label</title>
<style>$style</style>
</head>
<body>
$banner
<main>
<h1>$name</h1>
<section class="verdict $tone">
<strong>$heading</strong>
$sentences
</section>
$sections
</main>
</body>
</html>
"""
)

# Fall in the accuracy of a class that counts as harm. The slack keeps
# 0.95 - 0.90, which is just above 0.05 in floating point, from counting.
CLASS_HARM = 0.05
HARM_SLACK = 1e-9


class Harm(NamedTuple):
  """A class whose mean accuracy fell by more than CLASS_HARM."""

  name: str
  start: float
  end: float


def find_harms(
  names: Sequence[str],
  before: Sequence[float | None],
  after: Sequence[float | None],
) -> tuple[Harm, ...]:
  """Finds the classes that fell by more than five points, worst first.

  Args:
    names: of the classes.
    before: their accuracies; None for a class without pictures.
    after: likewise.
  """
  harms = [
    Harm(name, b, a)
    for name, b, a in zip(names, before, after, strict=True)
    if a is not None and b is not None and b - a > CLASS_HARM + HARM_SLACK
  ]
  return tuple(sorted(harms, key=lambda harm: harm.end - harm.start))


def describe_harm(harm: Harm) -> str:
  """Describes a harmed class in words, without a full stop."""
  effect = 'is no longer recognised' if harm.end < 0.05 else 'got worse'
  return f"class '{harm.name}' {effect}: {harm.start:.2f} → {harm.end:.2f}"


def escape(value: Any) -> str:
  """Escapes any value for HTML."""
  # Names of classes and folders come from the user's files.
  return html.escape(str(value))


def paragraphs(sentences: Sequence[str]) -> str:
  """Formats each sentence as a paragraph."""
  return '\n'.join(f'<p>{escape(sentence)}</p>' for sentence in sentences)


def remark_section(results: Mapping[str, Any]) -> dict[str, str]:
  """The section of the remarks on the input, empty without remarks."""
  # Files of earlier versions lack the field.
  return {'About the input': paragraphs(results.get('remarks', ()))}


def definition_list(glossary: dict[str, str]) -> str:
  """Formats terms with their meanings; '' without terms."""
  items = ''.join(
    f'<dt>{escape(term)}</dt><dd>{escape(text)}</dd>'
    for term, text in glossary.items()
  )
  return f'<dl>{items}</dl>' if items else ''


def banner(smoke: bool) -> str:
  """Formats the warning of a smoke run; '' for other runs."""
  if not smoke:
    return ''
  # Screen readers announce an alert at once.
  return '<div class="smoke" role="alert">smoke: not evidence</div>'


def fold(title: str, content: str) -> str:
  """Formats HTML that a click on its title unfolds; '' without content."""
  if not content:
    return ''
  summary = f'<summary>{escape(title)}</summary>'
  return f'<details>{summary}{content}</details>'


def table(
  columns: list[tuple[str, str]], rows: list[str], kind: str = ''
) -> str:
  """Formats a table that scrolls sideways on a narrow screen.

  Args:
    columns: for each column, its class and its name.
    rows: rows as HTML.
    kind: class of the table.
  """
  cells = ''.join(
    f'<th class="{shape}" scope="col">{escape(name)}</th>'
    for shape, name in columns
  )
  # With tabindex, the keyboard can scroll the table too.
  return (
    f'<div class="wide" tabindex="0"><table class="{kind}">'
    f'<thead><tr>{cells}</tr></thead>'
    f'<tbody>{"".join(rows)}</tbody></table></div>'
  )


def harm_table(harms: tuple[Harm, ...]) -> str:
  """Formats the harmed classes as a table; '' if there are none."""
  if not harms:
    return ''
  numbers = ('before', 'after', 'change [points]')
  columns = [('', 'class'), *(('number', name) for name in numbers)]
  rows = [
    f'<tr><td>{escape(harm.name)}</td>'
    f'<td class="number">{harm.start:.2f}</td>'
    f'<td class="number">{harm.end:.2f}</td>'
    f'<td class="number">{100 * (harm.end - harm.start):+.1f}</td></tr>'
    for harm in harms
  ]
  return table(columns, rows, 'harm')


def harm_heading(harms: tuple[Harm, ...]) -> str:
  """Heading of the table of harm."""
  classes = '1 class' if len(harms) == 1 else f'{len(harms)} classes'
  return f'Harm: {classes} fell by more than 5 points'


def picture(png: bytes, title: str, caption: str) -> str:
  """Formats a figure.

  Args:
    png: its bytes.
    title: its content in words, for screen readers.
    caption: below it.
  """
  # Inside the page: report.html must stay whole when it is sent alone.
  data = base64.b64encode(png).decode()
  return (
    f'<figure><div class="wide" tabindex="0"><img alt="{escape(title)}" '
    f'src="data:image/png;base64,{data}"></div>'
    f'<figcaption>{escape(caption)}</figcaption></figure>'
  )


def reproduction_section(
  provenance: dict[str, Any], config: dict[str, Any], seeds: list[int]
) -> str:
  """Formats command, versions and configuration of a run.

  Args:
    provenance: of results.json.
    config: every setting.
    seeds: of the run.
  """
  versions = provenance.get('versions') or {}
  facts = {
    'seeds': ', '.join(map(str, seeds)),
    'configuration': provenance.get('config_hash'),
    'commit': provenance.get('commit'),
    'versions': ', '.join(f'{k} {v}' for k, v in versions.items()),
    'device': provenance.get('device'),
  }
  rows = [
    f'<tr><th scope="row">{escape(key)}</th>'
    f'<td><code>{escape(value or "not recorded")}</code></td></tr>'
    for key, value in facts.items()
  ]
  # Sorted, so that equal configurations look equal.
  settings = escape(json.dumps(config, indent=2, sort_keys=True))
  return (
    f'<pre>{escape(provenance.get("command") or "not recorded")}</pre>'
    f'<div class="wide"><table>{"".join(rows)}</table></div>'
    + fold('The whole configuration', f'<pre>{settings}</pre>')
  )


def fill_page(sections: dict[str, str], **parts: str) -> str:
  """Fills the page with its parts, which are HTML already.

  Args:
    sections: heading -> content; an empty content is left out.
    **parts: name, label, banner, tone, heading and sentences.

  Raises:
    KeyError: a part is missing.
  """
  body = '\n'.join(
    f'<h2>{heading}</h2>\n{content}'
    for heading, content in sections.items()
    if content
  )
  return _PAGE.substitute(parts, sections=body, style=_CSS)
