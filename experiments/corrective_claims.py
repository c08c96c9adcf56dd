"""Reproduction of published claims by a sweep of ours, with intervals.

Each claim of arXiv 2402.14015 about poisoning and interclass confusion is a
difference of Acc_corr between two cells, paired by seed. It reproduces if the
95 % t-interval lies on the claimed side, fails if it lies on the other, and is
open in between. Nothing is tuned to make a claim come out.

  python experiments/corrective_claims.py --sweep=DIR --out=FILE.json
"""

import json
import pathlib
from typing import Any, NamedTuple

import cell_runs
import numpy as np

from cmu_jax.commands import shell
from cmu_jax.core import files
from cmu_jax.report import stats
from cmu_jax.studies.corrective import summary

SMALL = 0.05


class Claim(NamedTuple):
  """A claim: the mean of `value` over seeds is above or below `bound`.

  Attributes:
    text: in words.
    manipulation: of its problems.
    value: (Acc_corr by (method, fraction), U*) -> a number; KeyError if a cell
      is missing.
    side: 'above' or 'below'.
    bound: the number to compare with.
  """

  text: str
  manipulation: str
  value: Any
  side: str
  bound: float


def _gain(method: str, fraction: float):
  """The share of the gap between doing nothing and U* that is closed."""

  def value(cells, gold):
    nothing = cells['none', None]
    # Without a gap no share of it is closed: the problem decides no claim.
    if gold <= nothing:
      return None
    return (cells[method, fraction] - nothing) / (gold - nothing)

  return value


def _difference(cell: tuple, reference: tuple):
  return lambda cells, gold: cells[cell] - cells[reference]


def _poison_claims(fractions: list[float]) -> list[Claim]:
  """RewoD, CF, SCRUB and BadT need nearly all of S_m; SSD does not."""
  low = fractions[0]
  claim = lambda text, *rest: Claim(f'poison: {text}', 'poison', *rest)
  return [
    *[
      claim(
        f'{name} closes little of the gap at {f:g} identified',
        _gain(name, f),
        'below',
        0.2,
      )
      for name in ('rewod', 'cf', 'scrub', 'badt')
      for f in fractions
      if f < 0.8
    ],
    claim(
      f'SSD recovers from {low:g} identified on',
      _gain('ssd', low),
      'above',
      0.8,
    ),
    claim(
      'SCRUB beats CF at half identified',
      _difference(('scrub', 0.5), ('cf', 0.5)),
      'above',
      0.0,
    ),
  ]


def _interclass_claims(fractions: list[float]) -> list[Claim]:
  """RewoD and CF rise, SSD and BadT do not."""
  low, high = fractions[0], fractions[-1]
  claim = lambda text, *rest: Claim(f'interclass: {text}', 'interclass', *rest)
  return [
    claim(
      'CF beats SCRUB at half identified',
      _difference(('cf', 0.5), ('scrub', 0.5)),
      'above',
      0.0,
    ),
    *[
      claim(
        f'{name} rises from {low:g} to {high:g} identified',
        _difference((name, high), (name, low)),
        'above',
        SMALL,
      )
      for name in ('rewod', 'cf')
    ],
    *[
      claim(
        f'SSD is no better than doing nothing at {f:g}',
        _difference(('ssd', f), ('none', None)),
        'below',
        SMALL,
      )
      for f in fractions
    ],
    claim(
      f'BadT stays poor at {high:g} identified',
      _gain('badt', high),
      'below',
      0.2,
    ),
  ]


def claims(fractions: list[float]) -> list[Claim]:
  """Lists the claims that a sweep over identified fractions can test."""
  return [*_poison_claims(fractions), *_interclass_claims(fractions)]


def values(results: dict, claim: Claim) -> list[float]:
  """Computes the claim's number for every seed and size with all cells."""
  numbers = []
  rows = [
    row for row in results['rows'] if row['manipulation'] == claim.manipulation
  ]
  problems = {(row['manipulation_size'], row['seed']) for row in rows}
  for problem in sorted(problems):
    cells = {
      (row['method'], row['identified_fraction']): row['acc_corr']
      for row in rows
      if row['selection'] == 'paper'
      and not row['diverged']
      and (row['manipulation_size'], row['seed']) == problem
    }
    try:
      numbers.append(claim.value(cells, cells['rewod', 1.0]))
    except KeyError:
      continue
  return [number for number in numbers if number is not None]


def judge(results: dict, claim: Claim) -> dict[str, Any]:
  """Returns the line of a claim: the claim, and the result."""
  numbers = values(results, claim)
  interval = stats.interval(np.asarray(numbers, float))
  verdict = 'open'
  if interval is not None:
    # Mirrored, a claim of 'below' becomes one of 'above'.
    sign = 1 if claim.side == 'above' else -1
    ends = sorted((sign * interval.low, sign * interval.high))
    if ends[0] > sign * claim.bound:
      verdict = 'reproduces'
    if ends[1] < sign * claim.bound:
      verdict = 'fails'
  return {
    'claim': claim.text,
    'wanted': f'{claim.side} {claim.bound:g}',
    'seeds': len(numbers),
    'mean': float(np.mean(numbers)) if numbers else None,
    'interval': None if interval is None else [interval.low, interval.high],
    'verdict': verdict if numbers else 'not in this sweep',
  }


def main() -> None:
  """Prints a line a claim and writes them all."""
  parser = cell_runs.parser(__doc__)
  parser.add_argument('--sweep', required=True, help='work folder of a sweep')
  parser.add_argument('--out')
  flags = parser.parse_args()
  results = summary.read(pathlib.Path(flags.sweep))
  fractions = sorted(
    {
      row['identified_fraction']
      for row in results['rows']
      if row['identified_fraction']
    }
  )
  lines = [judge(results, claim) for claim in claims(fractions)]
  for line in lines:
    mean = '-' if line['mean'] is None else f'{line["mean"]:+.3f}'
    ends = line['interval']
    interval = f'[{ends[0]:+.3f}, {ends[1]:+.3f}]' if ends else ''
    print(f'{line["verdict"]:>17}  {mean} {interval}  {line["claim"]}')
  if flags.out:
    about = {
      name: results['provenance'].get(name)
      for name in ('commit', 'command', 'versions')
    }
    files.write_json(
      flags.out, {'sweep': results['name'], **about, 'claims': lines}
    )
  else:
    print(json.dumps({'claims': len(lines)}))


if __name__ == '__main__':
  shell.run_script(main)
