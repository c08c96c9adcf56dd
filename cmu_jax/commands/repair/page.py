"""The figure and the report of a repair."""

from typing import Any

import numpy as np
from matplotlib import figure

from cmu_jax.commands import frame
from cmu_jax.commands.repair import advice, unlabelled_words, words
from cmu_jax.report import page, style

_CAPTION = (
  'The evidence from which alpha was chosen, without any label of a test '
  'picture. The dashed vertical line is the choice; alpha = 0 is the unedited '
  'network.'
)


# Method without a rule over alpha -> names of its curves, and their labels.
_LINES = {
  unlabelled_words.METHOD: {
    'alike': 'both runs change, and alike',
    'alone': 'a single run changes',
  },
  unlabelled_words.TUNING: {
    'agreement': 'predictions on ordinary pictures that stay'
  },
}


def draw_curve(results: dict[str, Any]) -> figure.Figure:
  """Draws J and its parts, or the rate at which bad samples hit the target."""
  if results['method'] in _LINES:
    return _draw_changes(results)
  poison = results['kind'] == 'poison'
  curve = results['curve']
  key = 'proxy_attack_success_rate' if poison else 'J'
  label = 'triggered pictures sent to the target' if poison else 'score J'
  with style.context():
    drawing = style.canvas(words.headline(results), (9.2, 4.2), smoke=False)
    ax = drawing.subplots()
    y = np.array([np.nan if v is None else v for v in curve[key]], float)
    # A rejected alpha scores -1e6, which would flatten the rest of the curve.
    y = np.where(y < -1e5, np.nan, y)
    ax.plot(curve['alpha'], y, color=style.INK, lw=2, label=label)
    if results['method'] == 'projected':
      ax.plot(
        curve['alpha'],
        curve['agreement'],
        color=style.CUTS,
        ls='--',
        label='predictions on ordinary pictures that stay',
      )
      # Projected steps span several orders of magnitude.
      style.set_log_axes(ax, 'x')
    elif not poison:
      ax.plot(
        curve['alpha'],
        curve['adjusted_agreement'],
        color=style.CUTS,
        ls='--',
        label='adjusted agreement of neighbours',
      )
    ax.axvline(results['alpha'], color=style.INK, lw=1, ls=(0, (4, 3)))
    ax.set(xlabel='alpha (length of the step, no unit)', ylabel='rate or score')
    ax.legend(loc='best')
    return drawing


def _draw_changes(results: dict[str, Any]) -> figure.Figure:
  """Draws the predictions that change, or that stay, along the step."""
  curve = results['curve']
  with style.context():
    drawing = style.canvas(words.headline(results), (9.2, 4.2), smoke=False)
    ax = drawing.subplots()
    # A method has one curve or two.
    looks: tuple[dict[str, Any], ...] = (
      {'color': style.INK, 'lw': 2},
      {'color': style.CUTS, 'ls': '--'},
    )
    for (name, label), options in zip(
      _LINES[results['method']].items(), looks, strict=False
    ):
      ax.plot(curve['alpha'], curve[name], label=label, **options)
    ax.axvline(results['alpha'], color=style.INK, lw=1, ls=(0, (4, 3)))
    ax.set(
      xlabel='alpha (length of the step to each run, 1 is the whole step)',
      ylabel='share of the predictions',
    )
    ax.legend(loc='best')
    return drawing


def _build(results: dict[str, Any], image: str) -> frame.Page:
  """The page of a repair; `image` is the figure as HTML."""
  measured = results['measured']['after']['test_accuracy'] is not None
  # Without test pictures the cost is unknown, so a success is not green.
  good = results['repaired'] and measured
  return frame.Page(
    title=f'Repair of {results["settings"]["weights"]}',
    heading=words.headline(results),
    tone=(
      'bad' if frame.harmed_classes(results) else 'good' if good else 'flat'
    ),
    sentences=words.outcome(results),
    sections={
      **frame.harm_section(results),
      'What would help most': page.paragraphs(advice.sentences(results)),
      'Before and after': _table(results),
      'How alpha was chosen': image,
      'What was wrong': page.paragraphs(words.corruption_sentences(results)),
      'How steep the network is': page.paragraphs(
        words.lipschitz_sentences(results)
      ),
      'How sure this is': page.paragraphs(words.limitations(results)),
    },
  )


def _table(results: dict[str, Any]) -> str:
  """Predictions on the bad samples, and accuracy by class if measured."""
  original, edited = results['measured']['before'], results['measured']['after']
  head = [
    ('', 'class'),
    ('number', 'samples sent here'),
    ('number', 'after'),
  ]
  cells = [[str(count) for count in m['predicted']] for m in (original, edited)]
  # Columns of accuracy exist only with --test.
  if original['class_accuracy'] is not None:
    head += [('number', 'accuracy'), ('number', 'after')]
    cells += [
      ['–' if v is None else f'{v:.3f}' for v in m['class_accuracy']]
      for m in (original, edited)
    ]
  rows = [
    f'<tr><td>{page.escape(name)}</td>{frame.number_cells(values)}</tr>'
    for name, *values in zip(results['class_names'], *cells, strict=True)
  ]
  return page.table(head, rows)


REPORT = frame.Report('alpha_curve', _CAPTION, draw_curve, _build)
