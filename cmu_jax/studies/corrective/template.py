"""The controls of the chart of the page, and their look."""

STYLE = """
.pick{display:flex;flex-wrap:wrap;gap:.6rem 1.2rem;align-items:end}
.pick label{display:block;min-width:0;max-width:100%}
.pick select,.pick button{font:inherit;max-width:100%;padding:.2rem .4rem}
fieldset.pick{border:1px solid var(--rule);border-radius:6px;margin:.8rem 0;
gap:.1rem 1rem}
fieldset.pick label{min-width:11.5rem;cursor:pointer}
fieldset.pick svg{vertical-align:middle;background:#fff;border-radius:3px;
margin-right:.3rem}
#chart{background:#fff;color:#22262b;border:1px solid var(--rule);
border-radius:6px;overflow-x:auto}
#chart svg{display:block;width:100%;min-width:34rem;height:auto}
#chart [tabindex]:focus{outline:none;stroke:#22262b;stroke-width:3}
#readout{min-height:3.2em}
.verdict h3{font-size:1rem;margin:.9rem 0 .2rem}
.verdict ul{margin:.2rem 0;padding-left:1.2rem}
.verdict li.hurt{color:var(--bad)}
"""

CONTROLS = """
<noscript><p>The chart needs JavaScript. The tables and figures below show the
same numbers.</p></noscript>
<div class="pick">
<label>Manipulation<br><select id="pick-problem"></select></label>
<label>Metric<br><select id="pick-metric"></select></label>
<label>Hyperparameters chosen by<br><select id="pick-rule"></select></label>
</div>
<fieldset class="pick" id="pick-methods"><legend>Methods</legend></fieldset>
<div class="pick">
<button type="button" data-set="paper">paper's methods</button>
<button type="button" data-set="all">all</button>
<button type="button" data-set="no">none</button>
</div>
<p class="soft" id="says"></p>
<div id="chart"></div>
<p class="soft" id="readout" aria-live="polite"></p>
<div class="wide" tabindex="0" id="values"></div>
"""
