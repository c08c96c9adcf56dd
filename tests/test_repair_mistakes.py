"""Mistakes of a user of `cmu_jax repair`: one line each, exit code 2."""

import shutil

import jax
import PIL.Image
import pytest
import repair_case
from jax import numpy as jnp

from cmu_jax import __main__ as program
from cmu_jax import networks


@pytest.fixture(scope='module')
def shipped(tmp_path_factory):
  """An untrained network and some pictures."""
  folder = tmp_path_factory.mktemp('shipped')
  model = networks.make('fc', 10, (8, 8, 1), width=64)
  repair_case.ship(
    folder, model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
  )
  repair_case.pictures(folder / 'bad', {'': 3})
  return folder


def _broken(folder, tmp_path):
  bad = repair_case.pictures(tmp_path / 'bad', {'': 3})
  (bad / 'x.png').write_bytes(b'not a picture')
  return {'proxy': bad}


def _two_sizes(folder, tmp_path):
  bad = repair_case.pictures(tmp_path / 'bad', {'': 3})
  PIL.Image.new('L', (9, 9)).save(bad / 'x.png')
  return {'proxy': bad}


def _no_side_file(folder, tmp_path):
  shutil.copy(folder / 'w.npz', tmp_path / 'alone.npz')
  return {'weights': tmp_path / 'alone.npz'}


def _wrong_class(folder, tmp_path):
  names = {f'class{i}': 2 for i in range(9)} | {'clas9': 2}
  classes = ','.join(f'class{i}' for i in range(10))
  bad = repair_case.pictures(tmp_path / 'bad', names)
  return {'proxy': bad, 'kind': 'label_noise', 'classes': classes}


def _loose(folder, tmp_path):
  bad = repair_case.pictures(tmp_path / 'bad', {'': 3, '3': 2})
  return {'proxy': bad, 'kind': 'label_noise'}


def _few(folder, tmp_path):
  bad = repair_case.pictures(tmp_path / 'bad', {'3': 5})
  return {'proxy': bad, 'kind': 'label_noise'}


def _side(text):
  """A side file with this in it."""

  def change(folder, tmp_path):
    shutil.copy(folder / 'w.npz', tmp_path / 'w.npz')
    (tmp_path / 'w.npz.json').write_text(text)
    return {'weights': tmp_path / 'w.npz'}

  return change


MISTAKES = {
  'unknown flag': (lambda f, t: {'prox': 'x'}, "did you mean '--proxy'"),
  'no weights': (lambda f, t: {'weights': t / 'no.npz'}, 'do not exist'),
  'missing flag': (lambda f, t: {'proxy': None}, '--proxy missing'),
  'kind': (lambda f, t: {'kind': 'poisson'}, "did you mean 'poison'"),
  'model': (lambda f, t: {'model': 'resnet200'}, 'resnet20'),
  'other model': (lambda f, t: {'model': 'fc:width=32'}, 'use --model=fc'),
  'option': (lambda f, t: {'model': 'fc:widht=64'}, "'width'"),
  'no folder': (lambda f, t: {'proxy': t / 'no'}, 'does not exist'),
  'empty folder': (lambda f, t: {'proxy': t}, 'has no picture'),
  'broken picture': (_broken, 'x.png'),
  'sizes': (_two_sizes, 'image_size'),
  'no normalisation': (_no_side_file, '--mean'),
  'mean alone': (lambda f, t: {'mean': '0.5'}, 'give both'),
  'mean text': (lambda f, t: {'mean': 'a', 'std': '1'}, '--mean'),
  'steps': (lambda f, t: {'steps': 0}, '--steps is 0'),
  'target': (lambda f, t: {'target': 'frog'}, "--target 'frog'"),
  'classes': (lambda f, t: {'classes': 'a,b'}, '10 outputs'),
  'wrong class name': (_wrong_class, "did you mean 'class9'"),
  'no class folders': (
    lambda f, t: {'kind': 'label_noise'},
    'has no class folders',
  ),
  'loose pictures': (_loose, 'holds 3 pictures beside class folders'),
  'few': (_few, 'too few'),
  'side mean': (_side('{"mean": "x", "std": [1]}'), "'mean' in the side file"),
  'side size': (_side('{"image_size": "8"}'), 'whole number of pixels'),
  'side classes': (_side('{"class_names": "abc"}'), 'a list of names'),
  'side field': (_side('{"meen": 1}'), "did you mean 'mean'"),
  'unwritable': (lambda f, t: {'out': '/proc/no'}, '--out'),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(shipped, tmp_path, capsys, name):
  folder = shipped
  change, words = MISTAKES[name]
  out = {'out': tmp_path / 'out', 'target': 0}
  flags = {**out, **change(folder, tmp_path)}
  assert program.main(['repair', *repair_case.flags(folder, **flags)]) == 2
  told = [
    line
    for line in capsys.readouterr().err.splitlines()
    if not line.startswith('proxy fine-tuning')
  ]
  assert words in told[0] and told[0].startswith('error: ')
  # One a mistake: the family, and three layers that differ in width.
  assert len(told) <= 5
  if name not in ('other model',):
    assert len(told) == 1
