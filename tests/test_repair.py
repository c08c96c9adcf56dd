"""Repair from weights and a folder of bad samples, as a user runs it."""

import json
import shutil

import jax
import numpy as np
import PIL.Image
import pytest
import repair_case
from jax import numpy as jnp

from cmu_jax import metrics, models, weights
from cmu_jax.repair import Request, repair
from cmu_jax.repair import __main__ as program

MODEL = models.make('fc', 10, (8, 8, 1), width=64)
MODEL_256 = models.make('fc', 10, (8, 8, 1), width=256)


@pytest.fixture(scope='module')
def poisoned(tmp_path_factory):
  folder = tmp_path_factory.mktemp('poisoned')
  return folder, repair_case.make(folder, 'poison')


def flags(folder, **changes):
  values = {
    'weights': folder / 'w.npz',
    'model': 'fc:width=64',
    'proxy': folder / 'bad',
    'kind': 'poison',
    'out': folder / 'out',
    'steps': 200,
    'learning_rate': 3e-4,
    **changes,
  }
  return [f'--{k}={v}' for k, v in values.items() if v is not None]


def variables(path, model=MODEL):
  template = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1))
  )
  return weights.fit(weights.read(path).arrays, template, None, 'w')[0]


def rate(found, batch, target=0):
  seen = metrics.predict(MODEL, repair_case.STEP, found, batch)
  return metrics.attack_success(np.asarray(batch.label), seen, target)


def test_the_trigger_stops_working_and_everything_is_written(poisoned, capsys):
  folder, (test, trigger) = poisoned
  assert program.main(flags(folder)) == 0
  told = capsys.readouterr().out
  assert 'sent to the target class' in told and 'report.html' in told
  results = json.loads((folder / 'out/results.json').read_text())
  assert results['finished'] and results['repaired'] and results['alpha'] > 0
  assert results['settings']['target'] == 0  # inferred from the predictions
  assert results['diagnosis']['learnt'] and 'it has learnt' in told
  before, after = (
    variables(folder / 'w.npz'),
    variables(folder / 'out/repaired.npz'),
  )
  stamped = repair_case.triggered(test, trigger)
  assert rate(before, stamped) > 0.9 > 0.1 > rate(after, stamped)
  assert (folder / 'out/repaired.npz.json').is_file()
  page = (folder / 'out/report.html').read_text()
  assert 'Edited with alpha' in page and 'src="http' not in page
  assert (folder / 'out/figures/alpha_curve.png').stat().st_size > 5000


def test_the_same_call_again_gives_the_same_weights(poisoned):
  folder, _ = poisoned
  assert program.main(flags(folder)) == 0
  before = (folder / 'out/repaired.npz').read_bytes()
  (folder / 'out/repaired.npz').unlink()
  assert program.main(flags(folder)) == 0
  assert (folder / 'out/repaired.npz').read_bytes() == before


def test_where_no_alpha_helps_the_weights_stay_as_they_were(poisoned, tmp_path):
  folder, _ = poisoned
  results = repair(
    weights=str(folder / 'w.npz'),
    model='fc:width=64',
    proxy=str(folder / 'bad'),
    kind='poison',
    out=str(tmp_path / 'out'),
    steps=1,
    learning_rate=1e-7,
  )
  assert results['alpha'] == 0 and not results['repaired']
  old = weights.read(folder / 'w.npz').arrays
  new = weights.read(tmp_path / 'out/repaired.npz').arrays
  assert all(np.array_equal(old[name], new[name]) for name in old)
  assert 'Left as it was' in (tmp_path / 'out/report.html').read_text()


def _pictures(folder, named, mode='L', size=(8, 8)):
  for name, count in named.items():
    (folder / name).mkdir(parents=True, exist_ok=True)
    for i in range(count):
      PIL.Image.new(mode, size, i * 9).save(folder / name / f'{i}.png')
  return folder


def test_label_noise_with_class_names_a_test_folder_and_one_colour_image(
  poisoned, tmp_path
):
  folder, _ = poisoned
  names = [f'class{i}' for i in range(10)]
  bad = _pictures(tmp_path / 'bad', {n: 3 for n in names})
  PIL.Image.new('L', (8, 8), 77).convert('P').save(bad / 'class3' / 'p.png')
  test = _pictures(tmp_path / 'test', {'class1': 2, 'class9': 2})
  shutil.copy(folder / 'w.npz', tmp_path)
  results = repair(
    weights=str(tmp_path / 'w.npz'),
    model='fc:width=64',
    proxy=str(bad),
    kind='label_noise',
    out=str(tmp_path / 'out'),
    mean=(0.5,),
    std=(0.5,),
    image_size=8,
    test=str(test),
    steps=5,
    lipschitz=True,
  )
  assert results['samples'] == 31
  assert results['class_names'] == names
  measured = results['measured']['after']
  assert 0 <= measured['test_accuracy'] <= 1
  unknown = [v is None for v in measured['class_accuracy']]
  assert unknown == [i not in (1, 9) for i in range(10)]
  # Two dense layers: the product of their norms, of pixels over std.
  stored = weights.read(tmp_path / 'out/repaired.npz').arrays
  first, second = (np.linalg.norm(x, 2) for x in stored.values() if x.ndim == 2)
  bound = pytest.approx(first * second / 0.5, rel=1e-4)
  assert measured['lipschitz']['value'] == bound
  assert 'How steep' in (tmp_path / 'out/report.html').read_text()


def _broken(folder, tmp_path):
  bad = _pictures(tmp_path / 'bad', {'': 3})
  (bad / 'x.png').write_bytes(b'not a picture')
  return {'proxy': bad}


def _two_sizes(folder, tmp_path):
  bad = _pictures(tmp_path / 'bad', {'': 3})
  PIL.Image.new('L', (9, 9)).save(bad / 'x.png')
  return {'proxy': bad}


def _no_side_file(folder, tmp_path):
  shutil.copy(folder / 'w.npz', tmp_path / 'alone.npz')
  return {'weights': tmp_path / 'alone.npz'}


def _wrong_class(folder, tmp_path):
  names = {f'class{i}': 2 for i in range(9)} | {'clas9': 2}
  classes = ','.join(f'class{i}' for i in range(10))
  bad = _pictures(tmp_path / 'bad', names)
  return {'proxy': bad, 'kind': 'label_noise', 'classes': classes}


def _few(folder, tmp_path):
  bad = _pictures(tmp_path / 'bad', {'3': 5})
  return {'proxy': bad, 'kind': 'label_noise'}


def _other_out(folder, tmp_path):
  shutil.copytree(folder / 'out', tmp_path / 'out')
  return {'out': tmp_path / 'out', 'steps': 7}


MISTAKES = {
  'unknown flag': (lambda f, t: {'prox': 'x'}, "did you mean '--proxy'"),
  'no weights': (lambda f, t: {'weights': t / 'no.npz'}, 'do not exist'),
  'missing flag': (lambda f, t: {'proxy': None}, '--proxy missing'),
  'kind': (lambda f, t: {'kind': 'poisson'}, "did you mean 'poison'"),
  'model': (lambda f, t: {'model': 'resnet200'}, 'resnet20'),
  'other model': (lambda f, t: {'model': 'fc:width=32'}, 'the network has'),
  'option': (lambda f, t: {'model': 'fc:widht=64'}, "'width'"),
  'no folder': (lambda f, t: {'proxy': t / 'no'}, 'does not exist'),
  'empty folder': (lambda f, t: {'proxy': t}, 'has no .jpg'),
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
  'few': (_few, 'too few'),
  'unwritable': (lambda f, t: {'out': '/proc/no'}, '--out'),
  'another request': (_other_out, 'another --out'),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(
  poisoned, tmp_path, capsys, name
):
  folder, _ = poisoned
  change, words = MISTAKES[name]
  out = {'out': tmp_path / 'out'}
  assert program.main(flags(folder, **{**out, **change(folder, tmp_path)})) == 2
  told = [
    line
    for line in capsys.readouterr().err.splitlines()
    if not line.startswith('proxy fine-tuning')
  ]
  assert words in told[0] and told[0].startswith('error: ')
  assert len(told) <= 4  # one a mistake: three layers differ in width
  if name not in ('other model',):
    assert len(told) == 1


def test_help_and_what_it_names(capsys):
  assert program.main(['--help']) == 0
  told = capsys.readouterr().out
  assert all(f'--{field}' in told for field in Request._fields)


@pytest.mark.slow
@pytest.mark.parametrize('rule', ('safe', 'published'))
def test_wrong_labels_are_repaired_or_the_reason_is_told(tmp_path, rule):
  noisy = 'label_noise'
  test, _ = repair_case.make(tmp_path, noisy, seed=1, width=256, steps=2500)
  results = repair(
    weights=str(tmp_path / 'w.npz'),
    model='fc:width=256',
    proxy=str(tmp_path / 'bad'),
    kind=noisy,
    out=str(tmp_path / 'out'),
    learning_rate=1e-3,
    rule=rule,
  )
  accuracy = [
    np.mean(
      metrics.predict(
        MODEL_256, repair_case.STEP, variables(path, MODEL_256), test
      )
      == np.asarray(test.label)
    )
    for path in (tmp_path / 'w.npz', tmp_path / 'out/repaired.npz')
  ]
  assert (results['safe'] is None) == (rule == 'published')
  assert results['diagnosis']['family'] == 'symmetric'
  assert results['diagnosis']['confidence'] > 0.8
  assert results['repaired'] == (results['alpha'] > 0)
  # This seed is a clear case; others are close enough to be left alone.
  assert accuracy[1] > accuracy[0] + 0.05
  page = (tmp_path / 'out/report.html').read_text()
  assert ('did not see' in page) == (rule == 'safe')
  assert 'spread evenly over the classes' in page


def _ordinary(folder, test):
  for i, pixels in enumerate(np.asarray(test.image)[:200]):
    (folder / 'ordinary').mkdir(exist_ok=True)
    PIL.Image.fromarray(pixels[..., 0]).save(folder / 'ordinary' / f'{i}.png')
  return folder / 'ordinary'


def test_with_ordinary_pictures_the_trigger_goes_and_the_class_stays(
  poisoned, tmp_path
):
  folder, (test, trigger) = poisoned
  seen = test._replace(image=test.image[200:], label=test.label[200:])
  results = repair(
    weights=str(folder / 'w.npz'),
    model='fc:width=64',
    proxy=str(folder / 'bad'),
    kind='poison',
    out=str(tmp_path / 'out'),
    ordinary=str(_ordinary(tmp_path, test)),
    steps=300,
    learning_rate=3e-4,
  )
  assert results['method'] == 'projected' and results['repaired']
  assert 'trigger was located: 2 pixels' in ' '.join(results['notes'])
  before, after = (
    variables(path)
    for path in (folder / 'w.npz', tmp_path / 'out/repaired.npz')
  )
  stamped = repair_case.triggered(seen, trigger)
  assert rate(before, stamped) > 0.9 > 0.1 > rate(after, stamped)
  kept = np.asarray(seen.label) == 0
  hit = metrics.predict(MODEL, repair_case.STEP, after, seen) == 0
  assert hit[kept].mean() > 0.9
