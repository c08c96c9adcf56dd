"""The frame of repair, unlearn and audit: a folder with results and report."""

import operator
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from matplotlib import figure

from cmu_jax.commands import workdir
from cmu_jax.core import errors, files, provenance
from cmu_jax.core.types import Info
from cmu_jax.networks import shipped
from cmu_jax.networks.shipped import ShippedNetwork
from cmu_jax.report import page, style

SCHEMA = 1
RESULTS = 'results.json'
_PAGE, _FIGURES = 'report.html', 'figures'


class Page(NamedTuple):
  """The content of report.html.

  Attributes:
    title: the command and its file, 'Repair of w.npz'.
    heading: the outcome as one line.
    tone: colour of the outcome: 'good', 'bad' or 'flat'.
    sentences: the outcome, the most important first.
    sections: heading -> HTML; an empty section is left out.
    product: the results that the last section reproduces.
  """

  title: str
  heading: str
  tone: str
  sentences: Sequence[str]
  sections: dict[str, str]
  product: str = 'weights'


class Report(NamedTuple):
  """The figure and the page of a command.

  Attributes:
    figure_name: stem of the figure's file.
    caption: below the figure.
    draw: results -> figure.
    build: (results, HTML of the figure) -> page.
  """

  figure_name: str
  caption: str
  draw: Callable[..., figure.Figure]
  build: Callable[[Info, str], Page]


def load_network(
  request: Any, pictures: str, sets: Sequence[str], **overrides: Any
) -> ShippedNetwork:
  """Reads the network of a request and the pictures that it is asked about.

  Args:
    request: a request with the fields of a network.
    pictures: their folder.
    sets: fields of the request with folders of pictures in class folders, the
      most important first.
    **overrides: facts that take precedence over the fields.

  Raises:
    UserError: files that are missing, malformed or unknown, a mistake a line.
  """
  facts = {
    'mean': request.mean,
    'std': request.std,
    'channels': request.channels,
    'image_size': request.image_size,
    'classes': request.classes,
    **overrides,
  }
  roots = {f'--{name}': getattr(request, name) for name in sets}
  present = {flag: root for flag, root in roots.items() if root is not None}
  return shipped.load(request.weights, request.model, pictures, facts, present)


def network_settings(network: ShippedNetwork, image: Any) -> Info:
  """Inferred settings of a network, and the digest of its weights."""
  return {
    'classes': network.class_names,
    'image_size': image.shape[1:3],
    'weights_sha256': provenance.digest(*network.stored.arrays.values()),
  }


def run_job(
  request: Any,
  settings: Info,
  compute: Callable[[Info, pathlib.Path], tuple[Info, Report]],
  looks: Sequence[str] = (),
) -> Info:
  """Computes results in the folder `out` of a request, and reports them.

  Args:
    request: a request with the field `out`.
    settings: everything else that the results depend on.
    compute: (all settings, folder) -> results and their report.
    looks: flags on which the results of the folder do not depend.

  Raises:
    UserError: the folder is in use, holds results of other settings, or holds
      an input under the name of an output.
  """
  flags = request._asdict().items()
  settings = {**{k: v for k, v in flags if k not in looks}, **settings}
  out = files.expand(request.out)
  workdir.check_inputs(out, request)
  with workdir.open_run(out, settings, '--out'):
    _check_outputs(out, getattr(request, 'weights', None))
    computed, report = compute(settings, out)
    results = {
      'schema': SCHEMA,
      'finished': True,
      'provenance': provenance.describe_run(settings),
      'settings': settings,
      'remarks': list(errors.collected_remarks()),
      **computed,
    }
    # A kill between the files must not leave finished results without a page.
    files.write_json(out / RESULTS, {**results, 'finished': False})
    write_report(results, report, out)
    files.write_json(out / RESULTS, results)
  return results


def _check_outputs(out: pathlib.Path, weights: str | None) -> None:
  """Checks that all files can be written, before anything is computed.

  Raises:
    UserError: a folder or file is in their place, or the disk is too full.
  """
  for name in (RESULTS, _PAGE):
    errors.check(
      not (out / name).is_dir(),
      f'{out / name} is a folder: choose another --out',
    )
  errors.check(
    not (out / _FIGURES).is_file(),
    f'{out / _FIGURES} is a file: choose another --out',
  )
  # New weights are as large as those that came in.
  source = files.expand(weights or out)
  needed = workdir.PAGE_BYTES + (
    source.stat().st_size if source.is_file() else 0
  )
  workdir.check_space(out, needed, '--out')


def write_report(results: Info, report: Report, out: pathlib.Path) -> None:
  """Writes the figure and report.html, each of them whole."""
  drawing = report.draw(results)
  png = style.png(drawing)
  path = out / _FIGURES / f'{report.figure_name}.png'
  files.write(path, operator.methodcaller('write', png))
  image = page.picture(png, drawing.get_suptitle(), report.caption)
  content = report.build(results, image)
  # Names of files and classes come from the user: they may contain markup.
  heading = page.escape(content.heading)
  html = page.fill_page(
    name=page.escape(content.title),
    label=heading,
    banner='',
    tone=content.tone,
    heading=heading,
    sentences=page.paragraphs(list(content.sentences)),
    sections={
      **content.sections,
      **page.remark_section(results),
      f'How to get the same {content.product}': page.reproduction_section(
        results['provenance'],
        results['settings'],
        [results['settings']['seed']],
      ),
    },
  )
  files.write_text(out / _PAGE, html)


def harmed_classes(results: Info) -> tuple[page.Harm, ...]:
  """Classes of the test pictures that fell by more than five points."""
  original, edited = measurements(results, 'class_accuracy')
  if original is None:
    return ()
  return page.find_harms(results['class_names'], original, edited)


def harm_sentences(results: Info) -> list[str]:
  """A sentence for each class that fell by more than five points."""
  return [
    f'{page.describe_harm(harm)}.'.capitalize()
    for harm in harmed_classes(results)
  ]


def harm_section(results: Info) -> dict[str, str]:
  """The section of the classes that fell by more than five points."""
  harms = harmed_classes(results)
  return {page.harm_heading(harms): page.harm_table(harms)}


def measurements(results: Info, name: str) -> tuple[Any, Any]:
  """A measured quantity before and after."""
  original, edited = (results['measured'][when] for when in ('before', 'after'))
  return original[name], edited[name]


def number_cells(values: Sequence[Any]) -> str:
  """Cells of a table row with right-aligned numbers."""
  return ''.join(
    f'<td class="number">{page.escape(value)}</td>' for value in values
  )


def console(results: Info, lines: Sequence[str]) -> str:
  """The outcome for a terminal, with the paths of its files."""
  out = results['settings']['out']
  paths = [f'report: {out}/report.html']
  if 'weights' in results:
    paths.insert(0, f'weights: {out}/{results["weights"]}')
  return '\n'.join([*lines, *paths])
