"""What an audit showed, in plain words."""

from cmu_jax.report.frame import UNFINISHED, Results, Verdict
from cmu_jax.studies.membership import tables


def _sane(found: Results) -> tuple[bool, list[str]]:
  """Whether any attack works as it should, and what each does."""
  level = f'{found["config"]["evaluate"]["confidence"]:.0%}'
  said, works = [], False
  for attack, checks in found['sanity'].items():
    finds = checks['original_above_half']
    fair = checks['retrain_contains_half']
    works |= finds and fair
    said.append(
      f'{attack}: before unlearning it '
      + ('finds the points' if finds else 'does not find the points')
      + f' at {level}, and of networks that never saw them it '
      + ('claims nothing.' if fair else 'claims something, which is wrong.')
    )
  return works, said


def _method(found: Results, method: str) -> tuple[bool, str]:
  """Whether an attack finds what a method forgot, and the strongest one."""
  rows = [
    row
    for row in found['rows']
    if row['method'] == method and row['points'] == 'forget'
  ]
  leaks = sum(row['verdict'] == 'leaks' for row in rows)
  worst = max(rows, key=lambda row: row['auroc']['value'])
  auc = worst['auroc']
  return leaks > 0, (
    f'{method}: {leaks} of {len(rows)} attacks find what it forgot. The '
    f'strongest is {tables.attack(worst)}, AUC {auc["value"]:.3f} '
    f'[{auc["low"]:.3f}, {auc["high"]:.3f}]: {worst["verdict"]}.'
  )


def verdict(found: Results) -> Verdict:
  """What an audit showed.

  Args:
    found: contents of results.json.
  """
  works, sentences = _sane(found)
  leaks = []
  for method in found['methods']:
    if method not in ('none', 'retrain'):
      leak, told = _method(found, method)
      sentences.append(told)
      leaks += [method] if leak else []
  sentences.append(
    'An attack that fails shows that this attack fails, with so many '
    'references, on average over these points. Networks share a pool, and '
    f'points their references: intervals have {tables.drawn(found)}.'
  )
  if not found['finished']:
    sentences.append(UNFINISHED)
  if not works:
    return Verdict(
      'Cannot conclude: no attack tells members and is fair to retraining',
      'flat',
      tuple(sentences),
    )
  if leaks:
    label = f'Forgotten points can be told from unseen ones: {", ".join(leaks)}'
    return Verdict(label, 'bad', tuple(sentences))
  label = 'No attack tells forgotten points from unseen ones'
  return Verdict(label, 'good', tuple(sentences))
