"""Answers of a network to pictures, and to shifted and mirrored copies of them.

A network that memorised a wrong label knows it for the very pixels of its
training. A copy shifted by a sixteenth of its side shows the same object, and
the network answers it as an unseen picture. So the fall of the agreement with
the given labels tells memory, and the mean over copies reads through it. On a
network trained without augmentation that helps most; a network that was trained
on shifted copies has memorised these too.
"""

import functools
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy import special

from cmu_jax.core import progress, rng, store
from cmu_jax.core.types import Batch
from cmu_jax.methods.detection import detector_data, suspects
from cmu_jax.networks.shipped import ShippedNetwork
from cmu_jax.training import descent

# A kill loses at most one block, and a block has a line of progress.
_BLOCK = 1000
_SHIFT = 16
# A larger fall of the agreement with the labels is taken for memory.
_FALL = 0.1
# Mirrored copies that agree so much less than shifted ones have another class.
_LEAST_MIRRORED = 0.7
_PLAIN, _PROBE, _MIRRORED = 'plain', 'down', 'mirrored'
_MOVES = {'down': (1, 0), 'up': (-1, 0), 'right': (0, 1), 'left': (0, -1)}


class Answers(NamedTuple):
  """The answers of a network to all pictures.

  Attributes:
    probability: means over the views.
    features: of the last layer, means over the views.
    plain: features of the pictures as they are.
    agreement: view -> share of pictures whose given label is predicted.
    memorised: the network repeats labels that it was trained on.
  """

  probability: Float[np.ndarray, 'n k']
  features: Float[np.ndarray, 'n d']
  plain: Float[np.ndarray, 'n d']
  agreement: dict[str, float]
  memorised: bool


def move(
  image: UInt8[np.ndarray, 'n h w c'], down: int, right: int
) -> UInt8[np.ndarray, 'n h w c']:
  """Shifts pictures by pixels; the border is repeated."""
  height, width = image.shape[1:3]
  # A black border would be a new edge that no training picture has.
  rows = np.clip(np.arange(height) - down, 0, height - 1)
  columns = np.clip(np.arange(width) - right, 0, width - 1)
  return image[:, rows][:, :, columns]


def make_view(
  image: UInt8[np.ndarray, 'n h w c'], name: str
) -> UInt8[np.ndarray, 'n h w c']:
  """Makes the view of this name: 'plain', 'down', 'mirrored left', ..."""
  words = name.split()
  if _MIRRORED in words:
    image = image[:, :, ::-1]
  down, right = _MOVES.get(words[-1], (0, 0))
  step = max(1, round(min(image.shape[1:3]) / _SHIFT))
  return move(image, down * step, right * step)


class _Reader(NamedTuple):
  """Reads the answers to views, from files where they lie already."""

  network: ShippedNetwork
  image: UInt8[np.ndarray, 'n h w c']
  seed: int
  size: int
  folder: pathlib.Path
  address: str

  def read(self, name: str, advance: Any) -> Float[np.ndarray, 'n e']:
    """Logits and features of the pictures in this view."""
    return np.concatenate(list(self._blocks(name, advance)))

  def _blocks(
    self, name: str, advance: Any
  ) -> Iterator[Float[np.ndarray, 'b e']]:
    for start in range(0, len(self.image), _BLOCK):
      rows = np.arange(start, min(start + _BLOCK, len(self.image)))
      path = self.folder / 'cells' / f'{self.address[:24]}-{name}-{start}.npz'
      stored = store.read_or_compute(
        path, functools.partial(self._compute, name, rows)
      )
      yield stored['answers']
      advance(len(rows))

  def _compute(
    self, name: str, rows: Int[np.ndarray, 'b']
  ) -> store.NamedArrays:
    # Repeated pictures fill the block: one compilation serves all of them.
    full = np.resize(rows, min(_BLOCK, len(self.image)))
    image = jnp.asarray(make_view(self.image[full], name))
    batch = descent.blank_batch(image)
    answers = detector_data.answer_images(
      rng.fold_in(self.seed, 'projection'),
      self.network.classifier,
      self.network.variables,
      batch,
      self.size,
    )
    return {'answers': answers[: len(rows)]}


def answer(
  network: ShippedNetwork,
  batch: Batch,
  request: Any,
  folder: pathlib.Path,
  address: str,
) -> Answers:
  """Asks a network about pictures, and about copies where it memorised them.

  Args:
    network: as shipped.
    batch: pictures with their given labels.
    request: with `views`, `batch_size` and `seed`.
    folder: the answers lie there, so that a killed command continues.
    address: of everything that they depend on.
  """
  label = np.asarray(batch.label)
  image = np.asarray(batch.image)
  reader = _Reader(
    network, image, request.seed, request.batch_size, folder, address
  )
  classes = len(network.class_names)
  views: dict[str, Float[np.ndarray, 'n e']] = {}
  agreement: dict[str, float] = {}

  def ask(*names: str) -> None:
    total = len(names) * len(label)
    with progress.bar('answers', total, 'pictures') as advance:
      for name in names:
        views[name] = reader.read(name, advance)
        guess = views[name][:, :classes].argmax(axis=1)
        agreement[name] = float(np.mean(guess == label))

  ask(_PLAIN, *([_PROBE] if request.views else []))
  fall = agreement[_PLAIN] - agreement.get(_PROBE, agreement[_PLAIN])
  # A network that knows its labels and all views may be right, or trained on
  # shifted copies of wrong labels: the heads judge both.
  memorised = fall > _FALL or agreement[_PLAIN] > suspects.MEMORISED
  if memorised and request.views:
    ask(*(name for name in _MOVES if name != _PROBE), _MIRRORED)
    if agreement[_MIRRORED] > _LEAST_MIRRORED * agreement[_PROBE]:
      ask(*(f'{_MIRRORED} {name}' for name in _MOVES))
    # Letters and digits: a mirrored one is of no class.
    else:
      del views[_MIRRORED]
  elif _PROBE in views:
    # Plain answers are the best of a network that memorised nothing.
    del views[_PROBE]
  return _average(views, agreement, memorised, classes)


def _average(
  views: dict[str, Float[np.ndarray, 'n e']],
  agreement: dict[str, float],
  memorised: bool,
  classes: int,
) -> Answers:
  """Means of the probabilities and of the features over views."""
  # Probabilities are averaged, because one sure view must not outvote nine.
  stacked = np.stack(list(views.values())).astype(np.float64)
  probability = special.softmax(stacked[..., :classes], axis=-1).mean(axis=0)
  return Answers(
    probability / probability.sum(axis=1, keepdims=True),
    stacked[..., classes:].mean(axis=0),
    views[_PLAIN][:, classes:],
    agreement,
    memorised,
  )
