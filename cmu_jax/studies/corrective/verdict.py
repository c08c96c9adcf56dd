"""What a sweep showed, in words: a line, and how far it can be trusted."""

from typing import NamedTuple

from cmu_jax.studies.corrective import looks, outcomes, summary
from cmu_jax.studies.corrective.load import Results
from cmu_jax.studies.corrective.outcomes import Outcome
from cmu_jax.studies.corrective.summary import View


class Verdict(NamedTuple):
  """What a sweep showed.

  Attributes:
    label: the finding in one line.
    good: whether a method repairs all problems early and without harm.
    sentences: how far that can be trusted.
    outcomes: one a problem.
  """

  label: str
  good: bool
  sentences: tuple[str, ...]
  outcomes: tuple[Outcome, ...]


class _Everywhere(NamedTuple):
  """A method that reaches the bar on every problem, the best ones first."""

  harm: bool
  start: float
  shaky: bool
  method: str


def _everywhere(judged: list[Outcome], seeds: int) -> list[_Everywhere]:
  """Methods that reach the bar everywhere before all is identified."""
  tables = [{r.method: r for r in one.reached} for one in judged]
  found = []
  for method in set.intersection(*(set(table) for table in tables)):
    reaches = [table[method] for table in tables]
    start = max(r.start for r in reaches)
    shaky = any(r.seeds < seeds for r in reaches)
    if start < 1:
      harm = any(map(outcomes.harmful, reaches))
      found.append(_Everywhere(harm, start, shaky, method))
  return sorted(found)


def _where(judged: list[Outcome], total: int) -> str:
  n = len(judged)
  if n < total:
    names = _listed([one.name for one in judged])
    return f'{names} (nothing to judge elsewhere)'
  return {1: judged[0].name, 2: 'both problems'}.get(n, f'all {n} problems')


def _listed(names: list[str]) -> str:
  """'a', 'a and b', or 'a, b, c and 2 more'."""
  if len(names) > 3:
    names = [*names[:3], f'{len(names) - 3} more']
  return ' and '.join(
    part for part in (', '.join(names[:-1]), names[-1]) if part
  )


def _label(
  judged: list[Outcome], total: int, seeds: int
) -> tuple[str, bool, list[str]]:
  """The finding in a line, whether it is a clean repair, and who is named."""
  where = _where(judged, total)
  found = _everywhere(judged, seeds)
  if not found:
    late = any(one.unknown for one in judged)
    rest = ' so far' if late else ' before everything is identified'
    return f'No method reaches 0.9 U* on {where}{rest}', False, []
  best = found[0]
  if best.harm:
    named = [one.method for one in found[:3]]
    text = f'Only with harm is 0.9 U* reached on {where}: {", ".join(named)}'
    return text, False, named
  named = [one.method for one in found if one[:3] == best[:3]]
  verb = 'reaches' if len(named) == 1 else 'reach'
  start = looks.percent(best.start)
  text = f'{_listed(named)} {verb} 0.9 U* on {where} from {start}'
  doubt = ', on average but not in every seed' if best.shaky else ''
  return f'{text} identified on{doubt}', not best.shaky, named


def _sure(results: Results, view: View, found: list[Outcome]) -> list[str]:
  said = []
  if results['smoke']:
    said.append('Smoke run, far too short to mean anything: not evidence.')
  if not results['finished']:
    said.append('The sweep is not finished; this may change.')
  missing = sum(one.status in ('incomplete', 'undefined') for one in found)
  if missing:
    said.append(f'{missing} of {len(found)} problems cannot be judged yet.')
  if len(view.seeds) == 1:
    said.append(
      'One seed: how much the numbers vary is unknown, and no difference is '
      'beyond doubt.'
    )
  over = f'the mean over {len(view.seeds)} seeds' if len(view.seeds) > 1 else ''
  said.append(
    f'Reached means: by {over or "that seed"}, with hyperparameters chosen by '
    "the benchmark's rule on validation data. Harm means: Acc_retain falls by "
    f'more than {outcomes.HARM:g} point on average, or validation accuracy by '
    'more than 5 points in some run.'
  )
  said.append(
    'One network on one data set: elsewhere methods may rank otherwise.'
  )
  return said


def verdict(results: Results) -> Verdict:
  """Decides what a sweep showed; claims nothing of what is missing."""
  view = summary.view(results)
  found = [outcomes.outcome(results, view, p) for p in view.problems]
  judged = [one for one in found if one.status == 'open']
  sure = _sure(results, view, found)
  clean = False
  if judged:
    label, clean, named = _label(judged, len(found), len(view.seeds))
    sure = [f'{m} could see: {view.information[m]}.' for m in named] + sure
  elif found and all(one.status == 'already_satisfied' for one in found):
    label = 'Nothing to repair'
  else:
    label = 'No verdict yet'
  sound = results['finished'] and not results['smoke'] and len(view.seeds) > 1
  return Verdict(label, clean and sound, tuple(sure), tuple(found))
