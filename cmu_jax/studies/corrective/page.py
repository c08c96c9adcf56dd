"""report.html of a sweep: verdict, a chart to pick from, tables, figures."""

from cmu_jax.report import page, text_tables
from cmu_jax.report.style import ReportFigure
from cmu_jax.report.text_tables import TextTable
from cmu_jax.studies.corrective import (
  figures,
  looks,
  outcomes,
  picker,
  script,
  summary,
  tables,
  template,
  verdict,
)
from cmu_jax.studies.corrective.load import Results
from cmu_jax.studies.corrective.outcomes import Outcome
from cmu_jax.studies.corrective.verdict import Verdict

_GLOSSARY = {
  'S_tr, S_m, S_f': (
    'The training set; its manipulated part; and the part of S_m that was '
    'identified, which methods may use. The identified fraction is '
    '|S_f| / |S_m|.'
  ),
  'poison': (
    'S_m carries a trigger and is labelled as the target class; the model '
    'learns to answer with that class whenever it sees the trigger.'
  ),
  'interclass': 'In S_m the labels of two classes are swapped.',
  'Acc_corr': (
    'Accuracy on unseen images of the affected kind (with the trigger, or of '
    'the two classes), against true labels.'
  ),
  'Acc_retain': 'Accuracy on unseen images that the manipulation spares.',
  'U*': (
    'The gold standard: retraining without any of S_m, that is rewod at '
    'identified fraction 1.'
  ),
  'alpha_0.9': (
    'The smallest identified fraction from which on Acc_corr stays at least '
    '0.9 Acc_corr(U*, 1). Smaller is better.'
  ),
  'none': 'Doing nothing: the model as it was trained.',
  'selection': (
    'Methods with hyperparameters are tried on a grid. Under "paper", the '
    'point shown has the best mean of validation accuracy and of the share of '
    'S_f whose prediction changed. Under "oracle", it is the best one in '
    'hindsight, which shows what is lost in choosing.'
  ),
  'collapsed': (
    'Validation accuracy fell by more than 5 points. A model that always '
    'answers the same changes all of S_f, so the rule above may choose it.'
  ),
  'diverged': (
    'Training blew up, so that there is no accuracy. It counts as a failure.'
  ),
  'point': 'A hundredth of a rate: from 0.90 to 0.85 is a fall of 5 points.',
  '95 % t-interval': (
    "Student's t over seeds: where the mean over many more seeds would "
    'plausibly lie. With three seeds it is wide, and rightly so.'
  ),
}


def _outcome(one: Outcome, seeds: int) -> str:
  """One problem of the verdict: its levels, and who reaches the bar."""
  items = [
    f'<li{" class=hurt" if harm else ""}>{page.escape(text)}</li>'
    for text, harm in outcomes.lines(one, seeds)
  ]
  told = f'<ul>{"".join(items)}</ul>' if items else ''
  return (
    f'<h3>{page.escape(one.title)}</h3>{page.paragraphs(one.sentences)}{told}'
  )


def _said(found: Verdict, seeds: int) -> str:
  each = ''.join(_outcome(one, seeds) for one in found.outcomes)
  return each + page.paragraphs(found.sentences)


def _chart(results: Results) -> str:
  """The chart with its data; nothing while there is nothing to draw."""
  held = picker.data(results)
  if not held['problems'] or not held['fractions'] or not held['methods']:
    return ''
  return (
    f'{template.CONTROLS}<script type="application/json" id="sweep">'
    f'{picker.embedded(held)}</script><script>{script.SCRIPT}</script>'
  )


def _more(title: str, tables: list[TextTable]) -> str:
  if not tables:
    return ''
  body = ''.join(map(text_tables.html, tables))
  return f'<details><summary>{page.escape(title)}</summary>{body}</details>'


def _tables(results: Results) -> str:
  """The main tables, and the same with hindsight out of the way."""
  view = summary.view(results)
  made = {
    rule: [
      tables.alphas(view, rule),
      *(tables.fractions(view, p, 'acc_corr', rule) for p in view.problems),
      tables.retain(view, rule),
      tables.cost(view, rule),
    ]
    for rule in summary.SELECTIONS
  }
  chosen = [
    tables.hypers(view, problem, rule)
    for problem in view.problems
    for rule in summary.SELECTIONS
  ]
  return (
    ''.join(map(text_tables.html, made['paper']))
    + _more('The same, chosen in hindsight (oracle)', made['oracle'])
    + _more('Chosen hyperparameters', chosen)
    + '<p class="soft">Every metric, in Markdown and LaTeX: the folder tables '
    'beside this page.</p>'
  )


def _problems(results: Results) -> str:
  """What was manipulated, and what hyperparameters were chosen on."""
  names = results['class_names']
  sentences = []
  for entry in results['problems']:
    told = looks.title(entry, names)
    sentences.append(f'{told[0].upper()}{told[1:]}. {looks.validation(entry)}')
  return page.paragraphs(sentences)


def _references(results: Results) -> str:
  """What the attacker compares with."""
  count = results['config'].get('references', 0)
  if not count:
    return (
      'It takes the likelier one, without references: a confusion of two '
      'classes is also the likelier mistake of a network that never saw it.'
    )
  return (
    f'It takes the one that is likelier than {count} networks trained without '
    'the manipulated images hold it to be, for a confusion of two classes is '
    'also the likelier mistake of a network that never saw it.'
  )


def _audited(results: Results) -> dict[str, str]:
  """What an audit of the wrong labels found; nothing without one."""
  if all(row.get('label_recovery') is None for row in results['rows']):
    return {}
  view = summary.view(results)
  found = [
    tables.fractions(view, problem, 'label_recovery', 'paper')
    for problem in view.problems
  ]
  limits = (
    'An attacker who has a manipulated training image and the network takes '
    'one of two wrong labels: the one that was trained on, or another one. A '
    'method whose share is well above that of rewod at 1 answers rightly and '
    'still holds the wrong labels. A share near it shows that this attack '
    'finds nothing on average; a stronger one may. ' + _references(results)
  )
  heading = 'Are the wrong labels still in there?'
  return {
    heading: page.paragraphs([limits]) + ''.join(map(text_tables.html, found))
  }


def _figure(drawn: ReportFigure, png: bytes | None) -> str:
  # `draw_figures` gives None for a figure with a reason; these have none.
  assert png is not None
  made = drawn.figure
  title = ' '.join(made.get_suptitle().split()) if made else drawn.name
  return page.picture(png, title, figures.caption(drawn.name))


def render(
  results: Results, drawn: list[tuple[ReportFigure, bytes | None]]
) -> str:
  """The whole page as HTML that needs nothing else.

  Args:
    results: checked contents of results.json.
    drawn: the figures and their PNGs.
  """
  found = verdict.verdict(results)
  seeds = summary.view(results).seeds
  banner = ''.join(map(page.alert, tables.warnings(results)))
  return page.fill_page(
    name=page.escape(results['name']),
    label=page.escape(found.label),
    banner=f'<style>{template.STYLE}</style>{banner}',
    tone='good' if found.good else 'flat',
    heading=page.escape(found.label),
    sentences=_said(found, len(seeds)),
    sections={
      'Pick a chart': _chart(results),
      'Tables': _tables(results),
      'Figures': '\n'.join(_figure(*pair) for pair in drawn),
      **_audited(results),
      'What was manipulated': _problems(results),
      **page.remark_section(results),
      'How to read this': page.definition_list(_GLOSSARY),
      'How to get the same numbers': page.reproduction_section(
        results['provenance'], results['config'], list(seeds)
      ),
    },
  )
