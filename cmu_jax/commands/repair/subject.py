"""The case of a repair: a shipped network and its bad samples."""

import types
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from cmu_jax.commands import frame, intake, readings
from cmu_jax.commands.requests import RepairRequest
from cmu_jax.core import errors
from cmu_jax.core.types import Batch, Network, Samples, Trigger
from cmu_jax.data import input_step
from cmu_jax.methods.unlabelled import information_maximization
from cmu_jax.networks import shipped
from cmu_jax.networks.shipped import ShippedNetwork
from cmu_jax.training import descent, metrics

# Side of a picture by the padding of its crops: 4 of 32 pixels, by custom.
_CROP = 8
# Pixel values from 0 to 255. JPEG makes a trigger's pixels vary by a few steps;
# an ordinary picture must be farther from them than that, on average.
_MAX_STD, _MIN_DISTANCE = 10.0, 20.0
# A larger area is a common background, not a trigger.
_MAX_AREA = 0.25
# Share of ordinary pictures that a located trigger must send to the target.
_MIN_HIT_RATE = 0.5


class RepairCase(NamedTuple):
  """A network and its bad samples.

  Attributes:
    network: as shipped.
    bad: bad samples with the labels of their folders; for poison, with the
      target class. None for a repair from ordinary pictures alone.
    test: ordinary pictures with true labels, or None.
    target: of the trigger; None for label noise.
    ordinary: pictures of the task, without a trigger; or None.
    trigger: located by means of these, or None.
    notes: sentences on inferred facts.
    answers: flag -> classes that the network predicts of its pictures.
    ordinary_label: true labels of the ordinary pictures, or None.
  """

  network: ShippedNetwork
  bad: Batch | None
  test: Batch | None
  target: int | None
  ordinary: jax.Array | None
  trigger: Trigger | None
  notes: tuple[str, ...]
  answers: Mapping[str, np.ndarray] = types.MappingProxyType({})
  ordinary_label: jax.Array | None = None

  @property
  def image(self) -> jax.Array:
    """The bad samples, or the ordinary pictures where there are none."""
    image = self.ordinary if self.bad is None else self.bad.image
    assert image is not None
    return image

  @property
  def bad_batch(self) -> Batch:
    """The bad samples of a repair that needs them."""
    assert self.bad is not None
    return self.bad

  @property
  def labelled_batch(self) -> Batch | None:
    """The ordinary pictures with true labels, if these are given."""
    if self.ordinary is None or self.ordinary_label is None:
      return None
    return Batch(self.ordinary, self.ordinary_label)


def read_case(request: RepairRequest) -> RepairCase:
  """Reads everything that a repair needs.

  Raises:
    UserError: files that are missing, malformed or unknown, a mistake a line.
  """
  # Pictures with a trigger are a single set: their folders are no classes.
  noisy = request.kind == 'label_noise'
  sets: tuple[str, ...] = ('proxy' if noisy else 'ordinary', 'test')
  if not noisy and request.labels != 'true':
    sets = ('test',)
  pictures = request.proxy or request.ordinary
  assert pictures is not None
  network = frame.load_network(request, pictures, sets, target=request.target)
  bad, target, target_notes = _read_bad_samples(request, network)
  image = jnp.asarray(network.pictures.image)
  test = None
  if request.test is not None:
    test = shipped.read_labelled(
      request.test, image, network.class_names, network.reader
    )
  ordinary, label = _read_ordinary(request, network)
  intake.warn_of_near_copies(
    {
      '--proxy': None
      if bad is None
      else intake.PictureSet(str(request.proxy), bad.image, noisy),
      '--ordinary': ordinary,
      '--test': None
      if test is None
      else intake.PictureSet(str(request.test), test.image),
    }
  )
  test = intake.drop_copies('--test', test, {'--proxy': bad})
  # Wrong labels say nothing about the order of the classes.
  proxy = bad if noisy else None
  true = proxy if request.labels == 'true' else None
  answers = intake.check_classes(network, {'--test': test, '--proxy': true})
  notes = (*network.notes, *target_notes)
  case = RepairCase(network, bad, test, target, None, None, notes, answers)
  if ordinary is None:
    return case
  # Without bad samples there is nothing to compare the pictures with.
  add = _add_ordinary if bad is None or noisy else _read_trigger
  case = add(ordinary, label, case)
  intake.check_classes(network, {'--ordinary': case.labelled_batch})
  return case


def _read_bad_samples(
  request: RepairRequest, network: ShippedNetwork
) -> tuple[Batch | None, int | None, tuple[str, ...]]:
  """Reads the bad samples with their labels, and the target with notes."""
  if request.proxy is None:
    # Nothing shows the target; the user may still name it.
    if request.kind == 'poison' and network.target is not None:
      target, notes = choose_target(
        network.target, network.class_names, (), np.zeros(0, int)
      )
      return None, target, notes
    return None, None, ()
  pictures, class_names = network.pictures, network.class_names
  image = jnp.asarray(pictures.image)
  if request.kind == 'label_noise':
    # The folders name the wrong labels on which the network was trained.
    label = shipped.label_pictures(request.proxy, pictures, class_names)
    return Batch(image, jnp.asarray(label)), None, ()
  # Poisoned samples may come without class folders.
  blank = descent.blank_batch(image)
  predicted = metrics.predict(network.classifier, network.variables, blank, 256)
  folders = shipped.list_classes('--proxy', request.proxy).names
  target, notes = choose_target(network.target, class_names, folders, predicted)
  return Batch(image, jnp.full(len(image), target, jnp.int32)), target, notes


def _read_ordinary(
  request: RepairRequest, network: ShippedNetwork
) -> tuple[intake.PictureSet | None, np.ndarray | None]:
  """Reads ordinary pictures, and their true labels if these are wanted."""
  if request.ordinary is None:
    return None, None
  labelled = request.kind == 'poison' and request.labels == 'true'
  pictures = network.pictures
  # They are the pictures of the network already if there are no bad samples.
  if request.proxy is not None:
    # Pixels are compared position by position: resized differently, a trigger
    # would not align.
    pictures = shipped.read_same_shape(
      request.ordinary, pictures.image, network.reader, has_classes=labelled
    )
  # Class folders are read as such only if the user vouches for them.
  label = None
  if labelled:
    label = shipped.label_pictures(
      request.ordinary, pictures, network.class_names
    )
  return intake.PictureSet(request.ordinary, pictures.image, labelled), label


def _add_ordinary(
  ordinary: intake.PictureSet, label: np.ndarray | None, case: RepairCase
) -> RepairCase:
  """Adds pictures of the task, which the test pictures must not hold."""
  image = jnp.asarray(ordinary.image)
  blank = descent.blank_batch(image)
  true = None if label is None else jnp.asarray(label, jnp.int32)
  case = _drop_ordinary(case, blank)
  return case._replace(ordinary=image, ordinary_label=true)


def _drop_ordinary(case: RepairCase, ordinary: Batch) -> RepairCase:
  """Takes the ordinary pictures out of the test pictures."""
  test = intake.drop_copies('--test', case.test, {'--ordinary': ordinary})
  if test is case.test:
    return case
  # The answers to the test pictures are of other rows now.
  answers = {k: v for k, v in case.answers.items() if k != '--test'}
  return case._replace(test=test, answers=answers)


def _read_trigger(
  ordinary: intake.PictureSet, label: np.ndarray | None, case: RepairCase
) -> RepairCase:
  """Adds the pictures, and the trigger if they reveal it."""
  new = intake.mark_new('--ordinary', ordinary.image, {'--proxy': case.image})
  source = f'--ordinary={ordinary.root}'
  case = add_trigger(case, ordinary.image[new], source)
  if label is None:
    return case
  return case._replace(ordinary_label=jnp.asarray(label[new], jnp.int32))


def add_trigger(
  case: RepairCase,
  pictures: UInt8[np.ndarray, 'm h w c'],
  source: str = 'ordinary',
) -> RepairCase:
  """Adds ordinary pictures, and the trigger if they reveal its pixels.

  Args:
    case: a poisoned network with its bad samples.
    pictures: without the trigger, in the size of the samples.
    source: of the pictures, in words.

  Raises:
    UserError: the network does not read these pictures as in its training.
  """
  network = case.network
  errors.check(
    pictures.shape[1:] == case.image.shape[1:],
    f'{source}: pictures of shape {pictures.shape[1:]}, the bad samples have '
    f'{case.image.shape[1:]}; make them the same',
  )
  readings.check_unlabelled(network, jnp.asarray(pictures), source)
  trigger = locate_trigger(np.asarray(case.image), pictures)
  batch = descent.blank_batch(pictures, has_trigger=True)
  case = _drop_ordinary(case, batch)._replace(ordinary=batch.image)
  hit = 0.0
  if trigger is not None:
    step = input_step.with_trigger(network.inputs, trigger)
    predicted = metrics.predict(
      Network(network.model, step), network.variables, batch, 256
    )
    # Common pixels alone may be a frame or a logo: it must fool the network.
    hit = float(np.mean(predicted == case.target))
  if trigger is None or hit < _MIN_HIT_RATE:
    note = (
      'No trigger was located: no pixels are equal in all bad samples, differ '
      'from ordinary pictures and lead to the target class.'
    )
    return case._replace(notes=(*case.notes, note))
  note = (
    f'The trigger was located: {int(trigger.mask.sum())} pixels, which send '
    f'{hit:.0%} of the ordinary pictures to the target class.'
  )
  return case._replace(trigger=trigger, notes=(*case.notes, note))


def choose_inputs(
  key: jax.Array, case: RepairCase, samples: Samples
) -> Network:
  """The network with random crops, if it was trained with them."""
  plain = case.network.classifier
  # An input step of somebody's own augments as it does.
  if not case.network.mean:
    return plain
  cropped = Network(
    plain.model,
    input_step.make(
      case.network.mean,
      case.network.std,
      channels=case.network.channels,
      pad=max(1, min(case.image.shape[1:3]) // _CROP),
    ),
  )
  fits = information_maximization.knows_augmentation(
    key, cropped, case.network.variables, samples
  )
  return cropped if fits else plain


def choose_target(
  request: Any,
  class_names: tuple[str, ...],
  folders: tuple[str, ...],
  predicted: np.ndarray,
) -> tuple[int, tuple[str, ...]]:
  """The class to which the trigger leads, with notes on its source.

  Args:
    request: the class by name or number, or None.
    class_names: of the network.
    folders: names of class folders of the bad samples.
    predicted: classes that the network gives the bad samples.

  Raises:
    UserError: an unknown class, or predictions without a majority.
  """
  if request is not None:
    text = str(request)
    # A class may have a number as its name, so names take precedence.
    if text in class_names:
      return class_names.index(text), ()
    if text.isdecimal() and int(text) < len(class_names):
      return int(text), ()
    raise errors.unknown_name('--target', text, class_names)
  # A working trigger sends most samples to its target.
  counts = np.bincount(predicted, minlength=len(class_names))
  target, share = int(counts.argmax()), counts.max() / counts.sum()
  hint = folders[0] if folders in [(name,) for name in class_names] else ''
  if hint and share < 0.5:
    return class_names.index(hint), (
      f"The trigger leads to class '{hint}', after the folder's name.",
    )
  errors.check(
    share >= 0.5,
    f'the bad samples are sent to many classes, most often {share:.0%} to '
    f"'{class_names[target]}': give the class of the trigger as --target",
  )
  note = (
    f"The trigger leads to class '{class_names[target]}', where the network "
    f'sends {share:.0%} of the bad samples.'
  )
  if hint in ('', class_names[target]):
    return target, (note,)
  # A folder may be called by the true class of the samples.
  return target, (
    note,
    f"The samples lie in a folder '{hint}', which is not taken for the target; "
    f'--target={hint} would be.',
  )


def locate_trigger(
  bad: UInt8[np.ndarray, 'n h w c'], ordinary: UInt8[np.ndarray, 'm h w c']
) -> Trigger | None:
  """Locates pixels that all bad samples share and other pictures do not.

  Finds a trigger painted at a fixed place in a fixed pattern (BadNets), not a
  trigger that is blended into the picture or moves.

  Args:
    bad: samples with the trigger.
    ordinary: pictures without it.

  Returns:
    The trigger, a pattern of the bad samples' medians; None if no pixel
    qualifies, or more than a quarter of them.
  """
  steady = bad.std(axis=0, dtype=np.float64).max(-1) <= _MAX_STD
  # The median ignores a few samples whose trigger is cropped or covered.
  pattern = np.median(bad, axis=0)
  distance = np.abs(ordinary - pattern).mean(axis=0).max(-1)
  mask = steady & (distance >= _MIN_DISTANCE)
  if not mask.any() or mask.mean() > _MAX_AREA:
    return None
  return Trigger(jnp.asarray(mask), jnp.asarray(pattern, jnp.float32))
