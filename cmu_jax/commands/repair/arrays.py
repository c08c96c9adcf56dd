"""Repair of a network from arrays: the work of the command without files."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmu_jax import networks
from cmu_jax.commands import flags, requests
from cmu_jax.commands.repair import job, subject, words
from cmu_jax.commands.repair.subject import RepairCase
from cmu_jax.core import array_checks, errors
from cmu_jax.core.types import Batch, Info, Network, Variables
from cmu_jax.data import splits
from cmu_jax.data.sources import image_folder
from cmu_jax.networks import weights
from cmu_jax.networks.shipped import ShippedNetwork, class_order
from cmu_jax.networks.weights import matching
from cmu_jax.training import descent, metrics


class RepairResult(NamedTuple):
  """The outcome of a repair.

  Attributes:
    variables: the edited network; the given one where the repair abstains.
    repaired: False if the repair abstains.
    alpha: length of the step along the task vector; 0 without one.
    record: curve, evidence, diagnosis and measurements, as in results.json.
    sentences: the outcome in words, the most important first.
  """

  variables: Variables
  repaired: bool
  alpha: float
  record: Info
  sentences: tuple[str, ...]


def repair_arrays(
  network: Network,
  images: Any = None,
  labels: Any = None,
  *,
  variables: Variables,
  kind: str = 'label_noise',
  ordinary: Any = None,
  test: Batch | None = None,
  **settings: Any,
) -> RepairResult:
  """Repairs a network from arrays of bad samples or of ordinary pictures.

  Args:
    network: the model and its input step. The model may be a linen module with
      the methods `features` and `logits`, see `networks.as_model`.
    images: bad samples, uint8 [n, h, w, c] that the network was not trained on;
      None for a repair from ordinary pictures alone.
    labels: their wrong labels, integers [n]; the true ones with
      `labels_are='true'`; with kind='poison' None, or the true labels of the
      ordinary pictures with `labels_are='true'`.
    variables: of the network.
    kind: 'label_noise' or 'poison'.
    ordinary: unlabelled pictures of the task, uint8 [m, h, w, c]; without the
      trigger with kind='poison'.
    test: ordinary pictures with true labels, which are only measured.
    **settings: class_names, target, labels_are ('bad' or 'true'), rule, steps,
      learning_rate, batch_size, lipschitz and seed, as flags of the command.

  Raises:
    UserError: settings or arrays that do not fit.
  """
  network, variables = networks.as_network('repair', network, variables)
  if test is not None:
    array_checks.check_type('test', test, Batch)
  names = settings.pop('class_names', None)
  target = settings.pop('target', None)
  request = _make_request(kind, images, ordinary, settings)
  pictures = None if ordinary is None else _check_pictures(ordinary)
  if images is None and pictures is not None:
    # Nobody reads these labels.
    blank = np.zeros(len(pictures), np.int32)
    # A backdoor without bad samples has no target to be inferred.
    plain = 'label_noise'
    case = _make_case(network, variables, pictures, blank, None, names, plain)
    case = case._replace(bad=None)
  else:
    case = _make_case(network, variables, images, labels, target, names, kind)
  if kind == 'poison' and request.labels == 'true' and pictures is not None:
    errors.check(
      labels is not None and len(labels) == len(pictures),
      f'labels_are=true: give labels of the {len(pictures)} ordinary pictures',
    )
    case = case._replace(ordinary_label=jnp.asarray(labels, jnp.int32))
  if pictures is not None and images is not None and kind == 'poison':
    case = subject.add_trigger(case, np.asarray(pictures))
  elif pictures is not None:
    case = case._replace(ordinary=pictures)
  case = case._replace(test=test)
  job.check_reading(request, case)
  settings = job.case_settings(request, case)
  edited, record = job.solve(request, case, settings, None)
  record |= job.measure_both(request, case, edited)
  return RepairResult(
    edited,
    record['repaired'],
    record['alpha'],
    record,
    (words.headline(record), *words.outcome(record)),
  )


def _make_request(
  kind: str, images: Any, ordinary: Any, settings: Info
) -> requests.RepairRequest:
  """The request of a command that would do the same.

  Raises:
    UserError: settings that are unknown or do not fit each other.
  """
  paths: dict[str, Any] = dict.fromkeys(('weights', 'model', 'out'), 'images')
  fields = {
    **paths,
    'kind': kind,
    'proxy': None if images is None else 'images',
    'ordinary': None if ordinary is None else 'ordinary',
    **{k: v for k, v in settings.items() if k != 'labels_are'},
    # The flag is called `labels`, which are an array here.
    'labels': settings.get('labels_are', 'bad'),
  }
  request = flags.make_request(requests.REPAIR, fields)
  flags.check(requests.REPAIR, request)
  return request


def _check_pictures(pictures: Any) -> jax.Array:
  """Raw pictures on the device.

  Raises:
    UserError: an array of another kind or shape.
  """
  # A Batch is a tuple, of which no array can be made.
  errors.check(
    not isinstance(pictures, tuple),
    f'images are {errors.describe_value(pictures)}; give the array of '
    'pixels, uint8 [n, h, w, c]',
  )
  image = jnp.asarray(pictures)
  errors.check(
    image.ndim == 4 and image.dtype == jnp.uint8 and len(image),
    f'images are {image.dtype} of shape {image.shape}; give uint8 [n, h, w, c]',
  )
  return image


def _ship(
  network: Network,
  variables: Variables,
  order: class_order.ClassOrder,
  target: Any,
) -> ShippedNetwork:
  """A network without files."""
  return ShippedNetwork(
    model=network.model,
    variables=variables,
    stored=weights.StoredWeights({}, {}, '.npz'),
    layout=matching.Layout({}, False),
    inputs=network.inputs,
    pictures=image_folder.FolderPictures(np.zeros(0), np.zeros(0), ()),
    order=order,
    # An input step of somebody's own has no other readings.
    mean=(),
    std=(),
    target=target,
    notes=(),
    side={},
  )


def _check_labels(labels: Any, count: int, classes: int) -> jax.Array:
  """Labels of the bad samples on the device.

  Raises:
    UserError: labels that are absent, too few or no classes.
  """
  errors.check(
    labels is not None,
    'labels= is missing: give the wrong labels, or the true ones with '
    "labels_are='true'",
  )
  label = jnp.asarray(labels, jnp.int32)
  errors.check(
    label.shape == (count,),
    f'{count} images have labels of shape {label.shape}; give one each',
  )
  splits.check_labels(label, classes)
  return label


def _make_case(
  network: Network,
  variables: Variables,
  images: Any,
  labels: Any,
  target: Any,
  names: Any,
  kind: str,
) -> RepairCase:
  """A case without files."""
  image = _check_pictures(images)
  blank = descent.blank_batch(image)
  logits = metrics.logits(network, variables, blank, 256)
  classes = logits.shape[1]
  class_names = tuple(map(str, names or range(classes)))
  errors.check(
    len(class_names) == classes,
    f'class_names has {len(class_names)} names, the network {classes} outputs',
  )
  order = class_order.ClassOrder(class_names, names is None, 'class_names=')
  shipped = _ship(network, variables, order, target)
  if kind != 'poison':
    label = _check_labels(labels, len(image), classes)
    return RepairCase(shipped, Batch(image, label), None, None, None, None, ())
  target, notes = subject.choose_target(
    target, class_names, (), logits.argmax(1)
  )
  label = jnp.full(len(image), target, jnp.int32)
  return RepairCase(
    shipped, Batch(image, label), None, target, None, None, notes
  )
