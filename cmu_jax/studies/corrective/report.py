"""The report of the corrective benchmark, from its results.json."""

from cmu_jax.report import frame, page, text_tables
from cmu_jax.report.frame import Results
from cmu_jax.studies.corrective import (
  figures,
  looks,
  outcomes,
  picker,
  summary,
  tables,
  verdict,
)
from cmu_jax.studies.corrective.outcomes import Outcome

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


def _format_outcome(outcome: Outcome, seeds: int) -> str:
  """Formats a problem: its levels, and the methods that reach the bar."""
  # Harm has a colour of its own, so that no one overlooks it.
  items = [
    f'<li{" class=harm" if harm else ""}>{page.escape(text)}</li>'
    for text, harm in outcomes.describe_methods(outcome, seeds)
  ]
  body = f'<ul>{"".join(items)}</ul>' if items else ''
  title = page.escape(outcome.title)
  return f'<h3>{title}</h3>{page.paragraphs([outcome.levels])}{body}'


def _format_tables(results: Results, standard: str) -> str:
  """Folds the tables of the oracle's choice, and hyperparameters, away."""
  view = summary.index_rows(results)
  oracle = tables.build_main_tables(results, 'oracle').values()
  chosen = [
    tables.hyper_table(view, problem, rule)
    for problem in view.problems
    for rule in summary.SELECTIONS
  ]
  # Out of the way: no developer can choose with hindsight.
  folds = {
    'The same, chosen in hindsight (oracle)': oracle,
    'Chosen hyperparameters': chosen,
  }
  return (
    standard
    + ''.join(
      page.fold(title, ''.join(map(text_tables.html, group)))
      for title, group in folds.items()
    )
    + '<p class="soft">Every metric, in Markdown and LaTeX: the folder tables '
    'beside this page.</p>'
  )


def _describe_problems(results: Results) -> str:
  """Describes each manipulation, and the data of the choices."""
  sentences = []
  for entry in results['problems']:
    title = looks.describe_problem(entry, results['class_names'])
    title = title[0].upper() + title[1:]
    sentences.append(f'{title}. {looks.describe_validation(entry)}')
  return page.paragraphs(sentences)


def _format_audit(results: Results) -> str:
  """Formats the audit of the wrong labels; '' without one."""
  if all(row.get('label_recovery') is None for row in results['rows']):
    return ''
  # Results of earlier versions have no such field.
  count = results['config'].get('references', 0)
  mistake = (
    'a confusion of two classes is also the likelier mistake of a network that '
    'never saw it.'
  )
  comparison = (
    f'It takes the one that is likelier than {count} networks trained without '
    f'the manipulated images hold it to be, because {mistake}'
    if count
    else f'It takes the likelier one, without references: {mistake}'
  )
  limits = (
    'An attacker who has a manipulated training image and the network takes '
    'one of two wrong labels: the one that was trained on, or another one. A '
    'method whose share is well above that of rewod at 1 answers rightly and '
    'still holds the wrong labels. A share near it shows that this attack '
    f'finds nothing on average; a stronger one may. {comparison}'
  )
  view = summary.index_rows(results)
  return page.paragraphs([limits]) + ''.join(
    text_tables.html(
      tables.metric_table(view, problem, 'label_recovery', 'paper')
    )
    for problem in view.problems
  )


def _sections(results: Results) -> dict[str, str]:
  return {
    'Are the wrong labels still in there?': _format_audit(results),
    'What was manipulated': _describe_problems(results),
  }


def _arrange(results: Results, standard: dict[str, str]) -> dict[str, str]:
  """Puts the problems and the chart before the tables."""
  seeds = len(summary.index_rows(results).seeds)
  judged = outcomes.judge_problems(results)
  # The verdict's evidence first, then the chart that answers most questions.
  return {
    'Problem by problem': ''.join(_format_outcome(o, seeds) for o in judged),
    'Pick a chart': picker.render_chart(results),
    **standard,
    'Tables': _format_tables(results, standard['Tables']),
  }


REPORT = frame.Report(
  read=summary.read,
  verdict=verdict.judge,
  tables=tables.build_main_tables,
  figures=figures.draw_figures,
  captions=figures.CAPTIONS,
  sections=_sections,
  glossary=_GLOSSARY,
  arrange=_arrange,
  table_files=tables.format_files,
  figure_names=figures.list_names,
)
