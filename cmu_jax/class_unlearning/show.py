"""Everything a person looks at after a run, from its results.json alone."""

import functools
import os
import pathlib

from cmu_jax.class_unlearning import figures, load, page, tables
from cmu_jax.forgetting import show as frame


def show(workdir: os.PathLike | str) -> pathlib.Path:
  """Writes tables/, figures/ and report.html, each file whole.

  Args:
    workdir: the work folder of a run, with results.json.

  Returns:
    The path of report.html.

  Raises:
    UserError: results.json is missing, broken or of something else, or the
      folder cannot be written.
  """
  folder = pathlib.Path(workdir)
  found = load.results(folder)
  return frame.write(
    folder,
    tables.texts(found),
    figures.CAPTIONS,
    functools.partial(page.drawings, found),
    functools.partial(page.render, found),
  )
