"""The look of every figure: sizes, colours, and how one becomes a PNG."""

import contextlib
import io
import textwrap
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib import axes, figure, ticker

# Okabe and Ito's colours, told apart under the common kinds of colour
# blindness; the last two extend them to ten classes.
COLOURS = (
  '#0072B2',
  '#E69F00',
  '#009E73',
  '#CC79A7',
  '#D55E00',
  '#56B4E9',
  '#6B5B95',
  '#8A8A00',
  '#333333',
  '#9C6B30',
)
INK = '#22262b'
MUTED = '#6b7280'
FAINT = '#d5d9df'
CUTS = '#0072B2'
ATTACK = '#D55E00'
TARGET = '#CC79A7'
REFERENCE = '#009E73'

_SETTINGS: Any = {
  'font.size': 11,
  'font.family': 'DejaVu Sans',
  'axes.edgecolor': MUTED,
  'axes.labelcolor': INK,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid': True,
  'axes.axisbelow': True,
  'axes.titlelocation': 'left',
  'axes.titlesize': 11,
  'grid.color': '#eceef1',
  'xtick.color': INK,
  'ytick.color': INK,
  # A class may be called '$'.
  'text.parse_math': False,
  'legend.frameon': False,
  'legend.fontsize': 10,
}
# Shown at half their pixel size, so they stay sharp on dense screens.
_PIXELS_PER_INCH = 200


def context() -> contextlib.AbstractContextManager[None]:
  """A context in which new figures take the look; undone on leaving it."""
  return matplotlib.rc_context(_SETTINGS)


def canvas(title: str, size: tuple[float, float], smoke: bool) -> figure.Figure:
  """An empty figure under a title that states a finding.

  Args:
    title: the finding.
    size: width and height in inches.
    smoke: says in the title that the run is no evidence.
  """
  said = f'smoke, not evidence: {title}' if smoke else title
  made = figure.Figure(figsize=size, layout='constrained', facecolor='white')
  made.suptitle(
    textwrap.fill(said, int(9.6 * size[0])),
    x=0.012,
    ha='left',
    fontsize=12.5,
    fontweight='bold',
    color=INK,
  )
  return made


def set_log_axes(ax: axes.Axes, *names: str) -> None:
  """Logarithmic axes with plain numbers: powers would need parsed formulas.

  Args:
    ax: with the axes.
    *names: 'x', 'y'.
  """
  for name in names:
    ax.set(**{f'{name}scale': 'log'})
    axis = getattr(ax, f'{name}axis')
    axis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f'{v:g}'))
    axis.set_minor_formatter(ticker.NullFormatter())


def png(made: figure.Figure) -> bytes:
  """The figure as PNG; the same figure gives the same bytes."""
  file = io.BytesIO()
  with context():
    made.savefig(
      file, format='png', dpi=_PIXELS_PER_INCH, metadata={'Software': None}
    )
  return file.getvalue()


def plot_across_seeds(
  ax: axes.Axes, x: list, y: list, label: str, colour: str, **line: Any
) -> None:
  """One thin line a seed and, where all seeds have a value, a bold mean.

  Args:
    ax: where to draw.
    x: for each seed, its abscissae.
    y: for each seed, its ordinates; NaN makes a gap.
    label: legend entry of the mean.
    colour: of all the lines.
    **line: further properties of the mean's line.
  """
  for one_x, one_y in zip(x, y, strict=True):
    ax.plot(one_x, one_y, color=colour, lw=0.8, alpha=0.4)
  tables = [
    dict(zip(np.round(one_x, 6).tolist(), one_y, strict=True))
    for one_x, one_y in zip(x, y, strict=True)
  ]
  shared = sorted(set.intersection(*(set(table) for table in tables)))
  mean = [float(np.mean([table[a] for table in tables])) for a in shared]
  ax.plot(shared, mean, color=colour, label=label, **({'lw': 2.4} | line))


class ReportFigure(NamedTuple):
  """A figure, or why there is none.

  Attributes:
    name: one of ALL.
    figure: the figure; None if it was left out.
    missing: why it was left out; '' if it was not.
  """

  name: str
  figure: figure.Figure | None
  reason: str = ''
