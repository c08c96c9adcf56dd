"""The sentences, the figure and the page of a search for bad samples."""

import base64
import functools
import io
from typing import Any

import numpy as np
from matplotlib import figure

from cmu_jax.commands import frame
from cmu_jax.commands.find import listing
from cmu_jax.commands.find.case import FindCase
from cmu_jax.core import errors
from cmu_jax.methods.detection.suspects import Suspects
from cmu_jax.report import page, style

# Pictures of a kind on the page; the list has all of them.
_SHOWN = 24
# In the order in which users should read them.
_MEANINGS = {
  'trigger': 'Many pictures of a class share a patch, which moves pictures of '
  'other classes into it: somebody may have planted it.',
  'wrong label': 'The network expects another class. Look at the pictures: '
  'pictures with two objects, or without any, are here too.',
  'near copy': 'The picture is there twice, perhaps resaved or resized. Copies '
  'with two labels have at least one wrong label; copies in training and test '
  'sets make an accuracy too good.',
  'outlier': 'The network sees nothing like it among these pictures: another '
  'subject, or a broken file.',
}
_CAPTION = (
  'Expected share of wrong labels in the list down to each rank, estimated '
  'from the answers alone. Stop where the share is worth your time.'
)
_STYLE = (
  'display:inline-block;width:8.5rem;margin:.3rem .5rem .3rem 0;'
  'vertical-align:top;font-size:.8rem;overflow-wrap:anywhere'
)
# The frame sets a white patch in a corner apart from a white page.
_IMAGE_STYLE = (
  'width:6rem;height:auto;image-rendering:pixelated;outline:1px solid gray'
)


def _count_kind(kind: str, count: int) -> str:
  if kind == 'near copy':
    return f'{count} near cop{"y" if count == 1 else "ies"}'
  if kind == 'trigger':
    return f'{errors.count_text(count, "picture")} with a trigger'
  return errors.count_text(count, kind)


def headline(results: dict[str, Any]) -> str:
  """The numbers of suspects as one line."""
  counts = [
    _count_kind(kind, facts['listed'])
    for kind, facts in results['kinds'].items()
    if facts['listed']
  ]
  total = errors.count_text(results['samples'], 'sample')
  return f'{total}: {", ".join(counts) or "no suspects"}'


def outcome(results: dict[str, Any]) -> list[str]:
  """Sentences on the outcome, the most important first."""
  # Triggers come first: somebody means harm.
  sentences = [*_trigger_sentences(results)]
  wrong = results['kinds']['wrong label']
  if wrong['listed']:
    rate = wrong['listed'] / results['samples']
    sentences.append(
      f'About {wrong["listed"]} labels are wrong ({rate:.1%}). Of a list of so '
      f'many, {wrong["list_precision"]:.0%} are expected to be wrong; the top '
      'of the list is surer.'
    )
  if results['doubt'] < 1:
    sentences.append(
      f'The answers alone would say {results["rate"]:.1%} wrong labels, but '
      f'where the network is surest, {results["least_rate"]:.1%} are others: '
      'it takes hard pictures for wrong labels. So the estimate was lowered. '
      'It may still be too high: look at the top of the list first.'
    )
  sentences += _memory_sentences(results)
  return sentences


def _trigger_sentences(results: dict[str, Any]) -> list[str]:
  return [
    f'A patch of {patch["pixels"]} pixels, {patch["top"]} from the top and '
    f"{patch['left']} from the left, leads to class '{patch['target']}': "
    f'pasted into pictures of other classes it moves {patch["moved"]:.0%} of '
    'them.'
    for patch in results.get('patches', ())
  ]


def _memory_sentences(results: dict[str, Any]) -> list[str]:
  """Says if the network repeats the given labels, and the remedy."""
  agreement = results['agreement']
  # Memory decides how the labels were judged, so it is always said.
  if not results['memorised']:
    return [
      f'The network predicts {agreement["plain"]:.0%} of the given labels, so '
      'it did not memorise them, and its own answers judge the labels.'
    ]
  # Stored answers have no views.
  shifted = agreement.get('down')
  fact = f'The network repeats {agreement["plain"]:.0%} of the given labels'
  if shifted is not None:
    fact += f', and {shifted:.0%} where the pictures are shifted a little'
  if results['cross_fitted']:
    return [
      f'{fact}: it may have memorised wrong ones. So the labels were judged by '
      'linear heads on its features, each fitted without the picture that it '
      'judges.'
    ]
  return [
    f'{fact}: it may have memorised wrong ones, which no answer shows then. '
    'Give features too, or answers of networks that did not see the sample.'
  ]


def limitations(results: dict[str, Any]) -> list[str]:
  """Limits of the evidence."""
  return [
    'The expected precision comes from the answers of the network. It is too '
    'high where the network confuses classes that are alike, and where it '
    'learnt the same wrong labels.',
    'Triggers are found that are painted patches at a fixed place. Blended, '
    'moving and warping triggers are not: no find is no proof.',
    'Outliers are few on purpose; their precision is unknown.',
    *results.get('notes', ()),
  ]


def next_steps(results: dict[str, Any]) -> str:
  """Commands that take the folders, as HTML."""
  settings = results['settings']
  reading = ('weights', 'model', 'mean', 'std', 'channels')
  base = ' '.join(
    f'--{name}={_flag_text(settings[name])}'
    for name in reading
    # Facts that were inferred are inferred again.
    if settings[name] is not None
  )
  base += ' --out=NEW_FOLDER'
  # Near copies and outliers are for eyes: no command is to take them.
  lines, out = [], settings['out']
  for kind, flag in (('trigger', 'poison'), ('wrong label', 'label_noise')):
    folder = results['kinds'].get(kind, {}).get('folder')
    if folder:
      lines += [
        f'python -m cmu_jax unlearn --forget={out}/{folder} {base}',
        f'python -m cmu_jax repair --kind={flag} --proxy={out}/{folder} {base}',
      ]
  if not lines:
    return ''
  advice = page.paragraphs(
    [
      'Look at the folder first, and remove what is right. unlearn forgets '
      'pictures that the network was trained on. repair wants bad samples that '
      'it was not trained on: give it the folder only if that holds, or '
      'ordinary pictures (--ordinary).'
    ]
  )
  return f'{advice}<pre>{page.escape(chr(10).join(lines))}</pre>'


def _flag_text(value: Any) -> str:
  """The value of a flag as a user types it."""
  # Numbers of channels are lists in results.json.
  if isinstance(value, list | tuple):
    return ','.join(map(str, value))
  return str(value)


def _thumbnail(samples: FindCase, row: int, words: list[str]) -> str:
  """A picture with its words, as HTML; words alone without pictures."""
  image = ''
  if samples.image is not None:
    stream = io.BytesIO()
    # Large pictures would make a large page: every second pixel, or fewer.
    step = max(1, max(samples.image.shape[1:3]) // 128)
    listing.save_png(samples.image[:, ::step, ::step], row, stream)
    data = base64.b64encode(stream.getvalue()).decode()
    alt = page.escape(samples.names[row])
    image = (
      f'<img alt="{alt}" style="{_IMAGE_STYLE}" '
      f'src="data:image/png;base64,{data}"><br>'
    )
  lines = '<br>'.join(map(page.escape, words))
  return f'<span style="{_STYLE}">{image}{lines}</span>'


def _gallery(samples: FindCase, kind: str, group: Suspects) -> str:
  """The top suspects of a kind, as HTML; '' without any."""
  if not len(group.row):
    return ''
  # The file's name without its folder: the folder is the given label.
  names, items = samples.class_names, []
  for row, suggested, certainty, _, partner in zip(
    *(field[:_SHOWN] for field in group), strict=True
  ):
    words = [f'given: {names[samples.label[row]]}']
    if suggested >= 0:
      words.append(f'rather: {names[suggested]}')
    if partner >= 0:
      words.append(f'copy of: {samples.names[partner].rpartition("/")[2]}')
      words.append(f'labelled: {names[samples.label[partner]]}')
    words.append(f'certainty {certainty:.2f}')
    words.append(samples.names[row].rpartition('/')[2])
    items.append(_thumbnail(samples, int(row), words))
  total = len(group.row)
  note = f'The first {_SHOWN} of {total}.' if total > _SHOWN else ''
  text = page.paragraphs([_MEANINGS[kind], *([note] if note else [])])
  return f'{text}<div>{"".join(items)}</div>'


def _class_table(results: dict[str, Any]) -> str:
  """Suspects of each kind in each given class."""
  # Columns of zeros would hide the others on a narrow screen.
  kinds = [kind for kind, facts in results['kinds'].items() if facts['listed']]
  if not kinds:
    return ''
  counts = [results['kinds'][kind]['per_class'] for kind in kinds]
  rows = [
    f'<tr><td>{page.escape(name)}</td>{frame.number_cells(values)}</tr>'
    for name, *values in zip(results['class_names'], *counts, strict=True)
  ]
  return page.table(
    [('', 'given class'), *(('number', k) for k in kinds)], rows
  )


def draw_precision(
  results: dict[str, Any], *, wrong: Suspects
) -> figure.Figure:
  """Draws the expected precision against the length of the list."""
  with style.context():
    drawing = style.canvas(headline(results), (7.2, 3.8), smoke=False)
    ax = drawing.subplots()
    rank = np.arange(1, len(wrong.row) + 1)
    ax.plot(rank, wrong.precision, color=style.CUTS)
    ax.set(
      ylim=(0, 1.05),
      xlabel='suspected wrong labels, the most certain first',
      ylabel='expected precision',
    )
    return drawing


def _build(
  results: dict[str, Any],
  image: str,
  *,
  samples: FindCase,
  listed: dict[str, Suspects],
) -> frame.Page:
  """The page of a search; `image` is the figure as HTML."""
  settings = results['settings']
  source = settings['data'] or settings['probabilities']
  # Suspects are bad news, however sure: red asks for a look.
  found_any = any(facts['listed'] for facts in results['kinds'].values())
  galleries = {
    page.escape(_count_kind(kind, len(group.row))): _gallery(
      samples, kind, group
    )
    for kind, group in listed.items()
  }
  return frame.Page(
    title=f'Bad samples in {source}',
    heading=headline(results),
    tone='bad' if found_any else 'flat',
    sentences=outcome(results),
    sections={
      **galleries,
      'By class': _class_table(results),
      'Where to stop': image if len(listed['wrong label'].row) else '',
      'What to do with them': next_steps(results),
      'How sure this is': page.paragraphs(limitations(results)),
    },
    product='list',
  )


def make_report(samples: FindCase, listed: dict[str, Suspects]) -> frame.Report:
  """Builds the report of a search."""
  return frame.Report(
    'expected_precision',
    _CAPTION,
    functools.partial(draw_precision, wrong=listed['wrong label']),
    functools.partial(_build, samples=samples, listed=listed),
  )


def console(results: dict[str, Any]) -> str:
  """The outcome of a search for a terminal."""
  out = results['settings']['out']
  lines = [headline(results), *outcome(results)]
  lines += [
    f'{kind}: {facts["copied"]} copied to {out}/{facts["folder"]}'
    for kind, facts in results['kinds'].items()
    if facts['folder']
  ]
  return frame.console(results, [*lines, f'list: {out}/{listing.LIST}'])
