"""Everything a person looks at after a run on ensembles, off results.json."""

import os
import pathlib

from cmu_jax.report import frame
from cmu_jax.report.frame import Results
from cmu_jax.studies.ensembles import figures, tables, verdict

_GLOSSARY = {
  'T_rate': (
    'Of images that two members have right, and on which an attack on the '
    'first works: the share on which the same adversarial image fools the '
    'second. It is of other images for every ensemble.'
  ),
  'joint failure': (
    'Share of all images on which both members of a pair are wrong after the '
    'attack on the first.'
  ),
  'black-box robust accuracy': (
    'Accuracy on adversarial images of a network that was trained apart.'
  ),
  'as released': (
    'The published attack perturbs normalised images and clips them to [0, 1]. '
    'That alone changes every pixel darker than the mean: see "accuracy '
    'without attack".'
  ),
  'clipped': 'Every layer has a spectral norm of at most clip.bound.',
}


def _read(workdir: os.PathLike | str) -> Results:
  parts = {'rows': ('method', 'seed', 'threat'), 'curves': ('method', 'seed')}
  return frame.read_results(workdir, 'ensemble', {}, parts)


REPORT = frame.Report(
  read=_read,
  verdict=verdict.verdict,
  tables=tables.contents,
  figures=figures.draw,
  captions=figures.CAPTIONS,
  sections=lambda found: {},
  glossary=_GLOSSARY,
)


def show(workdir: os.PathLike | str) -> pathlib.Path:
  """Writes tables/, figures/ and report.html, see `frame.show`."""
  return frame.show(REPORT, workdir)
