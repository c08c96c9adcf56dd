"""Repair from weights and a folder of bad samples, as a user runs it."""

import json
import shutil

import jax
import numpy as np
import PIL.Image
import pytest
import repair_case
from jax import numpy as jnp

from cmu_jax import __main__ as program
from cmu_jax import networks
from cmu_jax.commands.repair import RepairRequest, repair, words
from cmu_jax.core.types import Network
from cmu_jax.networks import weights
from cmu_jax.training import metrics

MODEL = networks.make('fc', 10, (8, 8, 1), width=64)
MODEL_256 = networks.make('fc', 10, (8, 8, 1), width=256)


@pytest.fixture(scope='module')
def poisoned(tmp_path_factory):
  folder = tmp_path_factory.mktemp('poisoned')
  return folder, repair_case.make(folder, 'poison')


def variables(path, model=MODEL):
  template = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1))
  )
  return weights.fit(weights.read(path).arrays, template, None, 'w')[0]


def rate(found, batch, target=0):
  seen = metrics.predict(Network(MODEL, repair_case.STEP), found, batch)
  return metrics.attack_success(np.asarray(batch.label), seen, target)


def test_the_trigger_stops_working_and_everything_is_written(poisoned, capsys):
  folder, (test, trigger) = poisoned
  assert program.main(['repair', *repair_case.flags(folder)]) == 0
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
  assert program.main(['repair', *repair_case.flags(folder)]) == 0
  before = (folder / 'out/repaired.npz').read_bytes()
  (folder / 'out/repaired.npz').unlink()
  assert program.main(['repair', *repair_case.flags(folder)]) == 0
  assert (folder / 'out/repaired.npz').read_bytes() == before


def test_triggered_pictures_alone_are_no_reason_to_edit(poisoned, tmp_path):
  folder, _ = poisoned
  results = repair(
    weights=str(folder / 'w.npz'),
    model='fc:width=64',
    proxy=str(folder / 'bad'),
    kind='poison',
    out=str(tmp_path / 'out'),
    steps=20,
    learning_rate=3e-4,
  )
  told = words.console(results)
  assert '--ordinary=FOLDER' in told and '--rule=published' in told
  assert results['alpha'] == 0 and not results['repaired']
  assert any('reads its pictures' in line for line in results['remarks'])
  old = weights.read(folder / 'w.npz').arrays
  new = weights.read(tmp_path / 'out/repaired.npz').arrays
  assert all(np.array_equal(old[name], new[name]) for name in old)
  assert 'Left unedited' in (tmp_path / 'out/report.html').read_text()


@pytest.mark.slow
def test_a_network_that_the_trigger_does_not_move_stays_as_it_is(
  poisoned, tmp_path
):
  folder, (test, _) = poisoned
  clean = _ordinary(tmp_path, test)
  other = {'target': '7', 'steps': 20, 'proxy': str(clean)}
  wrong = [p for p in clean.iterdir() if int(test.label[int(p.stem)]) == 7]
  for path in wrong:
    path.unlink()
  given = {'weights': str(folder / 'w.npz'), 'model': 'fc:width=64', **other}
  told = [
    repair(kind='poison', out=str(tmp_path / rule), rule=rule, **given)
    for rule in ('safe', 'published')
  ]
  assert [one['repaired'] for one in told] == [False, True]
  page = (tmp_path / 'safe/report.html').read_text()
  assert 'unedited network does not send the samples' in page


def test_label_noise_with_class_names_a_test_folder_and_one_colour_image(
  poisoned, tmp_path
):
  folder, (digits, _) = poisoned
  names = [f'class{i}' for i in range(10)]
  bad = repair_case.pictures(tmp_path / 'bad', {n: 0 for n in names})
  for i, pixels in enumerate(np.asarray(digits.image)[:30, :, :, 0]):
    PIL.Image.fromarray(pixels).save(bad / f'class{i % 10}' / f'{i}.png')
  PIL.Image.new('L', (8, 8), 77).convert('P').save(bad / 'class3' / 'p.png')
  test = repair_case.pictures(
    tmp_path / 'test', {'class1': 2, 'class9': 2}, darkest=4
  )
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
  assert results['fine_tuning']['steps'] == 5
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


def test_a_folder_of_another_request_is_left_alone(poisoned, tmp_path, capsys):
  folder, _ = poisoned
  shutil.copytree(folder / 'out', tmp_path / 'out')
  assert (
    program.main(
      ['repair', *repair_case.flags(folder, out=tmp_path / 'out', steps=7)]
    )
    == 2
  )
  assert 'another --out' in capsys.readouterr().err


def test_help_and_what_it_names(capsys):
  assert program.main(['repair', '--help']) == 0
  told = capsys.readouterr().out
  assert all(f'--{field}' in told for field in RepairRequest._fields)


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
        Network(MODEL_256, repair_case.STEP), variables(path, MODEL_256), test
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
  tuned = results['fine_tuning']
  assert tuned['steps'] < 200 and 0.5 <= tuned['learnt'] < 0.8
  page = (tmp_path / 'out/report.html').read_text()
  assert ('held-out samples' in page) == (rule == 'safe')
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
  hit = metrics.predict(Network(MODEL, repair_case.STEP), after, seen) == 0
  assert hit[kept].mean() > 0.9
