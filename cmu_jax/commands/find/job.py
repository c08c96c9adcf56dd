"""A search for bad samples, from the request to the list and the folders."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from cmu_jax.commands import frame
from cmu_jax.commands.find import answers, case, listing, page
from cmu_jax.commands.find.case import FindCase
from cmu_jax.commands.find.request import FindRequest
from cmu_jax.core import config as config_lib
from cmu_jax.core import errors, files
from cmu_jax.core.types import Batch, Info
from cmu_jax.data import near_copies
from cmu_jax.methods.detection import (
  confident_learning,
  planted_patches,
  suspects,
)
from cmu_jax.methods.detection.suspects import Suspects
from cmu_jax.training import descent, metrics

# Pictures that a search for triggers asks about at a time.
_BLOCK = 64
# Surest answers contradict an estimate if they have fewer errors by this share,
# unless the network agrees with more labels than a weak network can.
_MUCH_LESS, _STRONG = 0.75, 0.85


def run(request: FindRequest) -> Info:
  """Finds suspects and writes list, folders, results, figure and page.

  Continues where an earlier call with the same request was stopped.

  Raises:
    UserError: settings, arrays, weights or pictures that do not fit; then
      nothing is written.
  """
  samples = case.read(request)
  inferred = case.settings(samples)
  stored = _read_finished(request, inferred)
  # Before the lock: a page that somebody reads is not written again.
  if stored is not None:
    errors.remark('This search is finished: its results are shown again.')
    return stored

  def compute(settings: Info, out: pathlib.Path) -> tuple[Info, frame.Report]:
    listed, facts = search(request, samples, settings, out)
    record = listing.write(request, samples, listed, out)
    report = page.make_report(samples, listed)
    return {**facts, **record, 'class_names': samples.class_names}, report

  return frame.run_job(request, inferred, compute)


def _read_finished(request: FindRequest, inferred: Info) -> Info | None:
  """Reads results of the same search; None if there are none, or unfinished."""
  path = files.expand(request.out) / frame.RESULTS
  if not path.is_file():
    return None
  stored: Any = files.read_json(path)
  # As in the file: tuples are lists there.
  current = config_lib.to_json({**request._asdict(), **inferred})
  same = stored.get('finished') and stored.get('settings') == current
  # A user may have removed the list to have it made again.
  complete = all((path.parent / name).exists() for name in listing.PRODUCTS)
  return stored if same and complete else None


def search(
  request: FindRequest, samples: FindCase, settings: Info, out: pathlib.Path
) -> tuple[dict[str, Suspects], Info]:
  """Finds the suspects of each kind, and facts about the search.

  Args:
    request: the user's flags.
    samples: labelled.
    settings: everything that the results depend on.
    out: folder of results; answers of the network are kept there.
  """
  if samples.network is None:
    assert samples.probability is not None
    answer, memorised = suspects.choose_answers(
      samples.probability, samples.label, samples.features
    )
    kinds = suspects.find_in_answers(answer, samples.label, samples.features)
    # Without features nothing can be done about it, but it can be said.
    facts = {
      'memorised': memorised,
      'cross_fitted': memorised and samples.features is not None,
      'agreement': {'plain': _agreement(samples.probability, samples.label)},
    }
    return _lower(
      _shorten(kinds, samples),
      answer,
      samples.label,
      facts,
    )
  return _search_pictures(request, samples, settings, out)


def _agreement(probability: np.ndarray, label: np.ndarray) -> float:
  return float(np.mean(probability.argmax(axis=1) == label))


def _search_pictures(
  request: FindRequest, samples: FindCase, settings: Info, out: pathlib.Path
) -> tuple[dict[str, Suspects], Info]:
  """Searches with a network and pictures; see `search`."""
  assert samples.network is not None and samples.image is not None
  classes = len(samples.class_names)
  image, label = jnp.asarray(samples.image), jnp.asarray(samples.label)
  address = config_lib.fingerprint(
    # The other settings change no answer.
    {k: v for k, v in settings.items() if k not in ('out', 'precision')}
  )
  # Minutes for a large network: everything later is quick.
  replies = answers.answer(
    samples.network, Batch(image, label), request, out, address
  )
  # Of 32 bits, a class times the number of pictures could overflow.
  labels = samples.label.astype(np.int64)
  answer = replies.probability
  if replies.memorised:
    print('The network repeats the labels: heads are cross-fitted', flush=True)
    answer = suspects.cross_fit(replies.features, labels, classes)
  predict = make_predictor(samples)
  # The network as it is, without views: a trigger lies at its own place.
  patches = planted_patches.find_patches(
    samples.image, labels, classes, predict
  )
  kinds = {
    'trigger': planted_patches.find_triggers(
      samples.image, labels, patches, predict
    ),
    'wrong label': suspects.find_wrong_labels(answer, labels),
    'near copy': find_copies(samples.image),
    'outlier': suspects.find_outliers(replies.plain),
  }
  facts = {
    'memorised': replies.memorised,
    'cross_fitted': replies.memorised,
    'agreement': replies.agreement,
    'patches': [
      {
        'target': samples.class_names[patch.target],
        'pixels': int(patch.mask.sum()),
        'top': int(np.argwhere(patch.mask)[:, 0].min()),
        'left': int(np.argwhere(patch.mask)[:, 1].min()),
        'moved': patch.moved,
      }
      for patch in patches
    ],
    'notes': list(samples.network.notes),
  }
  return _lower(_shorten(kinds, samples), answer, labels, facts)


def _lower(
  listed: dict[str, Suspects],
  answer: np.ndarray,
  label: np.ndarray,
  facts: Info,
) -> tuple[dict[str, Suspects], Info]:
  """Lowers the certainties that the surest answers of a network contradict.

  A weak network takes hard samples for wrong labels. Then `doubt` is the factor
  by which the surest answers lower the estimate, else 1.
  """
  wrong = listed['wrong label']
  least = confident_learning.measure_sure_errors(answer, label)
  rate = len(wrong.row) / len(label)
  # With many wrong labels a strong network is below this too, but then its
  # surest answers have as many errors as the others.
  weak = _agreement(answer, label) < _STRONG
  doubtful = weak and least < _MUCH_LESS * rate
  doubt = least / rate if doubtful else 1.0
  short = select(wrong, np.arange(len(wrong.row)) < doubt * len(wrong.row))
  lower = short._replace(
    certainty=doubt * short.certainty, precision=doubt * short.precision
  )
  facts = {**facts, 'least_rate': least, 'rate': rate, 'doubt': doubt}
  return {**listed, 'wrong label': lower}, facts


def make_predictor(samples: FindCase) -> Callable[[np.ndarray], np.ndarray]:
  """(uint8 pictures [m, h, w, c]) -> probabilities [m, k] of the network."""
  network = samples.network
  assert network is not None

  def predict(image: np.ndarray) -> np.ndarray:
    parts = []
    for start in range(0, len(image), _BLOCK):
      block = image[start : start + _BLOCK]
      # Repeated pictures fill the block: one compilation serves all.
      full = np.resize(block, (_BLOCK, *block.shape[1:]))
      probability = metrics.probabilities(
        network.classifier,
        network.variables,
        descent.blank_batch(full),
        _BLOCK,
      )
      parts.append(probability[: len(block)])
    return np.concatenate(parts)

  return predict


def find_copies(image: np.ndarray) -> Suspects:
  """Finds pictures that are copies of earlier ones."""
  pairs, distance = near_copies.find_copies_within(image)
  # Stable: pictures that are equal keep the order of their files.
  order = np.argsort(distance, kind='stable')
  pairs = pairs[order]
  return suspects.make_suspects(
    pairs[:, 0], 1 - distance[order], partner=pairs[:, 1]
  )


def _shorten(
  kinds: dict[str, Suspects], samples: FindCase
) -> dict[str, Suspects]:
  """Lists as many wrong labels as are expected, and no trigger among them."""
  wrong = kinds['wrong label']
  # A label beside a trigger is wrong on purpose: it is listed once.
  taken = kinds['trigger'].row if 'trigger' in kinds else np.zeros(0, int)
  wrong = select(wrong, ~np.isin(wrong.row, taken))
  count = min(len(wrong.row), round(wrong.certainty.sum()))
  short = select(wrong, np.arange(len(wrong.row)) < count)
  order = ('trigger', 'wrong label', 'near copy', 'outlier')
  return {
    kind: short if kind == 'wrong label' else kinds[kind]
    for kind in order
    if kind in kinds
  }


def select(group: Suspects, rows: np.ndarray) -> Suspects:
  """Takes some suspects; the expected precision is that of the new list."""
  chosen = Suspects(*(field[rows] for field in group))
  if not len(chosen.row) or np.isnan(group.precision[:1]).all():
    return chosen
  steps = np.arange(1, len(chosen.row) + 1)
  return chosen._replace(precision=np.cumsum(chosen.certainty) / steps)
