"""Everything a person looks at after a run, from its results.json alone."""

import os
import pathlib

from cmu_jax.report import frame, page
from cmu_jax.report.frame import Results
from cmu_jax.studies.subsets import figures, load, tables, verdict

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


def _sections(found: Results) -> dict[str, str]:
  config = found['config']
  said = (
    f'Of {found["train_size"]} training images of {config["dataset"]}, '
    f'{found["forget_size"]} drawn at random were to be forgotten; '
    f'{found["test_size"]} test images are reported on. The network is '
    f'{config["model"]["name"]}.'
  )
  return {
    'What was to be forgotten': page.paragraphs([said]),
  }


REPORT = frame.Report(
  read=load.results,
  verdict=verdict.verdict,
  tables=tables.contents,
  figures=figures.draw,
  captions=figures.CAPTIONS,
  sections=_sections,
  glossary=_GLOSSARY,
)


def show(workdir: os.PathLike | str) -> pathlib.Path:
  """Writes tables/, figures/ and report.html, see `frame.show`."""
  return frame.show(REPORT, workdir)
