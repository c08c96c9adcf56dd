"""The command that makes somebody's network forget pictures."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import unlearn_case

from cmu_jax import __main__ as program
from cmu_jax import networks
from cmu_jax.commands import flags, requests
from cmu_jax.commands.unlearn import (
  METHODS,
  UnlearnRequest,
  job,
  page,
)
from cmu_jax.commands.unlearn import unlearn as call
from cmu_jax.core import errors
from cmu_jax.core.types import Batch, MethodInputs, Network
from cmu_jax.methods import study_names
from cmu_jax.networks import weights
from cmu_jax.training import descent, train


@pytest.fixture(scope='module')
def case(tmp_path_factory):
  folder = tmp_path_factory.mktemp('unlearn')
  unlearn_case.make(folder)
  return folder


def request(case, **changes):
  return {
    'weights': str(case / 'w.npz'),
    'model': 'fc:width=64',
    'forget': str(case / 'forget'),
    **changes,
  }


def argv(case, **changes):
  return [
    f'--{name}={value}' for name, value in request(case, **changes).items()
  ]


def test_weights_numbers_and_a_page_come_out(case, tmp_path):
  found = call(
    **request(
      case,
      out=str(tmp_path),
      method='random_label',
      retain=str(case / 'retain'),
      test=str(case / 'test'),
      epochs=3,
    )
  )
  written = json.loads((tmp_path / 'results.json').read_text())
  assert found['measured'] == written['measured']
  assert found['pictures'] == {'forget': 60, 'retain': 300, 'test': 200}
  before, after = (found['measured'][when] for when in ('before', 'after'))
  assert before['accuracy']['forget'] == 1.0
  # It learns other labels: less sure of what it was to forget than of the rest.
  assert after['confidence']['forget'] < before['confidence']['forget'] - 0.02
  assert after['confidence']['retain'] > after['confidence']['forget']
  assert 0 <= after['membership']['low'] <= after['membership']['auc'] <= 1
  page = (tmp_path / 'report.html').read_text()
  assert (
    '60 pictures: accuracy on them' in page
    and 'http' not in page.split('<body')[1]
  )
  assert (tmp_path / 'figures' / 'before_and_after.png').stat().st_size > 5000


def test_the_weights_that_come_out_are_those_that_were_measured(case, tmp_path):
  found = call(
    **request(case, out=str(tmp_path), method='gradient_ascent', epochs=2)
  )
  stored = weights.read(str(tmp_path / found['weights']))
  old = weights.read(str(case / 'w.npz'))
  assert stored.arrays.keys() == old.arrays.keys()
  assert any((stored.arrays[k] != old.arrays[k]).any() for k in old.arrays)
  side = json.loads((tmp_path / f'{found["weights"]}.json').read_text())
  assert side == {'mean': [0.5], 'std': [0.5]}
  # Without test pictures nothing is said of them.
  assert found['measured']['after']['membership'] is None
  assert found['measured']['after']['accuracy']['test'] is None


def test_the_same_command_gives_the_same_weights(case, tmp_path):
  paths = []
  for name in ('a', 'b'):
    found = call(
      **request(
        case, out=str(tmp_path / name), method='gradient_ascent', epochs=1
      )
    )
    paths.append(tmp_path / name / found['weights'])
  first, second = (weights.read(str(path)).arrays for path in paths)
  assert all((first[name] == second[name]).all() for name in first)


@pytest.mark.slow
def test_a_call_that_was_stopped_goes_on(case, tmp_path, monkeypatch, capsys):
  asked = {'method': 'gradient_ascent', 'epochs': 6, 'batch_size': 20}
  whole = call(**request(case, out=str(tmp_path / 'a'), **asked))
  check, calls = train._check_finite, []

  def stop(*args):
    check(*args)
    calls.append(args)
    if len(calls) == 3:
      raise KeyboardInterrupt

  monkeypatch.setattr(job, '_SAVE_SECONDS', 0.0)
  monkeypatch.setattr(train, '_check_finite', stop)
  with pytest.raises(KeyboardInterrupt):
    call(**request(case, out=str(tmp_path / 'b'), **asked))
  assert list((tmp_path / 'b' / 'originals').iterdir())
  capsys.readouterr()
  found = call(**request(case, out=str(tmp_path / 'b'), **asked))
  assert 'continues at step' in capsys.readouterr().err
  assert found['measured'] == whole['measured']
  first, second = (
    weights.read(str(tmp_path / name / found['weights'])).arrays
    for name in ('a', 'b')
  )
  assert all((first[name] == second[name]).all() for name in first)
  assert not list((tmp_path / 'b' / 'originals').iterdir())


def test_evidence_is_that_of_the_logits():
  logits = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]], np.float32)
  label = np.array([0, 0, 1])
  seen = {'forget': (logits, label), 'retain': None, 'test': (-logits, label)}
  found = job.measure_sets(seen, 2)
  assert found['accuracy'] == {
    'forget': pytest.approx(1 / 3),
    'retain': None,
    'test': pytest.approx(2 / 3),
  }
  odds = np.array([2.0, -1.0, -3.0])
  expected = np.mean(1 / (1 + np.exp(-odds)))
  assert found['confidence']['forget'] == pytest.approx(expected, abs=1e-6)
  # Scores 2, -1, -3 against -2, 1, 3: three of nine pairs are in order.
  assert found['membership']['auc'] == pytest.approx(3 / 9)
  assert found['class_accuracy'] == [0.5, 1.0]


def answers(count, right, margin=3.0):
  """Logits of two classes: `right` of `count` predictions are right."""
  label = np.zeros(count, int)
  sign = np.where(np.arange(count) < right, 1, -1)
  return np.stack([sign * margin, np.zeros(count)], 1).astype('f4'), label


def unlearned(forget, test, before=None):
  """Results of an unlearning that ends with these answers."""
  sets = {'forget': forget, 'retain': None, 'test': test}
  old = {**sets, 'forget': before or forget}
  return {
    'pictures': {'forget': len(forget[1]), 'retain': None, 'test': None},
    'class_names': ['a', 'b'],
    'method': 'amun',
    'facts': {},
    'notes': [],
    'measured': {
      'before': job.measure_sets(old, 2),
      'after': job.measure_sets(sets, 2),
    },
  }


@pytest.mark.parametrize(
  ('forget', 'test', 'verdict', 'said'),
  [
    # The confidence says nothing that the accuracy does not give away.
    (answers(800, 752), answers(800, 690), 'leaks', 'still be told from'),
    (answers(400, 90), answers(700, 640), 'reversed', 'treated worse'),
    (answers(40, 36), answers(60, 53), 'cannot conclude', 'too few pictures'),
  ],
)
def test_accuracy_that_differs_is_in_the_verdict(forget, test, verdict, said):
  results = unlearned(forget, test)
  assert page.overall_verdict(results) == verdict
  headline = page.headline(results)
  assert said in headline and headline.count('→') == 0
  assert f'{np.mean(forget[0].argmax(1) == 0):.1%}' in headline
  sentences = ' '.join(page.outcome(results))
  assert 'by right predictions' in sentences
  if verdict == 'leaks':
    assert 'no leak' not in sentences


def test_few_right_answers_give_no_interval_without_chance():
  # All of few are right: resamples know no error, though chance has some.
  results = unlearned(answers(40, 40), answers(355, 336))
  sentence = page.outcome(results)[-1]
  assert '100.0% on the forgotten pictures, 94.6% on test' in sentence
  assert 'Cannot conclude' in sentence and 'interval 0.5' not in sentence


def by_margin(**counts):
  """Logits of two classes with these margins of the right one."""
  margins = {
    'sure': 5.0,
    'even': 1.0,
    'unsure': 0.5,
    'wrong': -1.0,
    'off': -3.0,
  }
  margin = np.repeat([margins[name] for name in counts], list(counts.values()))
  label = np.zeros(margin.size, int)
  return np.stack([margin, np.zeros(margin.size)], 1).astype('f4'), label


def test_a_confidence_at_chance_does_not_hide_the_accuracy():
  """94 % of forgotten and 88 % of unseen pictures are right: a leak."""
  forget = by_margin(even=5640, off=360)
  test = by_margin(sure=1310, unsure=1154, wrong=336)
  results = unlearned(forget, test)
  membership = results['measured']['after']['membership']
  assert membership['verdict'] == 'no leak found'
  assert membership['correctness']['verdict'] == 'leaks'
  assert page.overall_verdict(results) == 'leaks'
  headline = page.headline(results)
  assert '94.0% (unseen ones 88.0%); they can still be told' in headline


@pytest.mark.parametrize(
  ('old', 'new', 'said'),
  [
    (answers(50, 45), answers(50, 20), 'accuracy on them 90.0% → 40.0%'),
    (answers(50, 45, 4.0), answers(50, 45, 1.0), 'stays 90.0%, confidence 0.8'),
    (answers(50, 45), answers(50, 45), 'nothing changed on them, accuracy 90'),
  ],
)
def test_the_headline_says_what_changed(old, new, said):
  results = unlearned(new, answers(90, 80), old)
  headline = page.headline(results)
  assert headline.startswith('50 pictures: ') and said in headline


def test_every_method_that_is_offered_is_there():
  offered = study_names.NAMES[study_names.COMMAND]
  assert offered.keys() == METHODS.keys()
  given = {'weights': 'w', 'model': 'fc', 'forget': 'f', 'out': 'o'}
  for name in METHODS:
    asked = UnlearnRequest(**given, method=name, retain='r')
    assert flags.check(requests.UNLEARN, asked) is asked
    if name not in requests.WITHOUT_RETAIN:
      with pytest.raises(errors.UserError, match='needs --retain'):
        flags.check(requests.UNLEARN, asked._replace(retain=None))


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'method': 'amum'}, "did you mean 'amun'"),
    ({'method': 'ssd'}, '--method=ssd needs --retain'),
    ({'epochs': 0}, '--epochs is 0'),
    ({'learning_rate': -1.0}, '--learning_rate is -1.0'),
    ({'forget': '/nowhere'}, '/nowhere'),
    ({'weights': '/nowhere.npz'}, '/nowhere.npz'),
    ({'model': 'fc:deep=3'}, 'deep'),
    ({'colour': 'red'}, '--colour'),
    ({'test': '/nowhere'}, '/nowhere'),
    ({'method': 'trw'}, 'forgets one class'),
  ],
)
def test_mistakes_are_one_line(case, tmp_path, capsys, changes, words):
  out = str(tmp_path / 'out')
  arguments = {'method': 'gradient_ascent', 'out': out, **changes}
  assert program.main(['unlearn', *argv(case, **arguments)]) == 2
  lines = capsys.readouterr().err.strip().splitlines()
  assert len(lines) == 1 and lines[0].startswith('error: ')
  assert words in lines[0]
  assert not (tmp_path / 'out' / 'results.json').exists()


def test_an_empty_folder_and_an_unknown_class_are_named(case, tmp_path, capsys):
  empty, odd = tmp_path / 'empty', tmp_path / 'odd' / 'ten'
  empty.mkdir()
  odd.mkdir(parents=True)
  some = next((case / 'forget').rglob('*.png'))
  (odd / 'a.png').write_bytes(some.read_bytes())
  for folder, words in ((empty, 'empty'), (tmp_path / 'odd', 'ten')):
    arguments = {'forget': folder, 'out': tmp_path / 'o', 'method': 'amun'}
    assert program.main(['unlearn', *argv(case, **arguments)]) == 2
    assert words in capsys.readouterr().err


def test_weights_with_a_nan_are_refused(case, tmp_path, capsys):
  stored = weights.read(str(case / 'w.npz'))
  name = next(iter(stored.arrays))
  broken = np.array(stored.arrays[name])
  broken.flat[0] = np.nan
  arrays = {**stored.arrays, name: broken}
  weights.write(tmp_path / 'w.npz', stored._replace(arrays=arrays))
  arguments = {
    'weights': tmp_path / 'w.npz',
    'mean': '0.5',
    'std': '0.5',
    'out': tmp_path / 'o',
  }
  assert program.main(['unlearn', *argv(case, **arguments)]) == 2
  assert 'NaN' in capsys.readouterr().err


def samples(count):
  image = jnp.zeros((count, 8, 8, 1), jnp.uint8)
  return descent.whole_batch(Batch(image, jnp.zeros(count, jnp.int32)))


def test_each_picture_counts_once():
  model = networks.make('fc', 10, (8, 8, 1), width=8)
  given = MethodInputs(samples(80), samples(20))
  asked = UnlearnRequest('w', 'fc', 'f', 'o', retain='r', method='random_label')
  method = job.make_method(asked, Network(model, unlearn_case.STEP), given)
  assert method.grid == ({'forget_weight': 0.25},)


@pytest.mark.slow
@pytest.mark.parametrize('name', METHODS)
def test_every_method_runs(case, tmp_path, name):
  forget = case / 'forget'
  if name == 'trw':
    forget = tmp_path / 'one'
    shutil.copytree(case / 'forget' / '3', forget / '3')
  found = call(
    **request(
      case,
      forget=str(forget),
      out=str(tmp_path / 'out'),
      method=name,
      retain=str(case / 'retain'),
      test=str(case / 'test'),
      epochs=1,
    )
  )
  assert found['measured']['after']['accuracy']['retain'] > 0.5
