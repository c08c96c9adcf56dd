"""The frame of report.html: no script, no font, no file from elsewhere."""

import string

_STYLE = """
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

PAGE = string.Template(
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


def fill(sections: dict[str, str], **parts: str) -> str:
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
  return PAGE.substitute(parts, sections=body, style=_STYLE)
