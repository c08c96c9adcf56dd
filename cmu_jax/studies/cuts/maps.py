"""Figures over classes: who is confused with whom, where features go."""

import numpy as np
from jaxtyping import Float, Int
from matplotlib import axes, colors, figure, image, patheffects

from cmu_jax.report import page, style
from cmu_jax.report.frame import Results
from cmu_jax.studies.cuts import verdict
from cmu_jax.studies.cuts.seed_stats import Arrays

_FEW = 20  # up to so many classes every cell carries its number
_TRACED = 10  # so many colours are told apart


def _rates(counts: Int[np.ndarray, 's k k']) -> Float[np.ndarray, 'k k']:
  """Pools counts over seeds, as shares of each true class."""
  pooled = counts.sum(axis=0).astype(float)
  total = pooled.sum(axis=1, keepdims=True)
  # A class without test images has no rate; a 0 would count as an error.
  return np.divide(
    pooled, total, out=np.full_like(pooled, np.nan), where=total > 0
  )


def _write_cells(ax: axes.Axes, rates: Float[np.ndarray, 'k k']) -> None:
  size = 10 if len(rates) <= 12 else 6.5
  # Below half a percent the text would read 0.
  for i, j in zip(*np.nonzero(np.nan_to_num(rates) >= 0.005), strict=True):
    # Dark text is hard to read on dark blue.
    ink = 'white' if rates[i, j] > 0.45 else style.INK
    ax.text(
      j,
      i,
      f'{100 * rates[i, j]:.0f}',
      ha='center',
      va='center',
      color=ink,
      fontsize=size,
    )


def _class_ticks(ax: axes.Axes, class_names: list[str]) -> None:
  k = len(class_names)
  every = 1 if k <= _FEW else int(np.ceil(k / 10))
  positions = list(range(0, k, every))
  labels = [class_names[i] if k <= _FEW else str(i) for i in positions]
  # Long horizontal names would overlap.
  turn = 90 if max(map(len, labels)) > 2 else 0
  ax.set_xticks(positions, labels, rotation=turn)
  ax.set_yticks(positions, labels)
  ax.set_xlabel('predicted class')
  ax.grid(False)


def _confusion(
  ax: axes.Axes, rates: Float[np.ndarray, 'k k'], class_names: list[str]
) -> image.AxesImage:
  # The square root lifts small confusions out of the white.
  picture = ax.imshow(
    rates,
    cmap='Blues',
    norm=colors.PowerNorm(0.5, 0, 1),
    interpolation='nearest',
  )
  # NaN cells are transparent, so grey marks classes without test images.
  ax.set_facecolor(style.FAINT)
  ax.spines[:].set_visible(False)
  _class_ticks(ax, class_names)
  if len(rates) <= _FEW:
    _write_cells(ax, rates)
  return picture


def _confusion_title(
  results: Results, old: Float[np.ndarray, 'k k'], new: Float[np.ndarray, 'k k']
) -> str:
  # A class without test images has no accuracy to average.
  means = [np.nanmean(np.diagonal(rates)) for rates in (old, new)]
  text = f'Mean accuracy of a class {means[0]:.2f} → {means[1]:.2f}'
  harmed = verdict.find_harmed_classes(results)
  if not harmed:
    return f'{text}; no class fell by more than 5 points'
  others = f' and {len(harmed) - 1} more fell' if len(harmed) > 1 else ''
  return f'{text}; {page.describe_harm(harmed[0])}{others}'


def draw_confusions(results: Results, arrays: Arrays) -> figure.Figure:
  """Draws confusion matrices before and after CUTS on one colour scale."""
  class_names = [str(name) for name in results['class_names']]
  old = _rates(arrays['confusion_corrupted'])
  new = _rates(arrays['confusion_cuts'])
  title = _confusion_title(results, old, new)
  with style.context():
    canvas = style.canvas(title, (10.4, 5.4), results['smoke'])
    left_axes, right_axes = canvas.subplots(1, 2, sharey=True)
    _confusion(left_axes, old, class_names)
    picture = _confusion(right_axes, new, class_names)
    left_axes.set_title('before: the corrupted model')
    right_axes.set_title('after CUTS')
    left_axes.set_ylabel('true class')
    scale = canvas.colorbar(
      picture,
      ax=[left_axes, right_axes],
      shrink=0.85,
      ticks=[0, 0.05, 0.2, 0.5, 1],
    )
    scale.ax.set_yticklabels(['0', '5', '20', '50', '100'])
    scale.set_label('share of the true class [%]')
    scale.outline.set_visible(False)  # type: ignore[operator]
    return canvas


def _centres(arrays: Arrays, traced: list[int]) -> Float[np.ndarray, 'p t 2']:
  label = arrays['feature_path_label']
  path = arrays['feature_path']
  return np.stack([path[:, label == c].mean(axis=1) for c in traced], axis=1)


def _choose_classes(arrays: Arrays) -> list[int]:
  """Lists the classes to draw: all up to ten, else the ten that move most."""
  classes = np.unique(arrays['feature_path_label']).tolist()
  if len(classes) <= _TRACED:
    return classes
  centres = _centres(arrays, classes)
  # Classes that hardly move would only cover the classes that do.
  moved = np.linalg.norm(centres[-1] - centres[0], axis=-1)
  return sorted(classes[i] for i in np.argsort(-moved)[:_TRACED])


def _trace(
  ax: axes.Axes,
  alpha: Float[np.ndarray, 'p'],
  path: Float[np.ndarray, 'p 2'],
  chosen: float,
  colour: str,
) -> None:
  """Draws a class: hollow at alpha = 0, arrow to the chosen alpha, dots on."""
  stop = np.array([np.interp(chosen, alpha, path[:, i]) for i in range(2)])
  # The arrow ends at the chosen alpha, which need not be a point of the path.
  until = np.concatenate([path[alpha < chosen], stop[None]])
  beyond = np.concatenate([stop[None], path[alpha > chosen]])
  ax.plot(*beyond.T, color=colour, lw=1.3, ls=':')
  ax.plot(*path[0], 'o', mfc='white', mec=colour, mew=1.6, ms=7, zorder=4)
  # At alpha = 0 there is no step and hence no arrow.
  if len(until) > 1:
    ax.plot(*until.T, color=colour, lw=2.2)
    ax.annotate(
      '',
      xy=tuple(stop),
      xytext=tuple(until[-2]),
      arrowprops={'arrowstyle': '-|>', 'color': colour, 'lw': 2.2},
      zorder=5,
    )


def _label_path(
  ax: axes.Axes,
  name: str,
  number: int,
  end: Float[np.ndarray, '2'],
  colour: str,
) -> None:
  """Writes a short name at the end of the path, a long one in the legend."""
  # A long name at the end of a path would cover other paths.
  short = name if len(name) <= 3 else str(number)
  if short != name:
    # The empty line adds an entry to the legend without a second drawing.
    ax.plot([], [], color=colour, lw=2.2, label=f'{short}: {name}')
  ax.annotate(
    short,
    tuple(end),
    (5, 4),
    textcoords='offset points',
    color=colour,
    fontweight='bold',
    zorder=6,
    path_effects=[patheffects.withStroke(linewidth=3, foreground='white')],
  )


def draw_feature_path(results: Results, arrays: Arrays) -> figure.Figure:
  """Draws the paths of the class features over alpha in two dimensions."""
  alpha = np.asarray(arrays['feature_path_alpha'], float)
  label = arrays['feature_path_label']
  chosen = (
    float(results['curves'][0]['alpha_hat']) if results['curves'] else 0.0
  )
  traced = _choose_classes(arrays)
  centres = _centres(arrays, traced)
  title = (
    f'Features of each class, alpha = 0 to {chosen:.4g}'
    if chosen
    else 'Features along the step that CUTS did not take'
  )
  if len(traced) < (classes := len(np.unique(label))):
    title += f' ({len(traced)} of {classes} classes)'
  with style.context():
    canvas = style.canvas(title, (9.2, 6.6), results['smoke'])
    ax = canvas.subplots()
    for i, c in enumerate(traced):
      colour = style.COLOURS[i]
      # Images at more alphas would hide the paths of their centres.
      points = arrays['feature_path'][0, label == c]
      ax.scatter(
        points[:, 0], points[:, 1], s=9, color=colour, alpha=0.22, linewidths=0
      )
      _trace(ax, alpha, centres[:, i], chosen, colour)
      _label_path(ax, str(results['class_names'][c]), c, centres[-1, i], colour)
    if ax.get_legend_handles_labels()[0]:
      ax.legend(loc='upper left', bbox_to_anchor=(1.0, 1.0))
    ax.set(
      xlabel='first principal component', ylabel='second principal component'
    )
    ax.set_title(
      'ring: corrupted model; arrow: chosen alpha; dots: on to '
      f'alpha = {alpha[-1]:.4g}; pale: test images at alpha = 0'
    )
    return canvas
