"""Mean and standard deviation of pixels: of another scale, or swapped."""

import copying_network
import numpy as np
import pytest

from cmu_jax import __main__ as program
from cmu_jax import main
from cmu_jax.core import errors
from cmu_jax.data import input_step, normalisation
from cmu_jax.data.sources.image_folder import FolderPictures
from cmu_jax.networks.shipped import user_data

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
POSSIBLE = {
  'imagenet': IMAGENET,
  'mnist': ((0.1307,), (0.3081,)),
  'halves': ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
  'none': ((0.0,), (1.0,)),
  'pixels to 255': ((0.0,), (1 / 255,)),
  'mean alone': ((0.4, 0.4, 0.3), (1.0, 1.0, 1.0)),
}


@pytest.mark.parametrize('name', POSSIBLE)
def test_usual_statistics_pass(name):
  normalisation.check_range(*POSSIBLE[name])
  input_step.make(*POSSIBLE[name])


# Statistics -> those that the message proposes.
OF_255 = {
  ((127.5,), (127.5,)): '--mean=0.5 --std=0.5',
  ((103.53, 116.28, 123.675), (57.4, 57.1, 58.4)): '--mean=0.406,0.456,0.485',
  ((103.53,), (1.0,)): '--mean=0.406 --std=0.003922',
  ((0.0,), (255.0,)): '--mean=0 --std=1',
  ((0.45,), (58.65,)): '--mean=0.45 --std=0.23',
  ((33.15,), (0.31,)): '--mean=0.13 --std=0.31',
}


@pytest.mark.parametrize('given', OF_255)
def test_statistics_of_pixels_to_255_are_refused_with_the_remedy(given):
  with pytest.raises(errors.UserError) as caught:
    normalisation.check_range(*given, ('--mean', '--std'))
  assert OF_255[given] in str(caught.value)
  with pytest.raises(errors.UserError, match='0 to 255'):
    input_step.make(*given)


def test_a_negative_mean_is_refused():
  with pytest.raises(errors.UserError, match='not negative'):
    normalisation.check_range((-0.5,), (0.5,))


def pictures(mean, std, count=40, seed=0):
  """uint8 [count, 6, 6, c] of nearly these statistics."""
  m, s = np.array(mean), np.array(std)
  # Of all distributions on 0 to 1 with a mean, two-valued ones spread most.
  draw = np.random.default_rng(seed).random((count, 6, 6, m.size))
  spread = s / np.sqrt(m * (1 - m))
  bright = draw < m
  return np.round(255 * (m + spread * (bright - m))).astype(np.uint8)


@pytest.mark.parametrize('name', ['imagenet', 'mnist', 'halves'])
def test_right_statistics_say_nothing(name):
  with errors.collect_remarks() as remarks:
    normalisation.check_exchange(*POSSIBLE[name], pictures(*IMAGENET))
    normalisation.check_exchange(*POSSIBLE[name], pictures(*POSSIBLE[name]))
  assert remarks == []


def test_exchanged_statistics_that_no_picture_has_are_refused():
  image = pictures((0.44, 0.41, 0.43), (0.2, 0.26, 0.22))
  with pytest.raises(errors.UserError, match='exchange them'):
    normalisation.check_exchange(IMAGENET[1], IMAGENET[0], image)


def test_exchanged_statistics_that_pictures_may_have_are_a_warning():
  image = pictures((0.1307,), (0.3081,))
  with errors.collect_remarks() as remarks:
    normalisation.check_exchange((0.3081,), (0.1307,), image)
  assert len(remarks) == 1 and remarks[0].startswith('Warning: perhaps')


def test_dark_pictures_are_no_exchange():
  # Night pictures with the statistics of day.
  with errors.collect_remarks() as remarks:
    normalisation.check_exchange(*IMAGENET, pictures((0.2,) * 3, (0.2,) * 3))
  assert remarks == []


COMMANDS = {
  'unlearn': {'forget': 'a', 'method': 'gradient_ascent', 'epochs': 1},
  'repair': {'proxy': 'a', 'kind': 'label_noise'},
  'audit': {'members': 'a', 'nonmembers': 'b', 'refs': 2},
}


@pytest.mark.parametrize('command', COMMANDS)
@pytest.mark.parametrize('source', ['flag', 'side file'])
def test_every_command_refuses_them(command, source, tmp_path, capsys):
  bad = {'mean': [38.25], 'std': [76.5]}
  copying_network.ship(tmp_path, [0, 1], bad if source == 'side file' else {})
  for name in 'ab':
    copying_network.pictures(tmp_path / name, {'0': 0, '1': 1}, 2, ord(name))
  values = {
    name: tmp_path / v if v in ('a', 'b') else v
    for name, v in COMMANDS[command].items()
  }
  if source == 'flag':
    values |= {'mean': 38.25, 'std': 76.5}
  flags = copying_network.flags(tmp_path, **values)
  assert program.main([command, *flags]) == 2
  told = capsys.readouterr().err
  assert '--mean=0.15 --std=0.3' in told and told.count('\n') == 1


def test_a_study_refuses_them(tmp_path, capsys):
  flags = ['--config=configs/cuts_digits.py:smoke', f'--workdir={tmp_path}']
  scale = ['--config.input.mean=76.5', '--config.input.std=89.25']
  assert main.main([*flags, *scale]) == 2
  told = capsys.readouterr().err
  assert '--config.input.mean=0.3 --config.input.std=0.35' in told


@pytest.mark.parametrize('sizes', [(2, 2), (4, 1), (3, 2)])
def test_other_numbers_of_channels_are_refused(sizes, tmp_path, capsys):
  copying_network.ship(tmp_path, [0, 1])
  copying_network.pictures(tmp_path / 'a', {'0': 0, '1': 1}, 2, 0)
  mean, std = (','.join(['.3'] * size) for size in sizes)
  values = {'forget': tmp_path / 'a', 'mean': mean, 'std': std}
  flags = copying_network.flags(tmp_path, **values)
  assert program.main(['unlearn', *flags]) == 2
  text = 'mean has {} numbers and std {}; give one for'.format(*sizes)
  assert text in capsys.readouterr().err


def test_one_value_for_all_channels_is_said():
  facts = {'mean': [0.4], 'std': [0.2]}
  for channels, lines in ((1, 0), (3, 1)):
    image = np.zeros((2, 4, 4, channels), np.uint8)
    folder = FolderPictures(image, np.zeros(2, int), ('a',))
    with errors.collect_remarks() as remarks:
      assert user_data.check_normalisation(facts, folder) == ((0.4,), (0.2,))
    assert len(remarks) == lines
