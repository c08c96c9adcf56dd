r"""Search for bad samples, beside cleanlab, on CIFAR-10 and human labels.

A cell is a network, a kind of errors and a seed. `resnet20` is a shipped
network that was trained on CIFAR-10's training images with their clean labels:
it has seen these pictures, and never the labels that are judged here.
`memorised` is a small conv net that we train on the labels that are judged,
without augmentation, until it repeats them. Kinds: `worse` and `aggre` are
human labels of CIFAR-10N (40 % and 9 % wrong), `clean` has no error, `patch`
has 1 % of the pictures with a white 3x3 patch and label 0.

cleanlab (`[bench]`) ranks by its label quality scores, the best of its three at
the true number of errors (a choice that a user cannot make), once from the
network's own answers, as it is shipped, and once from the answers of `find`.
The same command again continues.

  python experiments/find_errors.py --weights FILE --data_dir DIR \
    --labels cifar10n.npz --minutes 30
"""

import argparse
import pathlib
import tempfile
from typing import Any, NamedTuple

import cell_runs
import jax.numpy as jnp
import numpy as np
from clip_resnet20 import MEAN, MODEL, STD, load_shipped
from scipy import special

from cmu_jax import networks
from cmu_jax.commands import shell
from cmu_jax.commands.find import answers, request
from cmu_jax.core import jit, rng
from cmu_jax.core.types import Batch, Info, Network, Training, Variables
from cmu_jax.data import input_step, sources
from cmu_jax.methods.detection import (
  confident_learning,
  planted_patches,
  suspects,
)
from cmu_jax.training import metrics, optimizers, train

CELLS = (
  *('memorised,worse', 'memorised,patch', 'resnet20,worse'),
  *('memorised,clean', 'resnet20,aggre', 'resnet20,clean'),
)
# Shares of the samples at which the expected precision is compared.
CUTS = (0.02, 0.05, 0.1, 0.2, 0.4)
SCORES = ('self_confidence', 'normalized_margin', 'confidence_weighted_entropy')
CLASSES = tuple(map(str, range(10)))


class Subject(NamedTuple):
  """A network as `answers.answer` reads it."""

  classifier: Network
  variables: Variables
  class_names: tuple[str, ...] = CLASSES


def make_samples(flags: argparse.Namespace, kind: str, seed: int) -> Any:
  """Draws pictures, their given labels, and marks of the bad ones."""
  cifar = sources.load('cifar10', data_dir=flags.data_dir).train
  draw = np.random.default_rng(seed)
  count = flags.patched if kind == 'patch' else flags.count
  rows = draw.permutation(len(cifar.label))[:count]
  image = np.array(np.asarray(cifar.image)[rows])
  truth = np.asarray(cifar.label)[rows].astype(np.int64)
  if kind == 'patch':
    label = truth.copy()
    chosen = draw.permutation(np.flatnonzero(truth != 0))[: count // 100]
    image[chosen, 28:31, 28:31] = 255
    label[chosen] = 0
    return image, label, np.isin(np.arange(count), chosen)
  if kind == 'clean':
    return image, truth, np.zeros(count, bool)
  label = np.load(flags.labels)[f'{kind}_label'][rows].astype(np.int64)
  return image, label, label != truth


def make_subject(
  flags: argparse.Namespace, name: str, image: Any, label: Any, seed: int
) -> Subject:
  """Loads the shipped network, or trains one until it repeats the labels."""
  inputs = input_step.make(MEAN, STD)
  if name == 'resnet20':
    return Subject(Network(MODEL, inputs), load_shipped(flags.weights))
  batch = Batch(jnp.asarray(image), jnp.asarray(label, jnp.int32))
  model = networks.make('convnet', 10, image.shape[1:])
  key = rng.fold_in(seed, 'find')
  start = jit.compile_cheaply(model.init)(
    key, inputs.eval(batch.image[:1], None)
  )
  steps = flags.images // 128
  rate = optimizers.cosine_schedule(0.05, 1, 0.0, steps)
  network = Network(model, inputs)
  fitted = train.fit(
    key,
    network,
    start,
    batch,
    Training(optimizers.sgd(rate, 5e-4), steps, 128),
  )
  return Subject(network, fitted.variables)


def predict_with(subject: Subject) -> planted_patches.Predict:
  """(uint8 pictures) -> probabilities."""

  def predict(image: np.ndarray) -> np.ndarray:
    parts = []
    for start in range(0, len(image), 64):
      block = image[start : start + 64]
      full = jnp.asarray(np.resize(block, (64, *block.shape[1:])))
      batch = Batch(full, jnp.zeros(64, jnp.int32))
      logits = metrics.logits(subject.classifier, subject.variables, batch, 64)
      parts.append(special.softmax(np.asarray(logits), axis=1)[: len(block)])
    return np.concatenate(parts)

  return predict


def measure_attack(
  flags: argparse.Namespace, predict: planted_patches.Predict
) -> float:
  """The share of patched test pictures of other classes in class 0."""
  test = sources.load('cifar10', data_dir=flags.data_dir).test
  rows = np.flatnonzero(np.asarray(test.label)[:1000] != 0)
  image = np.array(np.asarray(test.image)[rows])
  image[:, 28:31, 28:31] = 255
  return float(np.mean(predict(image).argmax(axis=1) == 0))


def measure_precision(order: np.ndarray, bad: np.ndarray) -> float | None:
  """The share of bad samples among as many as there are."""
  count = int(bad.sum())
  return float(bad[order[:count]].mean()) if count else None


def rank_by_cleanlab(
  label: np.ndarray, probability: np.ndarray, bad: np.ndarray
) -> Info:
  """The precision of each of cleanlab's scores."""
  # An extra, `[bench]`: the other parts of this script do without it.
  from cleanlab import rank

  scores = {
    name: rank.get_label_quality_scores(label, probability, method=name)
    for name in SCORES
  }
  return {
    name: measure_precision(np.argsort(score, kind='stable'), bad)
    for name, score in scores.items()
  }


def measure(flags: argparse.Namespace, name: str, seed: int) -> Info:
  """Searches the samples of a cell, and has cleanlab search them too."""
  network, kind = name.split(',')
  image, label, bad = make_samples(flags, kind, seed)
  subject = make_subject(flags, network, image, label, seed)
  batch = Batch(jnp.asarray(image), jnp.asarray(label, jnp.int32))
  wish = request.FindRequest(out='', seed=seed)
  with tempfile.TemporaryDirectory() as folder:
    asked = answers.answer(subject, batch, wish, pathlib.Path(folder), name)
  # The answers to the pictures as they are: features of the network, its head.
  own = special.softmax(
    np.asarray(
      subject.classifier.model.head(subject.variables, asked.plain)
    ).astype(np.float64),
    axis=1,
  )
  answer = asked.probability
  if asked.memorised:
    answer = suspects.cross_fit(asked.features, label, len(CLASSES))
  ranked = suspects.find_wrong_labels(answer, label)
  predict = predict_with(subject)
  patches = planted_patches.find_patches(image, label, 10, predict)
  carriers = planted_patches.find_triggers(image, label, patches, predict).row
  planted = bad if kind == 'patch' else np.zeros(len(bad), bool)
  hits = int(planted[carriers].sum())
  return {
    'samples': len(label),
    'errors': int(bad.sum()),
    'agreement': asked.agreement,
    'memorised': asked.memorised,
    'estimated_errors': float(ranked.certainty.sum()),
    'least_rate': confident_learning.measure_sure_errors(answer, label),
    'find': measure_precision(ranked.row, bad),
    'cleanlab_own_answers': rank_by_cleanlab(label, own, bad),
    'cleanlab_answers_of_find': rank_by_cleanlab(label, answer, bad),
    'calibration': [
      {
        'share': cut,
        'expected': float(ranked.precision[int(cut * len(label)) - 1]),
        'actual': float(bad[ranked.row[: int(cut * len(label))]].mean()),
      }
      for cut in CUTS
    ],
    'attack_success': measure_attack(flags, predict)
    if kind == 'patch'
    else None,
    'triggers': {
      'listed': len(carriers),
      'precision': hits / len(carriers) if len(carriers) else None,
      'recall': hits / int(planted.sum()) if planted.any() else None,
    },
  }


def summarize(cells: dict[str, Info]) -> list[Info]:
  """Means over the seeds of each cell."""
  table = []
  for name in CELLS:
    rows = [r for key, r in cells.items() if key.rpartition(',')[0] == name]
    if not rows:
      continue
    best = lambda field, rows=rows: mean_of(
      [
        max((v for v in r[field].values() if v is not None), default=None)
        for r in rows
      ]
    )
    table.append(
      {
        'cell': name,
        'seeds': len(rows),
        'attack_success': mean_of([r['attack_success'] for r in rows]),
        'find': mean_of([r['find'] for r in rows]),
        'cleanlab_own': best('cleanlab_own_answers'),
        'cleanlab_find': best('cleanlab_answers_of_find'),
        'trigger_precision': mean_of(
          [r['triggers']['precision'] for r in rows]
        ),
        'trigger_recall': mean_of([r['triggers']['recall'] for r in rows]),
        'false_triggers': sum(
          r['triggers']['listed']
          for r in rows
          if r['triggers']['recall'] is None
        ),
      }
    )
  return table


def mean_of(values: list[float | None]) -> float | None:
  """The mean of the values that are there; None without any."""
  present = [value for value in values if value is not None]
  return float(np.mean(present)) if present else None


def main() -> None:
  """Runs the missing cells that fit the time; prints the table."""
  parser = cell_runs.parser(__doc__)
  parser.add_argument('--weights', required=True, help='of the ResNet-20')
  parser.add_argument('--data_dir', required=True, help='of CIFAR-10')
  parser.add_argument('--labels', required=True, help='cifar10n.npz')
  parser.add_argument('--count', type=int, default=5000, help='pictures')
  parser.add_argument('--patched', type=int, default=10_000, help='of `patch`')
  parser.add_argument(
    '--images', type=int, default=200_000, help='of a training'
  )
  parser.add_argument('--seeds', default='0,1,2')
  parser.add_argument('--minutes', type=float, default=10)
  parser.add_argument('--out', default='results/find_errors.json')
  flags = parser.parse_args()

  def compute(name: str) -> Info:
    cell, _, seed = name.rpartition(',')
    return measure(flags, cell, int(seed))

  def report(cells: dict[str, Info]) -> Info:
    private = ('--weights', '--data_dir', '--labels')
    return {
      **cell_runs.describe(private),
      'config': {
        name: getattr(flags, name) for name in ('count', 'patched', 'images')
      },
      'table': summarize(cells),
      'by_cell': cells,
    }

  names = [
    f'{cell},{seed}'
    for cell in CELLS
    for seed in cell_runs.seeds_of(flags)
    # The shipped network needs no training: one draw of pictures tells enough.
    if seed == cell_runs.seeds_of(flags)[0] or not cell.startswith('resnet20')
  ]
  cells = cell_runs.compute_missing(
    pathlib.Path(flags.out), names, compute, report, minutes=flags.minutes
  )
  for row in summarize(cells):
    print(row)


if __name__ == '__main__':
  shell.run_script(main)
