"""Numbers as tables show them, with the signs for what is wrong with them."""

from collections.abc import Iterable

from cmu_jax.report.text_tables import DASH
from cmu_jax.studies.corrective import summary
from cmu_jax.studies.corrective.headline import Alpha
from cmu_jax.studies.corrective.load import Row
from cmu_jax.studies.corrective.summary import Cell

_MARKS = {
  '†': 'diverged in at least one run, which the mean leaves out',
  '‡': (
    'collapsed in at least one run: validation accuracy fell by more than 5 '
    'points'
  ),
  '*': 'at least one run is missing, which the mean leaves out',
}


def marks(cell: Cell) -> str:
  """The signs for what is wrong with a cell."""
  return (
    ('†' if cell.diverged else '')
    + ('‡' if cell.collapsed else '')
    + ('*' if cell.missing else '')
  )


def legend(texts: Iterable[str]) -> tuple[str, ...]:
  """What the signs that occur in some texts mean: a note, or none."""
  text = ''.join(texts)
  told = [f'{sign} {says}' for sign, says in _MARKS.items() if sign in text]
  return (f'{"; ".join(told)}.',) if told else ()


def _signed(value: float) -> str:
  """'+0.29', '−8.94'."""
  return f'{value:+.2f}'.replace('-', '−')


def mean_interval(cell: Cell, digits: int = 3, intervals: bool = True) -> str:
  """'0.812 ± 0.031' with half the 95 % interval, and the signs."""
  found, between = summary.spread(cell), summary.interval(cell)
  if found is None:
    return ('diverged' if cell.diverged else DASH) + marks(cell)
  text = f'{found.mean:.{digits}f}'.replace('-', '−')
  if intervals and between is not None:
    text += f' ± {between.high - between.mean:.{digits}f}'
  return text + marks(cell)


def mean_std(cell: Cell, absolute: bool) -> str:
  """Points with the sample standard deviation, as in the paper's Table 1."""
  found = summary.spread(cell)
  if found is None:
    return ('diverged' if cell.diverged else DASH) + marks(cell)
  mean = f'{100 * found.mean:.2f}' if absolute else _signed(found.mean)
  if found.std is None:
    return mean + marks(cell)
  std = 100 * found.std if absolute else found.std
  return f'{mean} ± {std:.2f}{marks(cell)}'


def count(value: float | None) -> str:
  """Thousands apart, a dash for None."""
  return DASH if value is None else f'{value:,.0f}'.replace(',', ' ')


def alpha(found: Alpha) -> str:
  """'0.3', 'never', 'already satisfied', 'incomplete' or 'undefined'."""
  if found.status == 'reached' and found.value is not None:
    return f'{found.value:g}'
  return found.status.replace('_', ' ')


def _hyper(row: Row) -> str:
  """'alpha=10 gamma=0.1'; a dash for a method without any."""
  chosen = (row.get('hyper') or {}).items()
  return ' '.join(f'{key}={value:g}' for key, value in chosen) or DASH


def hyper(rows: list[Row | None]) -> str:
  """The hyperparameters of some seeds, one text where all have the same."""
  told = ['missing' if row is None else _hyper(row) for row in rows]
  return told[0] if len(set(told)) == 1 else '; '.join(told)
