"""Which published claims reproduce in a sweep of ours, with intervals.

Each claim of arXiv 2402.14015 about poisoning and interclass confusion is a
difference of Acc_corr between two cells, paired by seed; it reproduces if the
95 % t-interval lies on the claimed side, fails if it lies on the other, and is
open in between. Nothing is tuned to make a claim come out.

  python experiments/corrective_claims.py --sweep=DIR --out=FILE.json
"""

import argparse
import json
import pathlib
from typing import Any, NamedTuple

import numpy as np

from cmu_jax.commands import shell
from cmu_jax.core import files
from cmu_jax.report import stats
from cmu_jax.studies.corrective import load

LITTLE = 0.05


class Claim(NamedTuple):
  """A claim: the mean of `value` over seeds is above or below `bound`.

  Attributes:
    text: in words.
    manipulation: of the problems it is about.
    value: (Acc_corr by (method, fraction), U*) -> a number; KeyError where a
      cell is missing.
    side: 'above' or 'below'.
    bound: what it is compared with.
  """

  text: str
  manipulation: str
  value: Any
  side: str
  bound: float


def _gain(method: str, fraction: float):
  """Share of the gap between doing nothing and U* that is closed."""

  def value(cells, gold):
    nothing = cells['none', None]
    return (cells[method, fraction] - nothing) / (gold - nothing)

  return value


def _over(first: str, second: str, fraction: float):
  return lambda cells, gold: cells[first, fraction] - cells[second, fraction]


def _poison(fractions: list[float]) -> list[Claim]:
  """RewoD, CF, SCRUB and BadT need nearly all of S_m; SSD does not."""
  low = fractions[0]
  found = [
    Claim(
      f'poison: {name} closes little of the gap at {f:g} identified',
      'poison',
      _gain(name, f),
      'below',
      0.2,
    )
    for name in ('rewod', 'cf', 'scrub', 'badt')
    for f in fractions
    if f < 0.8
  ]
  recovers = Claim(
    f'poison: SSD recovers from {low:g} identified on',
    'poison',
    _gain('ssd', low),
    'above',
    0.8,
  )
  better = Claim(
    'poison: SCRUB beats CF at half identified',
    'poison',
    _over('scrub', 'cf', 0.5),
    'above',
    0.0,
  )
  return [*found, recovers, better]


def _interclass(fractions: list[float]) -> list[Claim]:
  """RewoD and CF rise, SSD and BadT do not."""
  low, high = fractions[0], fractions[-1]

  def about(text: str, value: Any, side: str, bound: float) -> Claim:
    return Claim(f'interclass: {text}', 'interclass', value, side, bound)

  def rise(name: str):
    return lambda cells, gold: cells[name, high] - cells[name, low]

  def over_none(fraction: float):
    return lambda cells, gold: cells['ssd', fraction] - cells['none', None]

  return [
    about(
      'CF beats SCRUB at half identified',
      _over('cf', 'scrub', 0.5),
      'above',
      0.0,
    ),
    *[
      about(
        f'{name} rises from {low:g} to {high:g} identified',
        rise(name),
        'above',
        LITTLE,
      )
      for name in ('rewod', 'cf')
    ],
    *[
      about(
        f'SSD is no better than doing nothing at {f:g}',
        over_none(f),
        'below',
        LITTLE,
      )
      for f in fractions
    ],
    about(
      f'BadT stays poor at {high:g} identified',
      _gain('badt', high),
      'below',
      0.2,
    ),
  ]


def claims(fractions: list[float]) -> list[Claim]:
  """The claims that the identified fractions of a sweep can speak to."""
  return [*_poison(fractions), *_interclass(fractions)]


def values(results: dict, claim: Claim) -> list[float]:
  """The claim's number, a seed and size that has all its cells."""
  found = []
  problems = {
    (row['manipulation_size'], row['seed'])
    for row in results['rows']
    if row['manipulation'] == claim.manipulation
  }
  for size, seed in sorted(problems):
    cells = {
      (row['method'], row['identified_fraction']): row['acc_corr']
      for row in results['rows']
      if row['selection'] == 'paper'
      and not row['diverged']
      and (row['manipulation'], row['manipulation_size'], row['seed'])
      == (claim.manipulation, size, seed)
    }
    try:
      found.append(claim.value(cells, cells['rewod', 1.0]))
    except KeyError:
      continue
  return found


def judged(results: dict, claim: Claim) -> dict[str, Any]:
  """A claim's line: what was claimed, what was found."""
  found = values(results, claim)
  between = stats.interval(np.asarray(found, float))
  verdict = 'open'
  if between is not None:
    above = claim.side == 'above'
    if (between.low if above else -between.high) > (
      claim.bound if above else -claim.bound
    ):
      verdict = 'reproduces'
    if (between.high if above else -between.low) < (
      claim.bound if above else -claim.bound
    ):
      verdict = 'fails'
  return {
    'claim': claim.text,
    'wanted': f'{claim.side} {claim.bound:g}',
    'seeds': len(found),
    'mean': float(np.mean(found)) if found else None,
    'interval': None if between is None else [between.low, between.high],
    'verdict': verdict if found else 'not in this sweep',
  }


def main() -> None:
  """Prints a line a claim and writes them all."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--sweep', required=True, help='work folder of a sweep')
  parser.add_argument('--out')
  flags = parser.parse_args()
  results = load.results(pathlib.Path(flags.sweep))
  fractions = sorted(
    {
      row['identified_fraction']
      for row in results['rows']
      if row['identified_fraction']
    }
  )
  lines = [judged(results, claim) for claim in claims(fractions)]
  for line in lines:
    mean = '-' if line['mean'] is None else f'{line["mean"]:+.3f}'
    span = line['interval']
    shown = f'[{span[0]:+.3f}, {span[1]:+.3f}]' if span else ''
    print(f'{line["verdict"]:>17}  {mean} {shown}  {line["claim"]}')
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
