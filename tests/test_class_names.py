"""The names of classes: those of folders, of archives, and of a user."""

import copying_network
import numpy as np
import pytest

from cmu_jax.commands import requests
from cmu_jax.commands.audit import reference_networks
from cmu_jax.core import errors
from cmu_jax.data.sources import npz
from cmu_jax.networks.shipped import class_order
from cmu_jax.networks.shipped.class_order import ShownClasses


def numbers(count, start=0):
  return tuple(map(str, range(start, start + count)))


def shown(*sets):
  """Sets of pictures with these folders, --a, --b, ..."""
  flags = (f'--{letter}' for letter in 'abc')
  return [ShownClasses(f, names) for f, names in zip(flags, sets, strict=False)]


@pytest.mark.parametrize('folders', [('7',), ('',), ('0', '10', '22')])
def test_numbers_are_sorted_as_text(folders):
  order = class_order.resolve(None, 23, shown(folders))
  assert order.names == tuple(sorted(numbers(23))) and order.assumed
  assert order.names[:4] == ('0', '1', '10', '11')
  text = class_order.describe(order)
  assert (
    text.startswith('Class order: 0, 1, 10, 11, 12') and '23 classes' in text
  )
  assert 'sorted as text' in text and '--classes=' in text


def test_a_user_an_archive_and_folders_name_the_classes():
  order = class_order.resolve(['b', 3], 2, shown(('x',)))
  assert order == (('b', '3'), False, 'as given', '')
  archive = class_order.resolve(None, 12, [ShownClasses('--a', (), True)])
  assert archive.names == numbers(12) and not archive.assumed
  words = class_order.resolve(None, 2, [ShownClasses('', ('z', 'a'), True)])
  assert words.names == ('z', 'a')
  animals = ('cat', 'dog')
  assert class_order.resolve(None, 2, shown(animals)).names == animals
  with pytest.raises(errors.UserError, match=r'--a 2 class folders .*=A,B'):
    class_order.resolve(None, 4, shown(animals))
  with pytest.raises(errors.UserError, match='folder of one split'):
    class_order.resolve(None, 2, shown(('test', 'train')))


# Numbers of classes -> folders, and the flags that both numberings need.
FROM_ONE = {
  7: (numbers(6, 1), 'Warning', '0,1,2,3,4,5,6', '1,2,3,4,5,6,7'),
  11: (('4',), 'Warning', '0,1,10,2,', '1,10,11,2,'),
  12: (
    *(('s02', 's07', 's09'), 'the network has 12 outputs'),
    *('s00,s01,s02,', 's01,s02,s03,'),
  ),
  5: (
    *(('c1', 'c3'), 'the network has 5 outputs'),
    *('c0,c1,c2,c3,c4', 'c1,c2,c3,c4,c5'),
  ),
}


@pytest.mark.parametrize('classes', FROM_ONE)
def test_numbers_without_the_first_and_last_say_both_numberings(classes):
  folders, opening, zero, one = FROM_ONE[classes]
  with errors.collect_remarks() as remarks:
    try:
      class_order.announce(class_order.resolve(None, classes, shown(folders)))
      text = remarks[1]
    except errors.UserError as error:
      text = str(error)
  assert text.startswith(opening)
  assert f'--classes={zero}' in text and f'--classes={one}' in text
  # Either flag is accepted as it stands.
  for flag in text.split('--classes=')[1:]:
    names = flag.split()[0].rstrip('.').split(',')
    assert len(names) == classes and {*folders} <= {*names}
    assert class_order.resolve(names, classes, []).names == tuple(names)


@pytest.mark.parametrize(
  'folders, start', [(('0', '2'), 0), (('8',), 1), (('k1', 'k8'), 1)]
)
def test_a_number_that_only_one_numbering_has_leaves_no_doubt(folders, start):
  order = class_order.resolve(None, 8, shown(folders))
  assert order.doubt == '' and f'numbers from {start}' in order.source
  assert {*folders} <= {*order.names} and len(order.names) == 8


def test_a_complete_set_names_the_classes_of_the_others():
  animals = ('ant', 'bee', 'cat')
  order = class_order.resolve(None, 3, shown(('bee',), animals))
  assert order.names == animals and order.assumed
  assert "the folders' names of --b, sorted as text" in order.source
  # Pictures to forget of a whole class are not among those to keep.
  order = class_order.resolve(None, 3, shown(('bee',), ('cat', 'ant')))
  assert order.names == animals and '--a and --b together' in order.source
  # Numbers from 1 are settled by a complete set.
  order = class_order.resolve(None, 11, shown(('4',), numbers(11, 1)))
  assert order.names == tuple(sorted(numbers(11, 1))) and order.doubt == ''
  archive = ShownClasses('--b', ('cat', 'ant', 'bee'), True)
  order = class_order.resolve(None, 3, [ShownClasses('--a', ('',)), archive])
  assert order.names == archive.names and '--b' in order.source


def archive(path, labels, names=None):
  """An archive of pictures whose lit pixels are these labels."""
  image = [copying_network.picture(c, 7000 + i) for i, c in enumerate(labels)]
  arrays = {'images': np.stack(image), 'labels': np.array(labels)}
  if names:
    arrays['class_names'] = np.array(names)
  np.savez(path, **arrays)
  return str(path)


def audit_labels(folder, **changes):
  """Labels of the pool of an audit of three classes."""
  request = requests.AuditRequest(
    weights=str(folder / 'w.npz'),
    model=copying_network.MODEL,
    out=str(folder / 'out'),
    nonmembers=str(
      copying_network.pictures(
        folder / 'unseen', {'cat': 0, 'dog': 1, 'eel': 2}, 2
      )
    ),
    refs=2,
    **changes,
  )
  case = reference_networks.read_case(request)
  return case.network.class_names, case.pool.label.tolist()


def test_an_archive_and_class_names_go_together(tmp_path):
  copying_network.ship(tmp_path, [0, 1, 2])
  labels, classes = [2, 2, 0, 1], ('cat', 'dog', 'eel')
  members = archive(tmp_path / 'a.npz', labels)
  expected = classes, [*labels, 0, 0, 1, 1, 2, 2]
  assert audit_labels(tmp_path, members=members, classes=classes) == expected
  # The same names in the archive, or in the side file.
  members = archive(tmp_path / 'b.npz', labels, classes)
  assert audit_labels(tmp_path, members=members) == expected
  copying_network.ship(tmp_path, [0, 1, 2], {'classes': classes})
  members = archive(tmp_path / 'a.npz', labels)
  assert audit_labels(tmp_path, members=members) == expected


def test_names_of_an_archive_may_stand_in_another_order(tmp_path):
  copying_network.ship(tmp_path, [0, 1, 2])
  # Label 0 of the archive is the dog, the second output of the network.
  members = archive(tmp_path / 'a.npz', [2, 0], ('dog', 'cat', 'eel'))
  classes = ('cat', 'dog', 'eel')
  _, labels = audit_labels(tmp_path, members=members, classes=classes)
  assert labels[:2] == [2, 1]


def test_a_label_without_an_output_is_refused(tmp_path):
  copying_network.ship(tmp_path, [0, 1, 2])
  members = archive(tmp_path / 'a.npz', [1, 3])
  with pytest.raises(errors.UserError, match=r'label 3, .*outputs 0 to 2'):
    audit_labels(tmp_path, members=members, classes=('cat', 'dog', 'eel'))


def test_a_test_split_in_an_archive_is_said_to_be_left_out(tmp_path):
  path = archive(tmp_path / 'a.npz', [0, 1])
  arrays = dict(np.load(path))
  np.savez(path, test_images=arrays['images'], test_labels=[0, 1], **arrays)
  with errors.collect_remarks() as remarks:
    npz.read_pictures(tmp_path / 'a.npz')
  assert remarks == [f'Left out of {path}: test_images and test_labels.']
