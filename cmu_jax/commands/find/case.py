"""The samples of a search: a network with its pictures, or stored answers."""

import pathlib
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from cmu_jax.commands import frame, intake, readings
from cmu_jax.commands.find.request import FindRequest
from cmu_jax.core import errors, files, provenance
from cmu_jax.core.types import Batch, Info
from cmu_jax.data import splits
from cmu_jax.data.sources import image_folder, npz
from cmu_jax.methods.detection import confident_learning
from cmu_jax.networks import shipped
from cmu_jax.networks.shipped import ShippedNetwork

_LAYOUT = 'save it with np.savez(path, probabilities=..., labels=...)'
_NAMES = ('probabilities', 'labels', 'features', 'class_names')
# Pictures on which the reading of a network is checked.
_CHECKED = 1000


class FindCase(NamedTuple):
  """Labelled samples, and what answers them.

  Attributes:
    class_names: in the order of the answers.
    label: as given, [n].
    names: of the samples: paths, or places in an archive.
    image: raw pixels, or None.
    network: as shipped, or None.
    probability: stored answers, or None.
    features: stored features, or None.
  """

  class_names: tuple[str, ...]
  label: np.ndarray
  names: tuple[str, ...]
  image: np.ndarray | None = None
  network: ShippedNetwork | None = None
  probability: np.ndarray | None = None
  features: np.ndarray | None = None


def read(request: FindRequest) -> FindCase:
  """Reads the samples of a request.

  Raises:
    UserError: files that are missing, malformed, or do not fit.
  """
  if request.probabilities is not None:
    return _read_answers(request.probabilities)
  assert request.data is not None
  network = frame.load_network(request, request.data, ('data',))
  image = np.asarray(network.pictures.image)
  label = shipped.label_pictures(
    request.data, network.pictures, network.class_names
  )
  batch = Batch(jnp.asarray(image), jnp.asarray(label))
  # Spread over the classes, whose files come in order.
  rows = np.linspace(0, len(label) - 1, min(_CHECKED, len(label))).astype(int)
  sample = splits.take(batch, rows)
  intake.check_classes(network, {'--data': sample})
  # The labels may be wrong, and the network right.
  readings.check_labelled(network, sample, f'--data={request.data}', False)
  names = _name_samples(request.data, len(label))
  return FindCase(network.class_names, label, names, image, network)


def _name_samples(root: str, count: int) -> tuple[str, ...]:
  path = files.expand(root)
  if path.suffix == '.npz':
    return tuple(f'{root}[{i}]' for i in range(count))
  return tuple(map(str, image_folder.list_files(path, True)))


def _read_answers(path: str) -> FindCase:
  """Reads stored answers.

  Raises:
    UserError: the file or an array is missing, unknown or malformed.
  """
  arrays = npz.read_arrays(files.expand(path), _LAYOUT)
  # A misspelt array would count as absent.
  for name in arrays:
    if name not in _NAMES:
      raise errors.unknown_name(f'array in {path}', name, _NAMES)
  missing = [name for name in _NAMES[:2] if name not in arrays]
  errors.check(
    not missing, f'{path} has no {" and no ".join(missing)}; {_LAYOUT}'
  )
  probability, label = arrays['probabilities'], arrays['labels']
  # The check names the mistake, and here the file.
  try:
    confident_learning.check_answers(probability, label)
  except errors.UserError as error:
    raise errors.UserError(f'{path}: {error}') from error
  classes = probability.shape[1]
  names = npz.read_class_names(files.expand(path))
  names = names if 'class_names' in arrays else tuple(map(str, range(classes)))
  errors.check(
    len(names) == classes,
    f'{path} has {len(names)} class_names, but probabilities of {classes} '
    'classes',
  )
  features = arrays.get('features')
  errors.check(
    features is None
    or (
      features.ndim == 2
      and len(features) == len(label)
      and np.isfinite(features).all()
    ),
    f'{path}: features must be finite numbers [{len(label)}, d]',
  )
  return FindCase(
    names,
    label.astype(np.int64),
    _name_samples(path, len(label)),
    probability=probability.astype(np.float64),
    features=features,
  )


def settings(case: FindCase) -> Info:
  """Inferred settings, and digests of the inputs."""
  # Digests, because an answer belongs to its pictures and weights.
  if case.network is None:
    arrays = [case.probability, case.label]
    if case.features is not None:
      arrays.append(case.features)
    return {'classes': case.class_names, 'answers_sha256': _digest(*arrays)}
  return {
    **frame.network_settings(case.network, case.image),
    'pictures_sha256': _digest(case.image, case.label),
    # Equal pictures under other names give another list.
    'names_sha256': _digest(np.array(case.names)),
  }


def _digest(*arrays: np.ndarray | None) -> str:
  return provenance.digest(*(np.asarray(array) for array in arrays))


def source_file(name: str) -> pathlib.Path | None:
  """The file of a sample; None for a sample of an archive."""
  return None if name.endswith(']') and '.npz[' in name else files.expand(name)
