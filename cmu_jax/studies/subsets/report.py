"""The report of the study of random forget sets, from its results.json."""

import os

from cmu_jax.report import frame, page
from cmu_jax.report.frame import Results
from cmu_jax.studies.subsets import figures, tables, verdict

_REQUIRED = {
  'train_size': int,
  'forget_size': int,
  'test_size': int,
  'methods': dict,
}
_ROW = ('method', 'information', 'seed', 'forget_seed', 'run', 'diverged')
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


def read(workdir: os.PathLike | str) -> Results:
  """Reads and checks the results.json of a work folder.

  Raises:
    UserError: it is absent, broken or of another study.
  """
  parts = dict.fromkeys(('rows', 'requests', 'tuning'), _ROW)
  return frame.read_results(workdir, 'forgetting', _REQUIRED, parts)


def _sections(results: Results) -> dict[str, str]:
  config = results['config']
  text = (
    f'Of {results["train_size"]} training images of {config["dataset"]}, '
    f'{results["forget_size"]} drawn at random were to be forgotten; '
    f'{results["test_size"]} test images are reported on. The network is '
    f'{config["model"]["name"]}.'
  )
  return {'What was to be forgotten': page.paragraphs([text])}


REPORT = frame.Report(
  read=read,
  verdict=verdict.describe,
  tables=tables.build_tables,
  figures=figures.draw_figures,
  captions=figures.CAPTIONS,
  sections=_sections,
  glossary=_GLOSSARY,
)
