"""What a run on ensembles showed, in words."""

from cmu_jax.report.frame import UNFINISHED, Results, Verdict
from cmu_jax.studies.ensembles import tables


def _heading(results: Results) -> str:
  """What the penalty did to the transfer rate, in words."""
  first = tables.threats(results)[0] if results['rows'] else ''
  found = tables.change(results, first, 't_rate', 'clipped', 'lotos')
  if found is None:
    return 'Transfer of adversarial images between members'
  word = 'lower' if found.mean < 0 else 'higher'
  sure = found.low is not None and found.high is not None
  clear = sure and (found.low > 0 or found.high < 0)  # type: ignore[operator]
  rest = '' if clear else '; the interval over seeds holds 0'
  return (
    f'T_rate with LOTOS is {abs(100 * found.mean):.1f} points {word} than with '
    f'clipping alone{rest}'
  )


def verdict(results: Results) -> Verdict:
  """What the penalty did to transfer, and what that cost."""
  label = _heading(results)
  if not results['rows']:
    return Verdict(label, 'flat', ('No cell is done yet.',))
  said = [
    'Less transfer is not more robustness: compare the joint failure and the '
    'black-box accuracy, which are over the same images for all ensembles.'
  ]
  threat = tables.threats(results)[0]
  for before, after in (('clipped', 'lotos'), ('plain', 'lotos')):
    parts = [
      f'{tables.METRICS[key][0]} {tables.signed(found)}'
      for key in ('test_accuracy', 'joint_failure_rate', 'black_box_accuracy')
      if (found := tables.change(results, threat, key, before, after))
    ]
    if parts:
      name = tables.NAMES[before]
      said.append(f'LOTOS against {name}: {", ".join(parts)}.')
  if not results['finished']:
    said.append(UNFINISHED)
  return Verdict(label, 'flat', tuple(said))
