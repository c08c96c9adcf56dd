"""The figures of a sweep, each a pure function of its results."""

from collections.abc import Iterator
from functools import partial

from matplotlib import figure

from cmu_jax.report.style import ReportFigure
from cmu_jax.studies.corrective import curves, looks, scatter, summary, verdict
from cmu_jax.studies.corrective.load import Results

# More curves than these in one panel cannot be told apart.
_GROUP = 5

_CAPTIONS = {
  'curves_paper': (
    'The methods of the paper (its Figure 2): above, accuracy on the affected '
    'kind of images; below, on the others. Means over seeds with 95 % '
    't-intervals. A method repairs where its curve stays above the dotted '
    'line. A cross at the bottom marks a fraction at which a run diverged.'
  ),
  'curves_others': 'The same for the other methods, a few at a time.',
  'importance': (
    'How many parameters have which ratio of importance for S_f to importance '
    'for the rest (Figure 3 of the paper); a line a seed. Selective dampening '
    'can tell apart what lies far to the right.'
  ),
  'utility': (
    'Every point of every hyperparameter grid (Figures 11 to 14 of the paper), '
    'all seeds. Upper right is best. Rings: chosen on validation data; plus '
    'signs: chosen with knowledge of these very results.'
  ),
  'cost': (
    'What trying the whole grid costs against how much of U* is reached, as '
    'the mean over fractions and seeds. Upper left is best.'
  ),
}


def _groups(methods: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
  """Methods by figure: those of the paper, then a few at a time."""
  paper = tuple(m for m in methods if m in looks.PAPER and m != 'none')
  others = [m for m in methods if m not in looks.PAPER]
  parts = [others[i : i + _GROUP] for i in range(0, len(others), _GROUP)]
  named = {f'curves_others_{i + 1}': tuple(p) for i, p in enumerate(parts)}
  return ({'curves_paper': paper} if paper else {}) | named


def _makers(results: Results) -> dict[str, partial[figure.Figure]]:
  """Name -> what draws it, for the figures that these results allow."""
  view = summary.view(results)
  if not view.problems or not view.fractions:
    return {}
  label = verdict.verdict(results).label
  made = {}
  for name, methods in _groups(view.methods).items():
    title = label if name == 'curves_paper' else f'Also: {", ".join(methods)}'
    made[name] = partial(curves.over_fractions, results, methods, title)
  if results['importance']:
    made['importance'] = partial(curves.importance, results)
  for problem in view.problems:
    if scatter.tuned(results, problem):
      name = f'utility_{problem[0]}_{problem[1]}'
      made[name] = partial(scatter.utility, results, problem)
  return made | {'cost': partial(scatter.cost, results)}


def names(results: Results) -> tuple[str, ...]:
  """The names of the figures that `draw` makes, in order."""
  return tuple(_makers(results))


def draw(results: Results) -> Iterator[ReportFigure]:
  """Draws the figures one by one.

  Args:
    results: checked contents of results.json, of an unfinished sweep too.
  """
  for name, make in _makers(results).items():
    yield ReportFigure(name, make())


def caption(name: str) -> str:
  """What a figure shows and how to read it."""
  return next(text for key, text in _CAPTIONS.items() if name.startswith(key))


def ours(name: str) -> bool:
  """Whether a file name without its ending is that of a figure of a sweep."""
  return name.startswith(tuple(_CAPTIONS))
