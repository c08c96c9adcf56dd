"""The order of classes: one rule, said first, and refuted by pictures."""

import copying_network
import numpy as np
import pytest

from cmu_jax import __main__ as program
from cmu_jax.core import errors, files
from cmu_jax.networks.shipped import class_order


def numbers(count, start=0):
  return tuple(map(str, range(start, start + count)))


# Titles of an order -> names as assumed, and names as the network has them.
ORDERS = {
  'in numeric order': (sorted(numbers(15)), numbers(15)),
  'sorted as text': (numbers(13), tuple(sorted(numbers(13)))),
  'in numeric order ': (
    sorted(f'sign{i}' for i in range(12)),
    tuple(f'sign{i}' for i in range(12)),
  ),
  'sorted without regard to case': (
    sorted(['Zebra', 'ant', 'Bee', 'cow', 'dog']),
    ('ant', 'Bee', 'cow', 'dog', 'Zebra'),
  ),
  'sorted backwards': (tuple('abcdefg'), tuple('gfedcba')),
  'one output later': (tuple('abcdefg'), tuple('gabcdef')),
  'one output earlier': (tuple('abcdefg'), tuple('bcdefga')),
}


def answers(names, true, count, right=1.0, seed=0):
  """Labels by `names` and outputs of a network whose order is `true`."""
  draw = np.random.default_rng(seed)
  label = np.repeat(np.arange(len(names)), count)
  position = np.array([list(true).index(name) for name in names])
  predicted = position[label]
  wrong = draw.random(label.size) >= right
  predicted[wrong] = draw.integers(0, len(names), wrong.sum())
  return label, predicted


@pytest.mark.parametrize('title', ORDERS)
def test_a_usual_order_is_found_and_named(title):
  names, true = ORDERS[title]
  label, predicted = answers(names, true, 10, right=0.9)
  better = class_order.find_better(tuple(names), label, predicted)
  assert better.title == title.strip() and better.names == tuple(true)
  assert better.accuracy > 0.8 > 0.6 > better.assumed


def test_folders_that_count_from_one_are_found_in_a_part_of_them():
  names = tuple(sorted(numbers(12)))
  folders = [2, 3, 5, 7, 11]
  label = np.repeat([names.index(str(i)) for i in folders], 6)
  predicted = np.repeat([i - 1 for i in folders], 6)
  better = class_order.find_better(names, label, predicted)
  assert better.title == 'numbered from 1, in numeric order'
  assert better.names == numbers(12, 1) and better.accuracy == 1


@pytest.mark.parametrize('start', [0, 1])
@pytest.mark.parametrize('form', ['{}', 'sign{:02}'])
def test_the_remedy_counts_on_and_does_not_turn_round(start, form):
  assumed, true = (
    tuple(map(form.format, range(first, first + 9)))
    for first in (start, 1 - start)
  )
  folders = sorted({*assumed} & {*true})
  label = np.repeat([assumed.index(name) for name in folders], 5)
  predicted = np.repeat([true.index(name) for name in folders], 5)
  better = class_order.find_better(assumed, label, predicted)
  assert better.names == true and better.accuracy == 1


@pytest.mark.parametrize('classes, count', [(5, 10), (40, 4)])
def test_any_permutation_is_found(classes, count):
  names = tuple(f'c{i:02}' for i in range(classes))
  true = tuple(np.random.default_rng(3).permutation(names).tolist())
  label, predicted = answers(names, true, count, right=0.9)
  better = class_order.find_better(names, label, predicted)
  assert better.names == true and better.title == 'in an order of its own'


def test_noise_alone_is_no_order():
  names = tuple(sorted(numbers(12)))
  for seed in range(200):
    # At chance, with 2 to 11 pictures a class.
    label, predicted = answers(names, names, 2 + seed % 10, 0.0, seed)
    assert class_order.find_better(names, label, predicted) is None


@pytest.mark.parametrize(
  'corruption', ['symmetric', 'a pair', 'a third of classes', 'one target']
)
def test_a_corruption_is_no_order(corruption):
  names = tuple(f'c{i}' for i in range(9))
  label, predicted = answers(names, names, 30, right=0.4)
  if corruption == 'a pair':
    predicted = np.where(label < 2, 1 - label, label)
  elif corruption == 'a third of classes':
    predicted = np.where(label < 3, (label + 1) % 3, label)
  elif corruption == 'one target':
    predicted = np.zeros_like(label)
  assert class_order.find_better(names, label, predicted) is None


def test_few_pictures_claim_nothing():
  names = tuple(sorted(numbers(12)))
  label, predicted = answers(names, numbers(12), 1)
  assert class_order.find_better(names, label[2:10], predicted[2:10]) is None


@pytest.mark.parametrize(
  'skill, stops', [(0.9, True), (0.35, False)], ids=['sure', 'misread']
)
def test_an_order_with_few_hits_leaves_room_for_misread_pictures(skill, stops):
  names = tuple(f'{i:02}' for i in range(10))
  label, predicted = answers(names, (*names[-1:], *names[:-1]), 30, skill)
  order = class_order.ClassOrder(names, True, 'sorted as text')
  with errors.collect_remarks() as remarks:
    try:
      class_order.check_order(order, label, predicted, '300 pictures')
    except errors.UserError as error:
      assert stops and 'give --classes=09,00,01' in str(error)
    else:
      assert not stops and 'Is --classes=09,00,01' in remarks[0]


def case(folder, true, count=3):
  """A network whose outputs are in the order `true`, and three sets."""
  classes = {name: i for i, name in enumerate(sorted(true))}
  copying_network.ship(folder, [classes[name] for name in true])
  for seed, root in enumerate(('some', 'others', 'unseen')):
    copying_network.pictures(folder / root, classes, count, seed)


COMMANDS = {
  'unlearn': lambda d: {
    **{'forget': d / 'some', 'test': d / 'unseen', 'epochs': 1},
    **{'method': 'gradient_ascent', 'learning_rate': 1e-9},
  },
  'audit': lambda d: {
    **{'members': d / 'some', 'nonmembers': d / 'unseen', 'epochs': 1},
    **{'refs': 2, 'replicates': 20},
  },
  'repair': lambda d: {
    **{'proxy': d / 'some', 'kind': 'label_noise', 'test': d / 'unseen'},
    'steps': 1,
  },
}


@pytest.mark.parametrize('command', COMMANDS)
def test_a_contradicted_order_stops_before_the_work(command, tmp_path, capsys):
  true = numbers(14)
  case(tmp_path, true)
  flags = copying_network.flags(tmp_path, **COMMANDS[command](tmp_path))
  assert program.main([command, *flags]) == 2
  told = capsys.readouterr()
  assert told.out.startswith('Class order: 0, 1, 10, 11, 12, 13, 2')
  assert f'give --classes={",".join(true)}' in told.err
  assert 'in numeric order on 100.0%' in told.err
  assert told.err.count('\n') == 1 and not (tmp_path / 'out').exists()


def test_the_remedy_works_and_a_wrong_remedy_is_a_warning(tmp_path, capsys):
  true = numbers(11)
  case(tmp_path, true, count=4)
  values = COMMANDS['unlearn'](tmp_path)
  flags = copying_network.flags(tmp_path, **values, classes=','.join(true))
  assert program.main(['unlearn', *flags]) == 0
  results = files.read_json(tmp_path / 'out' / 'results.json')
  assert results['measured']['before']['accuracy']['test'] == 1
  assert results['remarks'] == [
    'Class order: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 (as given).'
  ]
  capsys.readouterr()
  # Half of it is right: a corruption may look like this.
  other = ','.join((*true[:5], *true[6:], true[5]))
  again = {'classes': other, 'out': tmp_path / 'again'}
  flags = copying_network.flags(tmp_path, **values, **again)
  assert program.main(['unlearn', *flags]) == 0
  out = capsys.readouterr().out
  page = (tmp_path / 'again' / 'report.html').read_text('utf-8')
  for text in (out, page):
    assert 'Warning: by the given order of the classes' in text


def test_one_folder_to_forget_takes_the_classes_of_the_others(tmp_path):
  names = {'ant': 0, 'bee': 1, 'cat': 2}
  copying_network.ship(tmp_path, [0, 1, 2])
  copying_network.pictures(tmp_path / 'some', {'bee': 1}, 6, 0)
  copying_network.pictures(tmp_path / 'others', names, 6, 1)
  values = COMMANDS['unlearn'](tmp_path) | {
    **{'retain': tmp_path / 'others', 'test': None, 'method': 'finetune'},
  }
  flags = copying_network.flags(tmp_path, **values)
  assert program.main(['unlearn', *flags]) == 0
  results = files.read_json(tmp_path / 'out' / 'results.json')
  assert results['class_names'] == list(names)
  assert "folders' names of --retain" in results['remarks'][0]
  assert results['measured']['before']['accuracy']['forget'] == 1


@pytest.mark.parametrize('command', COMMANDS)
def test_a_contradicted_flag_is_repeated_where_the_work_stops(
  command, tmp_path, capsys
):
  true = tuple('abcdefghijkl')
  case(tmp_path, true, count=4)
  given = ','.join((*true[1:], true[0]))
  values = COMMANDS[command](tmp_path) | {'classes': given}
  if command == 'unlearn':
    values |= {'retain': tmp_path / 'others', 'method': 'finetune'}
  flags = copying_network.flags(tmp_path, **values)
  assert program.main([command, *flags]) == 2
  told = capsys.readouterr()
  assert 'Warning: by the given order' in told.out
  assert 'which is chance, but 100.0% with the classes' in told.err
  assert f'--classes={",".join(true)}: give this' in told.err
  flags = copying_network.flags(
    tmp_path, **(values | {'classes': ','.join(true)})
  )
  assert command == 'audit' or program.main([command, *flags]) == 0


def test_an_archive_counts_its_labels_from_0(tmp_path):
  count, true = 12, numbers(12)
  case(tmp_path, true)
  label = np.repeat(np.arange(count), 3)
  image = [
    copying_network.picture(sorted(true).index(str(c)), 5000 + i)
    for i, c in enumerate(label)
  ]
  np.savez(tmp_path / 'a.npz', images=np.stack(image), labels=label)
  # The folder beside it has the same classes by name.
  flags = copying_network.flags(
    tmp_path,
    **{**COMMANDS['unlearn'](tmp_path), 'forget': tmp_path / 'a.npz'},
  )
  assert program.main(['unlearn', *flags]) == 0
  results = files.read_json(tmp_path / 'out' / 'results.json')
  assert results['measured']['before']['accuracy']['forget'] == 1
  assert results['measured']['before']['accuracy']['test'] == 1
