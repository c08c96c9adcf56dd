"""Look of all figures: sizes, colours, and their PNGs."""

import contextlib
import io
import textwrap
from collections.abc import Mapping
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib import axes, figure, ticker

# Okabe and Ito's colours, which people with common kinds of colour blindness
# can tell apart; the last two extend them to ten classes.
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
# The page shows figures at half their pixel size: sharp on dense screens.
_PIXELS_PER_INCH = 200


class ReportFigure(NamedTuple):
  """A figure of a report, or the reason for its absence.

  Attributes:
    name: key of its caption, and name of its file.
    figure: the figure; None if it was left out.
    reason: for leaving it out; '' otherwise.
  """

  name: str
  figure: figure.Figure | None
  reason: str = ''


def context() -> contextlib.AbstractContextManager[None]:
  """Returns a context in which new figures take the look."""
  return matplotlib.rc_context(_SETTINGS)


def canvas(title: str, size: tuple[float, float], smoke: bool) -> figure.Figure:
  """Creates an empty figure under a title that states a finding.

  Args:
    title: the finding.
    size: width and height in inches.
    smoke: whether the title must say that the run is no evidence.
  """
  text = f'smoke, not evidence: {title}' if smoke else title
  # Not plt.figure(): pyplot would keep every figure alive.
  sheet = figure.Figure(figsize=size, layout='constrained', facecolor='white')
  sheet.suptitle(
    # About 9.6 bold characters fit into an inch.
    textwrap.fill(text, int(9.6 * size[0])),
    x=0.012,
    ha='left',
    fontsize=12.5,
    fontweight='bold',
    color=INK,
  )
  return sheet


def set_log_axes(ax: axes.Axes, *names: str) -> None:
  """Makes axes logarithmic, with plain numbers as labels.

  Args:
    ax: with the axes.
    *names: 'x', 'y'.
  """
  for name in names:
    ax.set(**{f'{name}scale': 'log'})
    axis = getattr(ax, f'{name}axis')
    # The default labels are powers in math text, which is switched off here.
    axis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f'{v:g}'))
    axis.set_minor_formatter(ticker.NullFormatter())


def png(sheet: figure.Figure) -> bytes:
  """Renders a figure as PNG; equal figures give equal bytes."""
  file = io.BytesIO()
  with context():
    # The default metadata names the version of matplotlib.
    sheet.savefig(
      file, format='png', dpi=_PIXELS_PER_INCH, metadata={'Software': None}
    )
  return file.getvalue()


def plot_dots(ax: axes.Axes, rows: Mapping[str, list[float]]) -> None:
  """Plots a row for each name, the first on top: dots, and a bar at the mean.

  Args:
    ax: axes to draw on.
    rows: name -> its values; a row without values stays empty.
  """
  for y, values in enumerate(rows.values()):
    if values:
      ax.plot(values, [y] * len(values), 'o', color=COLOURS[0], alpha=0.5)
      mean = float(np.mean(values))
      ax.plot([mean, mean], [y - 0.3, y + 0.3], color=INK, lw=2)
  label_rows(ax, list(rows))


def label_rows(ax: axes.Axes, names: list[str]) -> None:
  """Writes names at the rows of a figure, the first on top."""
  ax.set_yticks(range(len(names)), names)
  ax.set_ylim(len(names) - 0.4, -0.6)
  ax.grid(axis='y', visible=False)


def plot_across_seeds(
  ax: axes.Axes, x: list, y: list, label: str, colour: str, **line: Any
) -> None:
  """Plots a thin line per seed, and a bold mean where all seeds have a value.

  Args:
    ax: axes to draw on.
    x: for each seed, its abscissae.
    y: for each seed, its ordinates; NaN makes a gap.
    label: legend entry of the mean.
    colour: of all the lines.
    **line: further properties of the mean's line.
  """
  curves = []
  for seed_x, seed_y in zip(x, y, strict=True):
    ax.plot(seed_x, seed_y, color=colour, lw=0.8, alpha=0.4)
    # Rounded, because the same alpha may differ in its last bit.
    abscissae = np.round(seed_x, 6).tolist()
    curves.append(dict(zip(abscissae, seed_y, strict=True)))
  shared = sorted(set.intersection(*(set(curve) for curve in curves)))
  mean = [float(np.mean([curve[a] for curve in curves])) for a in shared]
  ax.plot(shared, mean, color=colour, label=label, **({'lw': 2.4} | line))
