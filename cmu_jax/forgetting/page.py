"""report.html of a run: verdict, tables, figures, how to repeat it."""

from collections.abc import Callable, Iterable

from cmu_jax.corrective import page as benchmark
from cmu_jax.forgetting import figures, tables, verdict
from cmu_jax.forgetting.load import Results
from cmu_jax.forgetting.verdict import Verdict
from cmu_jax.report import page, style, template
from cmu_jax.report.figures import Drawn

Drawings = list[tuple[Drawn, bytes]]

_GLOSSARY = {
  'D, D_F, D_R, D_T': (
    'The training set; the random part of it that is to be forgotten; the rest '
    'of it; and the test set.'
  ),
  'none': 'Doing nothing: the model as it was trained.',
  'retrain': 'Training anew without the forgotten images: the gold standard.',
  'UA': (
    'Accuracy on the forgotten images. Retraining does not get them all wrong: '
    'it treats them as it treats new images.'
  ),
  'AUC': (
    'How well a score tells two sets apart: 50 is chance, 100 is always, below '
    '50 is the wrong way round, which tells them apart as well.'
  ),
  'RMIA': (
    'An attack that compares with reference networks trained on other halves '
    'of the data (arXiv 2312.03262). It needs config.references.'
  ),
  'MIS': (
    'The share of forgotten images that an attack on the confidence holds for '
    'unseen. It calls most confident images seen: only the difference to '
    'retraining means anything.'
  ),
  'gap': tables.GAPS,
  'point': 'A hundredth of a rate: from 0.90 to 0.85 is a fall of 5 points.',
  'what an audit shows': (
    'An attack that fails shows that this attack fails, on these images, on '
    'average over them. It is no proof that nothing is left.'
  ),
}


def _setting(found: Results) -> str:
  config = found['config']
  return page.paragraphs(
    [
      f'Of {found["train_size"]} training images of {config["dataset"]}, '
      f'{found["forget_size"]} drawn at random were to be forgotten; '
      f'{found["test_size"]} test images are reported on. The network is '
      f'{config["model"]["name"]}.'
    ]
  )


def pictures(drawn: Iterable[Drawn], advance: Callable[[], None]) -> Drawings:
  """Figures and their PNGs, without those that there was nothing to draw for.

  Args:
    drawn: the figures, drawn one by one.
    advance: called after each.
  """
  made = []
  for one in drawn:
    if one.figure is not None:
      made.append((one, style.png(one.figure)))
    advance()
  return made


def drawings(found: Results, advance: Callable[[], None]) -> Drawings:
  """The figures and their PNGs.

  Args:
    found: checked contents of results.json.
    advance: called after each figure.
  """
  return pictures(figures.draw(found, verdict.verdict(found).label), advance)


def framed(
  found: Results,
  said: Verdict,
  sections: dict[str, str],
  glossary: dict[str, str],
) -> str:
  """A whole page as HTML that needs nothing else.

  Args:
    found: checked contents of results.json.
    said: the finding.
    sections: heading -> HTML.
    glossary: term -> what it means.
  """
  warning = '<div class="smoke" role="alert">smoke: not evidence</div>'
  terms = ''.join(
    f'<dt>{page.escape(term)}</dt><dd>{page.escape(text)}</dd>'
    for term, text in glossary.items()
  )
  return template.fill(
    name=page.escape(found['name']),
    label=page.escape(said.label),
    banner=warning if found['smoke'] else '',
    tone='good' if said.good else 'flat',
    heading=page.escape(said.label),
    sentences=page.paragraphs(said.sentences),
    sections={
      **sections,
      'How to read this': f'<dl>{terms}</dl>',
      'How to get the same numbers': page.reproduce(
        found['provenance'], found['config'], list(found['config']['seeds'])
      ),
    },
  )


def shown(drawn: Drawings, captions: dict[str, str]) -> str:
  """Figures with their captions, as HTML."""
  return '\n'.join(
    page.picture(png, one.name, captions[one.name]) for one, png in drawn
  )


def render(found: Results, drawn: Drawings) -> str:
  """The whole page as HTML that needs nothing else.

  Args:
    found: checked contents of results.json.
    drawn: the figures and their PNGs.
  """
  return framed(
    found,
    verdict.verdict(found),
    {
      'Tables': ''.join(map(benchmark.grid, tables.contents(found).values())),
      'Figures': shown(drawn, figures.CAPTIONS),
      'What was to be forgotten': _setting(found),
    },
    _GLOSSARY,
  )
