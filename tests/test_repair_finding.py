"""The sentences of a repair on diagnosis, evidence and reasons."""

import json
import pathlib
import statistics

import pytest

from cmu_jax.commands.repair import advice, page, words

NAMES = ['cat', 'dog', 'owl']


def found(family='symmetric', **changes):
  return {
    'family': family,
    'best': family,
    'confidence': 0.97,
    'samples': 60,
    'labels_look_right': False,
    'agreement': 0.1,
    'chance': None,
    'learnt': None,
    'error_rate': 0.2,
    'error_interval': [0.1, 0.3],
    'cells': [[0, 1, 30], [2, 0, 10]],
    **changes,
  }


def test_true_labels_are_not_called_wrong():
  """Accuracy on true labels is good, wherever it is written."""
  measured = {
    'bad_label_rate': None,
    'true_label_rate': 0.25,
    'test_accuracy': None,
    'class_accuracy': None,
    'predicted': [30, 20, 10],
    'lipschitz': None,
  }
  after = {**measured, 'true_label_rate': 0.75}
  repaired = results(None, measured={'before': measured, 'after': after})
  texts = [
    *words.outcome(repaired),
    *words.corruption_sentences(repaired),
    words.console(repaired),
    page._table(repaired),
  ]
  assert 'by their true labels: 25.0% → 75.0%' in texts[1]
  for text in texts:
    assert 'bad samples' not in text and 'their wrong label' not in text


@pytest.mark.parametrize(
  ('floor', 'said'),
  [
    ({'rate': 0.125, 'source': 'test'}, '12%: so many of the test pictures'),
    ({'rate': 0.04, 'source': 'ordinary'}, '4%: so many of the ordinary'),
    ({'rate': 0.1, 'source': 'classes'}, '10%: if all classes are equally'),
  ],
)
def test_pictures_of_the_target_class_are_said(floor, said):
  poison = results(None, 'poison')
  (plain,) = words._bad_samples_sentences(poison)
  assert 'truly' not in plain
  (sentence,) = words._bad_samples_sentences({**poison, 'target_floor': floor})
  assert said in sentence and sentence.count('→') == 1


def results(diagnosis, kind='label_noise', **changes):
  measured = {
    'bad_label_rate': 0.4,
    'test_accuracy': None,
    'class_accuracy': None,
    'lipschitz': None,
  }
  return {
    'kind': kind,
    'method': 'cuts',
    'repaired': True,
    'alpha': 0.5,
    'samples': 60,
    'safe': None,
    'fine_tuning': {'steps': 200, 'learnt': 0.5},
    'class_names': NAMES,
    'notes': [],
    'measured': {'before': measured, 'after': measured},
    'diagnosis': diagnosis,
    'settings': {'out': 'out'},
    'weights': 'repaired.npz',
    **changes,
  }


@pytest.mark.parametrize(
  'diagnosis, said',
  [
    (found(), 'clearly spread evenly'),
    (found(confidence=0.85), 'probably spread evenly'),
    (found(), 'errs on 20% of such pictures (90 % interval 10% to 30%)'),
    (found('transition', confidence=0.6), 'perhaps different from class'),
    (found('interclass', pair=[0, 2]), "'cat' and 'owl'; 97% of random halves"),
    (found('one_target', target=1), "all the same class, 'dog'"),
    (
      found('asymmetric', class_map=[[0, 1], [2, 0]]),
      'cat → dog, owl → cat; 97%',
    ),
    (found('interclass', pair=[0, 1], chance=0.02, learnt=True), '2.0%: so it'),
    (found('interclass', pair=[0, 1], chance=0.1, learnt=False), 'no sign'),
    (
      found('unclear', best='symmetric', confidence=0.4),
      'stays unclear: at best spread evenly',
    ),
    (found('unclear', best='symmetric', confidence=0.9), 'too few to tell'),
    (
      found('unclear', best='transition', labels_look_right=True),
      'the supposedly wrong label for most samples',
    ),
  ],
)
def test_the_finding_is_told_on_the_page_and_on_the_console(diagnosis, said):
  told = results(diagnosis)
  assert said in ' '.join(words.corruption_sentences(told))
  assert said in words.console(told)
  assert 'Warning' not in words.console(told) or diagnosis['best'] in (
    'one_target',
    'transition',
  )


def test_two_classes_tell_nothing_of_the_kind():
  told = {**results(found()), 'class_names': NAMES[:2]}
  assert 'look alike' in words.diagnosis_sentences(told)[0]


def test_a_map_of_many_classes_is_cut_short():
  pairs = [[i, (i + 1) % 9] for i in range(9)]
  names = [f'class{i}' for i in range(9)]
  cells = [[a, b, 9 - a] for a, b in pairs]
  one = results(found('asymmetric', class_map=pairs, cells=cells))
  text = ' '.join(words.diagnosis_sentences({**one, 'class_names': names}))
  assert 'class5 → class6 and 3 more;' in text and 'class6 → ' not in text


@pytest.mark.parametrize(
  'told, warned',
  [
    (results(found('one_target', target=0)), 'use --kind=poison'),
    (results(found('one_target', target=0, learnt=True), 'poison'), None),
    (results(found('one_target', target=0, learnt=False), 'poison'), 'chance'),
    (
      results(found('unclear', labels_look_right=True, agreement=0.9)),
      'gives 90% of the samples the class of their folder',
    ),
    (
      results(None, fine_tuning={'steps': 90, 'learnt': 1.0}),
      '90 steps of fine-tuning memorized 100% of the wrong labels',
    ),
    (results(found()), None),
    (results(None), None),
  ],
)
def test_a_contradiction_is_a_warning_where_the_outcome_is(told, warned):
  warnings = [x for x in words.outcome(told) if x.startswith('Warning')]
  assert len(warnings) == (warned is not None)
  assert warned is None or warned in warnings[0]


@pytest.mark.parametrize(
  'changes, why',
  [
    (
      {'safe': {'selected': True}},
      'held-out samples confirm that the edit helps',
    ),
    ({}, 'the published rule chose alpha'),
    ({'kind': 'poison', 'method': 'projected'}, '98 % of those predictions'),
    (
      {'kind': 'poison', 'method': 'projected', 'repaired': False},
      'No alpha stopped the located trigger',
    ),
    ({'kind': 'poison', 'repaired': False}, 'No alpha freed the bad samples'),
    (
      {'kind': 'poison', 'repaired': False, 'rule': 'safe'},
      'published rule often deletes the target class',
    ),
    (
      {'repaired': False, 'safe': {'reason': '9 proxy images, 40 needed'}},
      'Nothing could be measured (9 proxy images, 40 needed)',
    ),
    (
      {'repaired': False, 'safe': {'alpha_hat': 0.5}},
      'do not confirm clearly enough that the edit helps, so the weights are '
      'unchanged',
    ),
  ],
)
def test_the_outcome_tells_which_rule_decided(changes, why):
  assert why in words.outcome(results(None, **changes))[0]


def test_steepness_is_told_where_it_was_asked_for():
  told = results(found())
  assert words.lipschitz_sentences(told) == []
  bound = {'value': 12.345, 'upper': None, 'why': 'all norms exact'}
  told['measured'] = {
    'before': {'lipschitz': bound},
    'after': {'lipschitz': {**bound, 'value': 2.5}},
  }
  first, second = words.lipschitz_sentences(told)
  assert '12.35' in first and '2.5' in first and 'all norms exact' in second
  none = {'value': None, 'upper': None, 'why': 'no finite bound: exp'}
  told['measured'] = {
    'before': {'lipschitz': none},
    'after': {'lipschitz': none},
  }
  assert words.lipschitz_sentences(told) == [
    'For this network there is no finite bound: exp.'
  ]


@pytest.mark.parametrize(
  'name, column, kind, methods',
  [
    ('clean', 'test_accuracy', 'label_noise', 'finetune_clean_proxy'),
    ('published', 'test_accuracy', 'label_noise', 'repair_published'),
    ('ordinary', 'attack_success_rate', 'poison', 'repair_ordinary'),
    ('clean_poison', 'attack_success_rate', 'poison', 'finetune_clean_proxy'),
  ],
)
def test_figures_of_the_advice_are_those_of_the_results(
  name, column, kind, methods
):
  figure = advice.FIGURES[name]
  path = pathlib.Path(__file__).parents[1] / figure.source
  rows = json.loads(path.read_text())['rows']
  means = [
    statistics.mean(
      row[column]
      for row in rows
      if row['kind'] == kind and row['method'] == method
    )
    for method in ('corrupted', methods)
  ]
  assert figure[:2] == tuple(round(mean, 3) for mean in means)


def test_figures_of_more_bad_samples_are_those_of_the_results():
  path = pathlib.Path(__file__).parents[1] / advice.SAMPLES_SOURCE
  cells = json.loads(path.read_text())['by_cell']
  accuracies = {0: [cell['before'] for cell in cells.values()]}
  for name, cell in cells.items():
    rule, count, _ = name.split(',')
    # Fewer samples than two a class are refused.
    if rule == 'safe' and cell['refused'] is None:
      accuracies.setdefault(int(count), []).append(cell['after'])
  means = {n: round(statistics.mean(x), 3) for n, x in accuracies.items()}
  assert means == advice.SAMPLES
  assert all(len(x) >= 3 for x in accuracies.values())


@pytest.mark.parametrize(
  ('count', 'gain'), [(30, 0.101), (70, 0.089), (499, 0.101), (500, 0.0)]
)
def test_more_bad_samples_gain_what_more_gained_elsewhere(count, gain):
  expected, text = advice._sample_option(count)
  assert expected == pytest.approx(gain)
  assert ('not measured' in text) == (count >= 500)


def test_an_abstention_says_what_would_help_in_order():
  left = {'repaired': False, 'safe': {'alpha_hat': 0.4}}
  plain = advice.sentences(results(None, **left))
  assert [text.split()[0] for text in plain] == [
    'Clean',
    'More',
    '--rule=published',
  ]
  assert 'not your network' in plain[0]
  estimate = {'labels': 99, 'before': 0.72, 'after': 0.73, 'source': '--test'}
  own = advice.sentences(results(None, clean_estimate=estimate, **left))
  # A point is less than the published rule gained elsewhere.
  assert own[1].startswith('--rule=published') and own[2] in words.console(
    results(None, clean_estimate=estimate, **left)
  )
  assert (
    '99 pictures of --test brings this network from 0.720 to 0.730' in own[2]
  )
  worse = {**estimate, 'after': 0.6}
  text = ' '.join(advice.sentences(results(None, clean_estimate=worse, **left)))
  assert 'would not help' in text
  assert advice.sentences(results(None)) == []


def test_advice_against_a_trigger_names_ordinary_pictures_once():
  left = {'repaired': False, 'kind': 'poison'}
  first, second = advice.sentences(results(None, **left))
  assert '--ordinary=FOLDER' in first and second.startswith('Clean labels help')
  projected = advice.sentences(results(None, method='projected', **left))
  assert projected == [second]
