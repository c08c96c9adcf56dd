"""The figures of a report, each a pure function of a run's files."""

from collections.abc import Iterator

from cmu_jax.report import style
from cmu_jax.studies.cuts import curves, maps
from cmu_jax.studies.cuts.load import Arrays, Results

alpha_curve = curves.alpha_curve
methods = curves.methods
confusions = maps.confusions
feature_path = maps.feature_path

ALL = ('methods', 'alpha_curve', 'confusions', 'feature_path')

CAPTIONS = {
  'methods': (
    'Every method on clean test images (and on triggered ones, if there was a '
    'trigger). Each dot is a seed, each bar the mean over seeds. A useful '
    'method moves away from "do nothing" towards the oracle.'
  ),
  'alpha_curve': (
    'How far to step. Above: what CUTS looks at while it chooses alpha, '
    'without any correct label. Below: what each alpha would do to test '
    'images, measured afterwards. Thin lines are seeds, bold lines their '
    'mean; dashed uprights mark the alpha that CUTS chose. A gap in the score '
    'means that the model predicted fewer than two classes.'
  ),
  'confusions': (
    'Out of 100 test images of a true class (row), how many are given each '
    'predicted class (column), pooled over seeds. A perfect model has 100 on '
    'the diagonal and nothing elsewhere. Both panels share one colour scale.'
  ),
  'feature_path': (
    'The features that the network computes before its last layer, flattened '
    'to the two directions in which they vary most, for the first seed. Each '
    'line follows the centre of one true class as alpha grows. Classes that '
    'move apart become easier to tell from one another.'
  ),
}


def _explain_absence(name: str, results: Results, arrays: Arrays) -> str:
  """Names the data that the run lacks for a figure; '' if it has all."""
  needed = {
    'confusions': ('confusion_corrupted', 'confusion_cuts'),
    'feature_path': (
      'feature_path',
      'feature_path_alpha',
      'feature_path_label',
    ),
  }.get(name, ())
  absent = [key for key in needed if key not in arrays]
  if absent:
    return f'the run recorded no {", ".join(absent)} in arrays.npz'
  # An empty array would fail while it is drawn, with an obscure message.
  if needed and 0 in (size := arrays[needed[0]].shape):
    return f'{needed[0]} is empty: its shape is {size}'
  if name == 'alpha_curve' and not results['curves']:
    return 'the run recorded no curves over alpha in results.json'
  return ''


def draw(results: Results, arrays: Arrays) -> Iterator[style.ReportFigure]:
  """Draws the figures one by one, in the order of ALL.

  Args:
    results: results.json of a run.
    arrays: arrays.npz of the run; figures without their arrays are left out.
  """
  # The lambdas delay the work, because a figure without its data must not be
  # drawn.
  makers = {
    'methods': lambda: methods(results),
    'alpha_curve': lambda: alpha_curve(results),
    'confusions': lambda: confusions(results, arrays),
    'feature_path': lambda: feature_path(results, arrays),
  }
  for name in ALL:
    missing = _explain_absence(name, results, arrays)
    yield style.ReportFigure(name, None if missing else makers[name](), missing)
