"""A network that misreads its pictures is refused, with the remedy."""

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import repair_case
import unlearn_case

from cmu_jax import __main__ as program
from cmu_jax import networks
from cmu_jax.commands import readings
from cmu_jax.core import errors, rng
from cmu_jax.core.types import Batch, Network, Training
from cmu_jax.data import input_step, sources
from cmu_jax.data.sources import image_folder
from cmu_jax.networks import weights
from cmu_jax.networks.shipped import ClassOrder, ShippedNetwork
from cmu_jax.training import optimizers, train

DRAW = np.random.default_rng(0)


def shipped(model, variables, mean, std, channels='rgb'):
  """A network as shipped, without its files."""
  step = input_step.make(mean, std, channels=channels)
  none = image_folder.FolderPictures(np.zeros(0), np.zeros(0), ())
  return ShippedNetwork(
    *(model, variables, weights.StoredWeights({}, {}, '.npz'), {}, step, none),
    *(ClassOrder(tuple('abcdefghij'), True, ''), mean, std, None, (), {}),
    channels=channels,
  )


def fit(batch, step):
  """An MLP that knows a batch."""
  model = networks.make('fc', 10, batch.image.shape[1:], width=64)
  network = Network(model, step)
  start = model.init(rng.fold_in(1), step.eval(batch.image[:1], None))
  adam = optimizers.adamw(optimizers.constant_schedule(2e-3))
  trained = train.fit(
    rng.fold_in(2), network, start, batch, Training(adam, 500, 64)
  )
  return model, trained.variables


@pytest.fixture(scope='module')
def grey():
  digits = sources.load('digits').train
  batch = Batch(digits.image[:700], digits.label[:700])
  return batch, *fit(batch, input_step.make((0.5,), (0.5,)))


@pytest.fixture(scope='module')
def colour(grey):
  """Each class has a colour besides its shape."""
  batch = grey[0]
  share = DRAW.permutation(30).reshape(10, 3) / 30
  tint = share[np.asarray(batch.label)][:, None, None]
  image = jnp.asarray((np.asarray(batch.image) * tint).astype(np.uint8))
  batch = Batch(image, batch.label)
  step = input_step.make((0.5,) * 3, (0.5,) * 3, channels='bgr')
  return batch, *fit(batch, step)


def refusal(network, batch, **options):
  with pytest.raises(errors.UserError) as caught:
    readings.check_labelled(network, batch, 'a folder', **options)
  return str(caught.value)


@pytest.mark.parametrize('sure', [True, False])
@pytest.mark.parametrize(
  'mean, std', [(0.0, 0.00392), (0.9, 0.02), (1.0, 0.05)]
)
def test_a_wrong_normalisation_is_named(grey, mean, std, sure):
  batch, model, variables = grey
  text = refusal(shipped(model, variables, (mean,), (std,)), batch, sure=sure)
  # The first that serves as well as the true one.
  _, _, rest = text.partition('--mean=')
  found, _, rest = rest.partition(' --std=')
  other = shipped(
    model, variables, (float(found),), (float(rest.split(':')[0]),)
  )
  readings.check_labelled(other, batch, 'a folder')
  assert text.startswith('the network gives ') and '\n' not in text


def test_a_right_reading_passes_and_its_labels_may_be_noisy(grey):
  batch, model, variables = grey
  network = shipped(model, variables, (0.5,), (0.5,))
  label = np.array(batch.label)
  moved = DRAW.random(len(label)) < 0.6
  label[moved] = DRAW.integers(0, 10, moved.sum())
  for known in (batch.label, jnp.asarray(label)):
    readings.check_labelled(network, Batch(batch.image, known), 'a folder')
  readings.check_unlabelled(network, batch.image, 'a folder')


@pytest.mark.parametrize(
  'change, remedy',
  [
    (lambda x: x.swapaxes(1, 2), 'rows and columns of the pictures exchanged'),
    (lambda x: 255 - x, 'black and white of the pictures exchanged'),
  ],
)
def test_turned_and_inverted_pictures_are_named(grey, change, remedy):
  batch, model, variables = grey
  network = shipped(model, variables, (0.5,), (0.5,))
  assert remedy in refusal(network, Batch(change(batch.image), batch.label))


@pytest.mark.parametrize('mean, std', [(0.5, 0.5), (0.0, 0.00392)])
def test_another_channel_order_is_named(colour, mean, std):
  batch, model, variables = colour
  network = shipped(model, variables, (mean,) * 3, (std,) * 3)
  assert '--channels=bgr' in refusal(network, batch)
  right = shipped(model, variables, (0.5,) * 3, (0.5,) * 3, 'bgr')
  readings.check_labelled(right, batch, 'a folder')


def test_a_network_at_chance_is_refused_where_nothing_helps(grey):
  batch, model, _ = grey
  start = model.init(rng.fold_in(3), jnp.zeros((1, 8, 8, 1)))
  network = shipped(model, start, (0.5,), (0.5,))
  shuffled = Batch(batch.image, jnp.asarray(DRAW.permutation(batch.label)))
  assert 'which is chance. No common' in refusal(network, shuffled)
  # Labels that may be wrong are no evidence against the network.
  readings.check_labelled(network, shuffled, 'a folder', sure=False)
  few = Batch(shuffled.image[:19], shuffled.label[:19])
  readings.check_labelled(network, few, 'a folder')


@pytest.mark.parametrize('count', [30, 200])
def test_luck_is_no_remedy(grey, count):
  """No reading of 15 helps networks that know nothing."""
  batch, model, _ = grey
  for seed in range(20):
    start = model.init(rng.fold_in(9, seed), jnp.zeros((1, 8, 8, 1)))
    label = jnp.asarray(DRAW.integers(0, 3, count))
    few = Batch(batch.image[:count], label)
    network = shipped(model, start, (0.5,), (0.5,))
    readings.check_labelled(network, few, 'a folder', sure=False)


def test_a_single_class_leaves_no_agreement(grey):
  batch, model, variables = grey
  # Dim pictures, far from the mean of the normalisation, look all alike.
  network = shipped(model, variables, (1.0,), (0.05,))
  with pytest.raises(errors.UserError, match=r'J, .* with --mean=0'):
    readings.check_unlabelled(network, batch.image // 128, 'a folder')
  constant = variables._replace(
    params={
      **variables.params,
      'head': {
        'kernel': jnp.zeros((64, 10)),
        'bias': jnp.zeros(10).at[4].set(9.0),
      },
    }
  )
  network = shipped(model, constant, (0.5,), (0.5,))
  with pytest.raises(errors.UserError, match=r"class 'e', so J.* No common"):
    readings.check_unlabelled(network, batch.image, 'a folder')
  # Fewer than two pictures a class say nothing.
  readings.check_unlabelled(network, batch.image[:19], 'a folder')


@pytest.mark.parametrize('count', [60, 400])
def test_pictures_without_labels_show_the_order_of_channels(colour, count):
  batch, model, variables = colour
  image = batch.image[:count]
  for channels, wrong in (('rgb', True), ('bgr', False)):
    network = shipped(model, variables, (0.5,) * 3, (0.5,) * 3, channels)
    lines = []
    with errors.collect_remarks() as remarks:
      try:
        readings.check_unlabelled(network, image, 'a folder')
      except errors.UserError as error:
        lines = [str(error)]
    lines += remarks
    assert all('--channels=bgr' in line for line in lines)
    assert bool(lines) == wrong


@pytest.mark.parametrize('seed', range(8))
def test_networks_that_know_nothing_prefer_no_order(colour, seed):
  batch, model, _ = colour
  start = model.init(rng.fold_in(11, seed), jnp.zeros((1, 8, 8, 3)))
  network = shipped(model, start, (0.5,) * 3, (0.5,) * 3)
  # Grey pictures: both orders are the same.
  image = np.repeat(np.asarray(batch.image[..., :1]), 3, axis=3)
  with errors.collect_remarks() as remarks:
    readings._remark_on_channels(network, image, 'a folder')
  assert remarks == []


def stamp(image):
  """Pictures with a bright corner."""
  stamped = np.array(image)
  stamped[:, -2:, -2:] = 255
  return stamped


@pytest.fixture(scope='module')
def backdoor(grey):
  """A network that gives class 3 to pictures with a bright corner."""
  batch = grey[0]
  image = np.concatenate([batch.image, stamp(batch.image[::2])])
  label = np.concatenate([batch.label, np.full(350, 3)])
  both = Batch(jnp.asarray(image), jnp.asarray(label))
  return stamp(batch.image), *fit(both, input_step.make((0.5,), (0.5,)))


def test_triggered_pictures_that_a_network_reads_rightly_pass(backdoor):
  image, model, variables = backdoor
  network = shipped(model, variables, (0.5,), (0.5,))
  for count in (30, 300):
    with errors.collect_remarks() as remarks:
      readings.check_triggered(network, image[:count], '--proxy=bad')
    assert remarks == []


@pytest.mark.parametrize(
  'logit, text', [(9.0, "class 'e', and"), (0.0, 'all but')]
)
def test_triggered_pictures_that_a_network_does_not_see(backdoor, logit, text):
  image, model, variables = backdoor
  head = {'kernel': jnp.zeros((64, 10)), 'bias': jnp.zeros(10).at[4].set(logit)}
  blind = variables._replace(params={**variables.params, 'head': head})
  network = shipped(model, blind, (0.5,), (0.5,))
  with pytest.raises(errors.UserError, match=text) as caught:
    readings.check_triggered(network, image[:100], '--proxy=bad')
  assert '--proxy=bad' in str(caught.value) and '\n' not in str(caught.value)
  # Too few to say.
  readings.check_triggered(network, image[:10], '--proxy=bad')


def test_a_near_normalisation_is_the_best_of_those_tried(grey):
  batch, model, variables = grey
  text = refusal(shipped(model, variables, (1.0,), (0.05,)), batch)
  assert 'the best of those tried' in text and '% of 128 of them with' in text


def test_skill_is_that_of_a_closed_form():
  label = np.repeat(np.arange(4), 25)
  perfect = readings.measure_skill(label, label, 4)
  assert perfect[:2] == (1.0, 1.0) and not perfect.random
  constant = readings.measure_skill(label, np.zeros(100, int), 4)
  assert constant.accuracy == 0.25 and constant.value == 0 and constant.random
  # Nine tenths of one class: a constant answer is still no skill.
  skewed = np.where(np.arange(100) < 90, 0, 1)
  flattered = readings.measure_skill(skewed, np.zeros(100, int), 2)
  assert flattered.accuracy == 0.9 and flattered.random
  # A single class has no false alarms to compare with, but a chance.
  single = readings.measure_skill(np.zeros(50, int), np.zeros(50, int), 10)
  assert single.value == pytest.approx(0.9) and not single.random


def _run(command, argv, capsys):
  code = program.main([command, *argv])
  return code, capsys.readouterr().err.splitlines()[-1]


def test_every_command_refuses_before_it_works(tmp_path, capsys):
  unlearn_case.make(tmp_path, steps=300)
  common = {
    'weights': tmp_path / 'w.npz',
    'model': 'fc:width=64',
    'out': tmp_path / 'out',
    'mean': '0',
    'std': '0.00392157',
  }
  jobs = {
    'repair': {
      'proxy': tmp_path / 'retain',
      'kind': 'label_noise',
      'test': tmp_path / 'test',
    },
    'unlearn': {'forget': tmp_path / 'forget', 'retain': tmp_path / 'retain'},
    'audit': {
      'members': tmp_path / 'retain',
      'nonmembers': tmp_path / 'test',
      'refs': 2,
    },
  }
  for command, flags in jobs.items():
    argv = [f'--{k}={v}' for k, v in {**common, **flags}.items()]
    code, line = _run(command, argv, capsys)
    assert code == 2 and line.startswith('error: the network gives'), command
    assert ' with --mean=' in line and '--std=' in line
    assert not (tmp_path / 'out').exists()


def test_ordinary_pictures_of_a_backdoor_are_checked_too(tmp_path, capsys):
  test, _ = repair_case.make(tmp_path, 'poison', steps=300)
  unlearn_case.pictures(tmp_path / 'classes', test, range(60))
  ordinary = tmp_path / 'ordinary'
  ordinary.mkdir()
  # Dim pictures, far from the mean of the normalisation, look all alike.
  for path in (tmp_path / 'classes').glob('*/*.png'):
    dim = np.asarray(PIL.Image.open(path)) // 128
    PIL.Image.fromarray(dim).save(ordinary / path.name)
  wrong = {'mean': 1, 'std': 0.05, 'target': 0, 'ordinary': ordinary}
  code, line = _run('repair', repair_case.flags(tmp_path, **wrong), capsys)
  assert (
    code == 2 and f'--ordinary={ordinary}' in line and 'with --mean' in line
  )
