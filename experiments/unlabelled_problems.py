"""Networks that learnt wrong labels, and pictures to repair them from.

A problem has a name, a kind of wrong labels, their rate and a seed. Its pool of
pictures is drawn apart, by a text such as '500 without three classes': a size
and a variation.

| name | network | training |
|---|---|---|
| digits | dense, 256 wide | 1,150 embedded digits, until known by heart |
| digits_binary | the same, two classes: 0 to 4, 5 to 9 | likewise |
| mnist_convnet | strided, BatchNorm | 8,000 MNIST images, known by heart |
| mnist_vit | a small ViT: LayerNorm | likewise |
| resnet20 | a shipped ResNet-20 | fine-tuned on 4,000 CIFAR-10 images |
"""

import argparse
import functools
from typing import Any, NamedTuple

import jax
import numpy as np
from clip_resnet20 import MEAN, MODEL, STD, load_shipped

from cmu_jax import networks
from cmu_jax.core import errors, jit, rng
from cmu_jax.core.types import Batch, Network, Training, Variables
from cmu_jax.data import corruption, input_step, sources, splits
from cmu_jax.data.corruption import class_maps, kind
from cmu_jax.training import metrics, optimizers, train

NAMES = ('digits', 'digits_binary', 'mnist_convnet', 'mnist_vit', 'resnet20')
# Variations of a pool; '' takes pictures as they come.
FEW_CLASSES = 'without three classes'
FOREIGN = 'with a tenth foreign'
UNEVEN = 'of uneven classes'
VARIATIONS = ('', FEW_CLASSES, FOREIGN, UNEVEN)


class Problem(NamedTuple):
  """A network with wrong labels in its training, and pictures apart from it.

  Attributes:
    network: its input step augments as its training did.
    variables: of the network.
    unseen: pictures that it never saw, with true labels, in random order.
    wrong: wrong labels of these pictures, of the kind in the training.
    test: of the accuracies.
    oracle: accuracy of a network without these labels.
    foreign: pictures of no class of the network; None without such pictures.
  """

  network: Network
  variables: Variables
  unseen: Batch
  wrong: np.ndarray
  test: Batch
  oracle: float
  foreign: np.ndarray | None


class Pool(NamedTuple):
  """Pictures of a repair.

  Attributes:
    image: raw, [n, h, w, c]; the last of them may be foreign.
    label: true labels of the pictures that are not foreign, [m].
    wrong: their wrong labels.
  """

  image: np.ndarray
  label: np.ndarray
  wrong: np.ndarray


def measure_accuracy(
  network: Network, variables: Variables, batch: Batch
) -> float:
  """Measures the accuracy on labelled pictures."""
  predicted = metrics.predict(network, variables, batch, 500)
  return float(np.mean(predicted == np.asarray(batch.label)))


@functools.lru_cache(maxsize=4)
def make_adam(rate: float) -> Any:
  """AdamW at a constant rate; the same object for the same rate."""
  return optimizers.adamw(optimizers.constant_schedule(rate))


# All pools of a network follow each other, so that it is trained once.
@functools.lru_cache(maxsize=1)
def make_problem(
  name: str, noise: str, rate: float, seed: int, paths: tuple[str, str, str]
) -> Problem:
  """Makes a problem of the module's table.

  Args:
    name: of `NAMES`.
    noise: 'symmetric', 'asymmetric' or 'human'.
    rate: share of wrong labels; 0 for a clean network. Human labels have their
      own.
    seed: of everything that is drawn.
    paths: --weights, --data_dir and --labels.
  """
  if name == 'resnet20':
    return _make_resnet20(noise, rate, seed, paths)
  if name.startswith('digits'):
    return _make_digits(name, noise, rate, seed)
  return _make_mnist(name, noise, rate, seed, paths[1])


def draw_pool(problem: Problem, text: str, seed: int) -> Pool:
  """Draws the pictures of a repair, such as '500 without three classes'."""
  size, _, variation = text.partition(' ')
  count = int(size)
  label, image = (
    np.asarray(x) for x in (problem.unseen.label, problem.unseen.image)
  )
  random = np.random.default_rng(seed)
  rows = np.arange(label.size)
  if variation == FEW_CLASSES:
    classes = label.max() + 1
    absent = random.choice(classes, min(3, classes - 1), replace=False)
    # The pictures that are left of as many: no other fills their places.
    rows = rows[:count][~np.isin(label[:count], absent)]
  elif variation == UNEVEN:
    # From 1 to 10 in geometric steps, as long-tailed sets are made.
    share = 10.0 ** np.linspace(0, -1, label.max() + 1)
    weight = random.permutation(share)[label]
    order = np.argsort(-np.log(random.random(label.size)) / weight)
    rows = order[:count]
  elif variation == FOREIGN:
    rows = rows[: count - count // 10]
  else:
    errors.check(not variation, f'no variation of a pool: {variation}')
    rows = rows[:count]
  pool = Pool(image[rows], label[rows], problem.wrong[rows])
  if variation != FOREIGN:
    return pool
  errors.check(problem.foreign is not None, 'this problem has none foreign')
  assert problem.foreign is not None
  strange = problem.foreign[: count // 10]
  return pool._replace(image=np.concatenate([pool.image, strange]))


def _draw_labels(
  key: jax.Array, noise: str, rate: float, label: Any, maps: str
) -> Any:
  """Draws wrong labels of a kind; `maps` names the asymmetric ones."""
  classes = int(np.max(label)) + 1
  if noise == 'symmetric':
    return corruption.symmetric(key, label, rate, classes)
  table = class_maps.CLASS_MAPS[maps]
  return corruption.asymmetric(key, label, rate, table)


def _draw_human_wrong(
  key: jax.Array, people: np.ndarray, truth: np.ndarray, label: np.ndarray
) -> np.ndarray:
  """Draws wrong labels as people confuse the classes.

  The pictures themselves have no label by people.
  """
  random = np.random.default_rng(int(jax.random.bits(key)))
  return np.array(
    [random.choice(people[(truth == c) & (people != truth)]) for c in label],
    np.int32,
  )


def _split_network(
  key: jax.Array, network: Network, part: Batch, training: Training
) -> Any:
  """A function from a batch to the variables trained on it from scratch."""
  start = jit.compile_cheaply(network.model.init)(
    rng.fold_in(key, 'init'), network.inputs.eval(part.image[:1], None)
  )
  session = train.Session('wrong labels')
  return lambda batch: (
    train.fit(
      rng.fold_in(key, 'train'), network, start, batch, training, session
    ).variables
  )


def _train_both(
  key: jax.Array, fit: Any, noise: str, rate: float, part: Batch, maps: str
) -> tuple[Variables, Variables]:
  """The network with wrong labels, and the oracle without these pictures."""
  wrong = _draw_labels(rng.fold_in(key, 'noise'), noise, rate, part.label, maps)
  clean = splits.take(part, np.flatnonzero(~np.asarray(wrong.mask)))
  variables = fit(corruption.apply(wrong, part))
  return variables, fit(clean) if rate else variables


def _make_digits(name: str, noise: str, rate: float, seed: int) -> Problem:
  """A dense network on the embedded digits, trained until it knows them."""
  key = rng.fold_in(seed, 'unlabelled')
  digits = sources.load('digits')
  classes, test, train_set = 10, digits.test, digits.train
  if name == 'digits_binary':
    classes = 2
    halve = lambda batch: batch._replace(label=batch.label // 5)
    test, train_set = halve(test), halve(train_set)
  pool, part = splits.hold_out(
    rng.fold_in(key, 'hold'), train_set, 0.36, classes
  )
  order = jax.random.permutation(rng.fold_in(key, 'order'), pool.label.size)
  pool = splits.take(pool, np.asarray(order))
  network = Network(
    networks.make('fc', classes, (8, 8, 1), width=256),
    input_step.make((0.3,), (0.35,)),
  )
  fit = _split_network(key, network, part, Training(make_adam(1e-3), 1500, 64))
  variables, oracle = _train_both(key, fit, noise, rate, part, 'mnist')
  wrong = _draw_labels(
    rng.fold_in(key, 'wrong'), noise, 1.0, pool.label, 'mnist'
  )
  random = np.random.default_rng(seed)
  foreign = random.permuted(
    np.asarray(digits.test.image).reshape(len(digits.test.image), -1), axis=1
  ).reshape(digits.test.image.shape)
  accuracy = measure_accuracy(network, oracle, test)
  label = np.asarray(wrong.label)
  return Problem(network, variables, pool, label, test, accuracy, foreign)


def _make_mnist(
  name: str, noise: str, rate: float, seed: int, data_dir: str
) -> Problem:
  """A conv net or ViT on 8,000 MNIST images, trained until it knows them."""
  key = rng.fold_in(seed, f'unlabelled {name}')
  mnist = sources.load('mnist', data_dir=data_dir)
  order = np.asarray(
    jax.random.permutation(rng.fold_in(key, 'order'), len(mnist.train.label))
  )
  part, pool = (
    splits.take(mnist.train, rows)
    for rows in (order[:8000], order[8000:14_000])
  )
  test = splits.take(mnist.test, order[order < 10_000][:3000])
  model = (
    networks.make('convnet', 10, (28, 28, 1), width=1)
    if name == 'mnist_convnet'
    else networks.make('vit_tiny', 10, (28, 28, 1), patch_size=7)
  )
  network = Network(model, input_step.make((0.13,), (0.31,)))
  fit = _split_network(key, network, part, Training(make_adam(1e-3), 2500, 64))
  variables, oracle = _train_both(key, fit, noise, rate, part, 'mnist')
  wrong = _draw_labels(
    rng.fold_in(key, 'wrong'), noise, 1.0, pool.label, 'mnist'
  )
  random = np.random.default_rng(seed)
  foreign = random.permuted(
    np.asarray(mnist.test.image[:500]).reshape(500, -1), axis=1
  ).reshape(500, 28, 28, 1)
  accuracy = measure_accuracy(network, oracle, test)
  label = np.asarray(wrong.label)
  return Problem(network, variables, pool, label, test, accuracy, foreign)


def _make_resnet20(
  noise: str, rate: float, seed: int, paths: tuple[str, str, str]
) -> Problem:
  """A shipped ResNet-20, fine-tuned on 4,000 images with wrong labels.

  Its own training split is not unseen, so pool and test images are disjoint
  parts of the test split. The oracle is the network as shipped.
  """
  weights, data_dir, labels = paths
  key = rng.fold_in(seed, 'unlabelled resnet20')
  cifar = sources.load('cifar10', data_dir=data_dir)
  rows = lambda name, size: np.asarray(
    jax.random.permutation(rng.fold_in(key, name), size)
  )
  chosen = rows('part', 50_000)[:4000]
  part, order = splits.take(cifar.train, chosen), rows('test', 10_000)
  unseen = splits.take(cifar.test, order[:5000])
  test = splits.take(cifar.test, order[5000:7000])
  wrong_key = rng.fold_in(key, 'wrong')
  if noise == 'human':
    people = kind.read_arrays(
      labels, {'worse_label': True, 'clean_label': True}, 'labels'
    )
    mixed = part._replace(label=people['worse_label'][chosen].astype(np.int32))
    wrong = _draw_human_wrong(
      wrong_key,
      people['worse_label'],
      people['clean_label'],
      np.asarray(unseen.label),
    )
  else:
    drawn = _draw_labels(
      rng.fold_in(key, 'noise'), noise, rate, part.label, 'cifar10'
    )
    mixed = corruption.apply(drawn, part)
    wrong = np.asarray(
      _draw_labels(wrong_key, noise, 1.0, unseen.label, 'cifar10').label
    )
  start = load_shipped(weights)
  network = Network(MODEL, input_step.make(MEAN, STD, pad=4))
  variables = train.fit(
    rng.fold_in(key, 'train'),
    Network(MODEL, input_step.make(MEAN, STD, pad=4, flip=True)),
    start,
    mixed,
    Training(make_adam(1e-3), 300, 128),
    train.Session('wrong labels'),
  ).variables
  foreign = np.asarray(
    sources.load('cifar100', data_dir=data_dir).test.image[:600]
  )
  accuracy = measure_accuracy(network, start, test)
  return Problem(network, variables, unseen, wrong, test, accuracy, foreign)


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `make_problem`."""
  parser.add_argument('--problem', choices=NAMES, default='digits')
  parser.add_argument('--weights', default='', help='of the ResNet-20')
  parser.add_argument('--data_dir', default='', help='of MNIST and CIFAR')
  parser.add_argument('--labels', default='', help='cifar10n.npz, by people')
