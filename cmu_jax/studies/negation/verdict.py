"""What a run on negation showed, in words."""

import numpy as np

from cmu_jax.report.frame import UNFINISHED, Results, Verdict
from cmu_jax.studies.negation import tables


def _label(results: Results) -> str:
  """The outcome in one sentence."""
  found = tables.means(results)
  if not found:
    return 'No cell is done yet'
  order = {}
  for method in dict.fromkeys(method for _, method, _ in found):
    of_it = [v['forget_accuracy'] for _, m, v in found if m == method]
    order[method] = float(np.mean(of_it))
  best = min(order, key=lambda method: order[method])
  before = np.mean([v['forget_accuracy_before'] for _, _, v in found])
  kept = np.mean(
    [v['control_accuracy'] for _, m, v in found if m == best]
  ) / np.mean([v['control_accuracy_before'] for _, _, v in found])
  return (
    f'Subtracting {tables.NAMES[best]} takes the accuracy on what is to be '
    f'forgotten from {before:.1%} to {order[best]:.1%}; the control set keeps '
    f'{kept:.1%} of its accuracy'
  )


def verdict(results: Results) -> Verdict:
  """What negation took from the forget sets and from the control set."""
  said = [
    f'The control set is {results["control"]}. Strengths are chosen on '
    'validation images alone.'
  ]
  if not results['finished']:
    said.append(UNFINISHED)
  return Verdict(_label(results), 'flat', tuple(said))
