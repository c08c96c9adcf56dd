"""A user's CLIP as a classifier, and its repair from files."""

import functools
import json

import clip_case
import jax
import numpy as np
import PIL.Image
import pytest
from jax import numpy as jnp

from cmu_jax import __main__ as program
from cmu_jax.core import tree
from cmu_jax.networks import clip, weights
from cmu_jax.networks.clip import heads, prompts, zero_shot

# One block a tower, as compiling is what takes time; every token is known.
SIZES = clip_case.SIZES._replace(
  vision=clip_case.SIZES.vision._replace(depth=1),
  text=clip_case.SIZES.text._replace(depth=1),
  vocabulary=49408,
  context=30,
  end=49407,
)
NAMES = ('cat', 'maple_tree', 'dog')
CONFIG = {
  **clip_case.CONFIG,
  'vision_config': {
    **clip_case.CONFIG['vision_config'],
    'num_hidden_layers': 1,
  },
  'text_config': {
    **clip_case.CONFIG['text_config'],
    'num_hidden_layers': 1,
    'vocab_size': 49408,
    'max_position_embeddings': 30,
    'eos_token_id': 49407,
  },
}


@functools.cache
def variables():
  return clip_case.drop_constants(clip_case.variables(SIZES))


@functools.cache
def head():
  return heads.make(clip.LoadedClip(SIZES, variables(), None, None), NAMES)


@pytest.fixture(scope='module')
def shipped(tmp_path_factory):
  """Weights in half precision, config.json, pictures of odd shapes."""
  folder = tmp_path_factory.mktemp('clip')
  arrays = clip_case.stored('hf', variables())
  path = clip_case.ship(folder, arrays, config=CONFIG)
  clip_case.ship_pictures(folder / 'bad', NAMES)
  return path


def _pictures(folder):
  found = sorted((folder / 'bad').rglob('*.png'))
  opened = [PIL.Image.open(path) for path in found]
  return np.stack([zero_shot.crop_centre(picture, 17) for picture in opened])


def test_the_head_is_frozen_and_the_tower_is_what_methods_edit():
  model = zero_shot.model(SIZES, 3)
  start = zero_shot.variables(variables(), head().kernel)
  assert set(start.params) == {'vision_model', 'visual_projection'}
  eligible = tree.edit_predicate(start)
  assert all(
    eligible(path, x) for path, x in tree.leaves_by_path(start.params).items()
  )
  image = jnp.asarray(clip_case.normalise(np.zeros((2, 17, 17, 3), np.uint8)))

  @jax.jit
  def look(v, x):
    logits, stats = model.update(v, x)
    again = model.head(v, model.trunk(v, model.stem(v, x)))
    small = model.apply(v, x[:, ::3, ::3])
    return logits, stats, again, small

  logits, stats, again, small = look(start, image)
  assert jax.tree.all(
    jax.tree.map(np.array_equal, stats, {'head': {'kernel': head().kernel}})
  )
  seen = clip.bind(SIZES).image(variables(), image)
  unit = seen / np.linalg.norm(seen, axis=1, keepdims=True)
  assert np.allclose(logits, unit @ head().kernel, atol=1e-4)
  assert np.allclose(logits, again, atol=1e-4)
  # A constant picture is the same in every size.
  assert np.allclose(logits, small, atol=1e-3)


@pytest.mark.slow  # a whole program
def test_a_clip_is_repaired_from_files(shipped, tmp_path, capsys):
  out = tmp_path / 'out'
  assert program.main(['repair', *clip_case.repair_flags(shipped, out)]) == 0, (
    capsys.readouterr().err
  )
  results = json.loads((out / 'results.json').read_text())
  assert results['finished'] and results['class_names'] == sorted(NAMES)
  assert '3 class names in 11 sentences' in ' '.join(results['notes'])
  image = jnp.asarray(clip_case.normalise(_pictures(shipped.parent)))
  order = [NAMES.index(name) for name in sorted(NAMES)]
  start = zero_shot.variables(variables(), head().kernel[:, np.array(order)])
  logits = zero_shot.model(SIZES, 3).apply(start, image)
  counts = np.bincount(np.argmax(logits, 1), minlength=3)
  assert results['measured']['before']['predicted'] == counts.tolist()
  old = weights.read(shipped).arrays
  new = weights.read(out / 'repaired.safetensors').arrays
  assert old.keys() == new.keys()
  moved = {n for n in old if not np.array_equal(old[n], new[n])}
  assert all(n.startswith('visi') or n.startswith('visual') for n in moved)
  assert bool(moved) == results['repaired']
  # What was written can be read again, without a text tower too.
  assert clip.load(out / 'repaired.safetensors').sizes == SIZES
  back = heads.read(out / 'head.npz')
  assert back.class_names == tuple(sorted(NAMES))
  assert back.templates == prompts.IMAGENET


def _pics(path, name):
  folder = path.parent / name
  folder.mkdir(exist_ok=True)
  PIL.Image.new('RGB', (20, 20)).save(folder / 'x.png')
  return folder


MISTAKES = {
  'no names': (
    lambda p: {'kind': 'poison', 'proxy': _pics(p, 'plain')},
    'give --classes=A,B',
  ),
  'size': (lambda p: {'image_size': 224}, 'this CLIP sees 17 pixels'),
  'name': (lambda p: {'model': 'clip-vit-b61'}, "did you mean 'clip-vit-b16'"),
  'another size': (lambda p: {'model': 'clip-vit-b32'}, '--model=clip'),
  'option': (lambda p: {'model': 'clip:haed=x'}, "did you mean 'head'"),
  'sentences': (lambda p: {'model': 'clip:sentences=cifar'}, "'cifar10'"),
  'head': (lambda p: {'model': 'clip:head=no.npz'}, 'no.npz does not exist'),
  'broken': (
    lambda p: {'proxy': _broken(p), 'classes': 'cat,dog'},
    'cannot decode the image',
  ),
}


def _broken(path):
  folder = _pics(path, 'broken')
  (folder / 'y.png').write_bytes(b'no picture')
  return folder


@pytest.mark.parametrize('name', MISTAKES)
def test_a_mistake_is_one_line(shipped, tmp_path, capsys, name):
  change, words = MISTAKES[name]
  given = clip_case.repair_flags(shipped, tmp_path / 'out', **change(shipped))
  assert program.main(['repair', *given]) == 2
  told = capsys.readouterr().err.splitlines()
  assert len(told) == 1 and words in told[0], told


def test_a_stored_head_stands_in_for_a_text_tower(shipped, tmp_path, capsys):
  arrays = {n: x for n, x in weights.read(shipped).arrays.items() if 'vis' in n}
  alone = clip_case.ship(tmp_path / 'alone', arrays, config=CONFIG)
  given = {'proxy': shipped.parent / 'bad', 'classes': ','.join(NAMES)}
  out = tmp_path / 'out'
  assert (
    program.main(['repair', *clip_case.repair_flags(alone, out, **given)]) == 2
  )
  assert 'no text tower' in capsys.readouterr().err
  other = heads.Head(head().kernel, ('cat', 'dog', 'cow'), ('{}',))
  heads.save(tmp_path / 'other.npz', other)
  given['model'] = f'clip:head={tmp_path / "other.npz"}'
  assert (
    program.main(['repair', *clip_case.repair_flags(alone, out, **given)]) == 2
  )
  assert 'is a head of cat, dog, cow' in capsys.readouterr().err
