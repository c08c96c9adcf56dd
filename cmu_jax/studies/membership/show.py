"""Everything a person looks at after an audit, from its results.json alone."""

import os
import pathlib

from cmu_jax.report import frame, page
from cmu_jax.report.frame import Results
from cmu_jax.studies.membership import figures, tables, verdict, words

_GLOSSARY = {
  'D, D_F, D_R': "A network's training set, half of all images, drawn at "
  'random; the random part of it that it is to forget; the rest.',
  'RMIA': "Is a point's probability raised more than that of other points, "
  'beside reference networks (arXiv 2312.03262)?',
  'LiRA': 'Is it more like networks trained with the point or without it '
  '(arXiv 2112.03570)?',
  'U-LiRA': 'Is it more like networks that forgot the point or that never saw '
  'it, each network held out in turn (arXiv 2403.01218)?',
  'adaptive': 'The references were unlearned with the audited method too: the '
  'attacker knows the method.',
}


def _sections(found: Results) -> dict[str, str]:
  config = found['config']
  said = (
    f'{found["pool_size"]} images of {config["dataset"]}; every network is '
    f'trained on half of them and forgets {config["fraction"]:.0%} of those. '
    f'{config["references"]} networks were trained to compare with. The '
    f'network is {config["model"]["name"]}.'
  )
  return {
    'What was audited': page.paragraphs([said]),
    'What this can and cannot show': page.paragraphs(words.limits(found)),
  }


def _read(workdir: os.PathLike | str) -> Results:
  needed = {'pool_size': int, 'methods': dict, 'sanity': dict}
  columns = ('method', 'points', 'attack', 'adaptive', 'auroc')
  return frame.read_results(workdir, 'membership', needed, {'rows': columns})


REPORT = frame.Report(
  read=_read,
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
