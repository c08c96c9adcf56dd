"""A verdict claims what the rows show; what is no sweep is refused."""

import copy
import json

import corrective_fakes as fakes
import pytest

from cmu_jax.core import errors
from cmu_jax.studies.corrective import outcomes, summary, verdict


def _broken(change):
  run = copy.deepcopy(fakes.results(seeds=1, methods=('rewod',)))
  change(run)
  return run


@pytest.mark.parametrize(
  'change, says',
  [
    (lambda r: r.update(schema=2), 'schema 1'),
    (lambda r: r.update(task='poison'), 'is not of task corrective'),
    (lambda r: r.pop('points'), "'points' is missing"),
    (
      lambda r: r.update(finished='yes'),
      "'finished' is missing or is not a bool",
    ),
    (lambda r: r['rows'][1].pop('acc_corr'), r'rows\[1\] has no acc_corr'),
    (lambda r: r['rows'].append(3), 'has no manipulation'),
    (lambda r: r['rows'][0].update(score=float('nan')), 'score is not finite'),
    (lambda r: r['rows'].append(r['rows'][0]), 'comes twice'),
    (lambda r: r['problems'].pop(), 'problems does not list'),
    (lambda r: r['importance'][0]['edges'].pop(), '40 edges for 40 counts'),
  ],
)
def test_what_is_not_the_result_of_a_sweep_is_refused(tmp_path, change, says):
  fakes.save(tmp_path, _broken(change))
  with pytest.raises(errors.UserError, match=says) as caught:
    summary.read(tmp_path)
  assert '\n' not in str(caught.value)


def test_a_folder_without_results_is_refused(tmp_path):
  with pytest.raises(errors.UserError, match='does not exist'):
    summary.read(tmp_path)
  (tmp_path / 'results.json').write_text('{')
  with pytest.raises(errors.UserError, match='cannot read'):
    summary.read(tmp_path)


def test_sweeps_are_read_back_as_they_were_written(tmp_path):
  run = fakes.results(seeds=1)
  assert summary.read(fakes.save(tmp_path, run)) == json.loads(json.dumps(run))


def test_the_verdict_of_the_published_order():
  found = verdict.judge(fakes.results())
  assert found.label == (
    'No method reaches 0.9 U* on both problems before everything is identified'
  )
  assert found.tone == 'flat'
  poison, confused = outcomes.judge_problems(fakes.results())
  assert [r.method for r in poison.reached] == ['ssd', 'rewod', 'cf']
  assert poison.reached[0].start == 0.1
  assert poison.reached[0].harm
  assert poison.failed == ('badt', 'scrub')
  assert confused.reached[0][:2] == ('rewod', 0.8)
  told = [text for text, harm in outcomes.describe_methods(poison, 3) if harm]
  assert len(told) == 1 and 'harm' in told[0]
  assert 'U* itself' in outcomes.describe_methods(poison, 3)[1][0]


def _winner(retain=0.96, **more):
  """A sweep in which npo repairs everything from the first fraction on."""
  run = fakes.results(methods=('npo', 'rewod'), **more)
  for row in fakes.pick(run, method='npo'):
    row.update(acc_corr=0.95, acc_retain=retain)
  return run


def test_a_method_that_wins_on_all_problems_is_named():
  found = verdict.judge(_winner())
  assert found.tone == 'good'
  assert found.label == (
    'npo reaches 0.9 U* on both problems from 10 % identified on'
  )
  assert found.sentences[0] == 'npo could see: S_f + S_r.'


def test_harm_spoils_a_win():
  found = verdict.judge(_winner(retain=0.94))
  assert found.tone == 'flat'
  assert found.label.startswith('Only with harm')


@pytest.mark.parametrize(
  'more, says',
  [
    ({'seeds': 1}, 'One seed'),
    ({'smoke': True}, 'not evidence'),
    ({'finished': False}, 'not finished'),
  ],
)
def test_thin_evidence_never_shows_as_good(more, says):
  found = verdict.judge(_winner(**more))
  assert found.tone == 'flat'
  assert any(says in sentence for sentence in found.sentences)


def test_a_win_on_average_only_says_so():
  run = _winner()
  for row in fakes.pick(run, method='npo', manipulation='poison'):
    row['acc_corr'] = 0.5 if row['seed'] == 0 else 1.1
  found = verdict.judge(run)
  assert 'on average but not in every seed' in found.label
  assert found.tone == 'flat'


def test_problems_that_cannot_be_judged_are_not_claimed():
  run = fakes.drop(_winner(), manipulation='poison', method='rewod', seed=0)
  found = verdict.judge(run)
  assert found.label == (
    'npo reaches 0.9 U* on interclass 400 (nothing to judge elsewhere) from '
    '10 % identified on'
  )
  poison = outcomes.judge_problems(run)[0]
  assert (poison.status, poison.reached) == ('incomplete', ())


def test_nothing_to_repair_and_nothing_there():
  run = fakes.results()
  for row in fakes.pick(run, method='none'):
    row['acc_corr'] = 0.99
  assert verdict.judge(run).label == 'Nothing to repair'
  half = fakes.drop(run, manipulation='poison', method='rewod', seed=0)
  assert verdict.judge(half).label == 'No verdict yet'
  empty = fakes.results(seeds=0, problems=(), finished=False)
  assert verdict.judge(empty).label == 'No verdict yet'
