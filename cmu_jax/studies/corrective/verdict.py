"""The verdict on a sweep: a line, and how far it can be trusted."""

from typing import NamedTuple

from cmu_jax.report.frame import Results, Verdict
from cmu_jax.studies.corrective import looks, outcomes, summary
from cmu_jax.studies.corrective.outcomes import Outcome


class _Winner(NamedTuple):
  """A method that reaches the bar on every problem; the best sort first."""

  harm: bool
  start: float
  shaky: bool
  method: str


def _find_winners(judged: list[Outcome], seeds: int) -> list[_Winner]:
  """Finds methods that reach the bar everywhere before all is identified."""
  tables = [{reach.method: reach for reach in o.reached} for o in judged]
  winners = []
  # A method that fails on one manipulation is no repair of an unknown one.
  for method in set.intersection(*(set(table) for table in tables)):
    reaches = [table[method] for table in tables]
    start = max(reach.start for reach in reaches)
    shaky = any(reach.seeds < seeds for reach in reaches)
    if start < 1:
      harm = any(reach.harm for reach in reaches)
      winners.append(_Winner(harm, start, shaky, method))
  return sorted(winners)


def _join(names: list[str]) -> str:
  """Joins names: 'a', 'a and b', or 'a, b, c and 2 more'."""
  if len(names) > 3:
    names = [*names[:3], f'{len(names) - 3} more']
  return ' and '.join(filter(None, (', '.join(names[:-1]), names[-1])))


def _name_problems(judged: list[Outcome], total: int) -> str:
  n = len(judged)
  if n < total:
    names = _join([outcome.name for outcome in judged])
    return f'{names} (nothing to judge elsewhere)'
  return {1: judged[0].name, 2: 'both problems'}.get(n, f'all {n} problems')


def _label(
  judged: list[Outcome], total: int, seeds: int
) -> tuple[str, bool, list[str]]:
  """States the finding, whether it is a clean repair, and its methods."""
  problems = _name_problems(judged, total)
  winners = _find_winners(judged, seeds)
  if not winners:
    # Missing cells may still bring a method over the bar.
    late = any(outcome.unknown for outcome in judged)
    limit = ' so far' if late else ' before everything is identified'
    return f'No method reaches 0.9 U* on {problems}{limit}', False, []
  best = winners[0]
  if best.harm:
    names = [winner.method for winner in winners[:3]]
    text = f'Only with harm is 0.9 U* reached on {problems}: {", ".join(names)}'
    return text, False, names
  # Equals are named together: their order by name means nothing.
  names = [winner.method for winner in winners if winner[:3] == best[:3]]
  verb = 'reaches' if len(names) == 1 else 'reach'
  start = looks.format_percent(best.start)
  text = f'{_join(names)} {verb} 0.9 U* on {problems} from {start}'
  doubt = ', on average but not in every seed' if best.shaky else ''
  return f'{text} identified on{doubt}', not best.shaky, names


def _describe_limits(
  results: Results, seeds: int, judged: list[Outcome]
) -> list[str]:
  """Describes how far the verdict can be trusted."""
  missing = sum(o.status in ('incomplete', 'undefined') for o in judged)
  mean = f'the mean over {seeds} seeds' if seeds > 1 else 'that seed'
  doubts = {
    'Smoke run, far too short to mean anything: not evidence.': (
      results['smoke']
    ),
    'The sweep is not finished: this is what there is, and it may change.': (
      not results['finished']
    ),
    f'{missing} of {len(judged)} problems cannot be judged yet.': missing,
    'One seed: how much the numbers vary is unknown, and no difference is '
    'beyond doubt.': seeds == 1,
  }
  return [
    *(text for text, applies in doubts.items() if applies),
    f'Reached means: by {mean}, with hyperparameters chosen by the '
    "benchmark's rule on validation data. Harm means: Acc_retain falls by "
    f'more than {outcomes.HARM:g} point on average, or validation accuracy by '
    'more than 5 points in some run.',
    'One network on one data set: elsewhere methods may rank otherwise.',
  ]


def judge(results: Results) -> Verdict:
  """Judges a sweep; claims nothing of missing cells."""
  view = summary.index_rows(results)
  every = outcomes.judge_problems(results)
  judged = [outcome for outcome in every if outcome.status == 'open']
  seeds = len(view.seeds)
  clean = False
  names: list[str] = []
  if judged:
    label, clean, names = _label(judged, len(every), seeds)
  elif every and all(o.status == 'already_satisfied' for o in every):
    label = 'Nothing to repair'
  else:
    label = 'No verdict yet'
  sentences = [f'{name} could see: {view.information[name]}.' for name in names]
  sentences += _describe_limits(results, seeds, every)
  # One seed or a smoke run is never shown as good news.
  sound = results['finished'] and not results['smoke'] and seeds > 1
  tone = 'good' if clean and sound else 'flat'
  return Verdict(label, tone, tuple(sentences))
