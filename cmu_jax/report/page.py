"""The frame of report.html: no script, no font, no file from elsewhere.

report.html: the verdict first, then the evidence, then how to repeat it.
"""

import base64
import html
import json
import string
from collections.abc import Sequence
from typing import Any, NamedTuple

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


def fill_page(sections: dict[str, str], **parts: str) -> str:
  """The page with its parts, which are HTML already, put in place.

  Args:
    sections: heading -> content; a content that is empty is left out.
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


def escape(value: Any) -> str:
  """Any value as text that is safe inside HTML."""
  return html.escape(str(value))


def paragraphs(sentences: tuple[str, ...] | list[str]) -> str:
  """A paragraph a sentence."""
  return '\n'.join(f'<p>{escape(sentence)}</p>' for sentence in sentences)


def definition_list(glossary: dict[str, str]) -> str:
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


# Margins as fractions. The slack keeps 0.95 - 0.90 from counting as over 0.05.
HARM_SLACK = 1e-9


CLASS_HARM = 0.05


class Harm(NamedTuple):
  """A class whose mean accuracy fell by more than CLASS_HARM."""

  name: str
  before: float
  after: float


def find_harms(
  names: Sequence[str],
  before: Sequence[float | None],
  after: Sequence[float | None],
) -> tuple[Harm, ...]:
  """Classes whose accuracy fell by more than five points, worst first.

  Args:
    names: of the classes.
    before: their accuracies; None for a class without pictures.
    after: likewise.
  """
  found = [
    Harm(name, b, a)
    for name, b, a in zip(names, before, after, strict=True)
    if a is not None and b is not None and b - a > CLASS_HARM + HARM_SLACK
  ]
  return tuple(sorted(found, key=lambda harm: harm.after - harm.before))


def describe_harm(harm: Harm) -> str:
  """One harmed class in words, without a full stop."""
  lost = 'is no longer recognised' if harm.after < 0.05 else 'got worse'
  return f"class '{harm.name}' {lost}: {harm.before:.2f} → {harm.after:.2f}"


def harm_table(harmed: tuple[Harm, ...]) -> str:
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


def reproduction_section(
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
