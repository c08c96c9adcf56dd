"""Writes a network as a user ships it, and reads back what was written."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cmu_jax.core import array_checks, errors, files, provenance, tree
from cmu_jax.core.types import Variables
from cmu_jax.data import normalisation
from cmu_jax.networks import classifier, weights
from cmu_jax.networks.shipped import user_data
from cmu_jax.networks.shipped.user_network import ShippedNetwork
from cmu_jax.networks.weights import matching

_SAVED_FORMATS = ('.safetensors', '.npz', '.msgpack')


class WrittenWeights(NamedTuple):
  """Weights in a file, which may be less precise than those computed.

  Attributes:
    name: of the file in its folder.
    variables: as read back from the file. Measure these.
    changed: number of weights that differ from the shipped file's.
    notes: the effect of the file's precision, in words.
    sha256: of the file's arrays.
  """

  name: str
  variables: Variables
  changed: int
  notes: tuple[str, ...]
  sha256: str


def write(
  network: ShippedNetwork, variables: Variables, out: pathlib.Path, stem: str
) -> WrittenWeights:
  """Writes weights in the format of the user's file, side file included.

  Args:
    network: as shipped.
    variables: its edited weights.
    out: the folder.
    stem: of the file's name.

  Raises:
    UserError: NaN or infinity among the weights, or a place that cannot be
      written.
  """
  errors.check(
    all(np.isfinite(x).all() for x in jax.tree.leaves(variables)),
    'the edited weights hold NaN or infinity, so nothing was written; use a '
    'smaller --learning_rate',
  )
  # Arrays that the network does not use, such as counters, go back too.
  arrays = weights.put_back(variables, network.stored.arrays, network.layout)
  name = f'{stem}{network.stored.suffix}'
  weights.write(out / name, network.stored._replace(arrays=arrays))
  if network.write_companions is not None:
    network.write_companions(out / name)
  if network.side:
    files.write_json(out / f'{name}.json', network.side)
  content, written = _read_back(network, out / name)
  return WrittenWeights(
    name,
    written,
    _count_changes(network.variables, written),
    _describe_precision(network, variables, written, content.arrays),
    _digest(content),
  )


def read_written(
  network: ShippedNetwork, path: pathlib.Path, sha256: str
) -> Variables | None:
  """Reads weights that `write` wrote; None if they are gone or changed.

  Args:
    network: as shipped.
    path: of the written file.
    sha256: see `WrittenWeights`.
  """
  if not path.exists():
    return None
  try:
    content, variables = _read_back(network, path)
  except errors.UserError:
    # A broken file is made anew, like one that is gone.
    return None
  return variables if _digest(content) == sha256 else None


def _read_back(
  network: ShippedNetwork, path: pathlib.Path
) -> tuple[weights.StoredWeights, Variables]:
  content = weights.read(path)
  return content, matching.take(
    content.arrays, network.variables, network.layout
  )


def _digest(content: weights.StoredWeights) -> str:
  """A digest of the arrays in the order of their names."""
  arrays = content.arrays
  return provenance.digest(*(arrays[name] for name in sorted(arrays)))


def save_weights(
  path: os.PathLike | str,
  variables: Variables,
  mean: int | float | Sequence[int | float] | np.ndarray,
  std: int | float | Sequence[int | float] | np.ndarray,
  *,
  classes: Sequence[str] | None = None,
  image_size: int | None = None,
  target: str | int | None = None,
) -> pathlib.Path:
  """Saves a network of this package for `repair`, `unlearn` and `audit`.

  The facts go into the side file `<path>.json`, where the commands find them.

  Args:
    path: FILE.safetensors, FILE.npz or FILE.msgpack.
    variables: parameters and statistics.
    mean: of the input step's pixels between 0 and 1, for all or each channel.
    std: likewise.
    classes: names in the order of the outputs; None leaves them to the class
      folders, sorted as text.
    image_size: side to which pictures are resized; None for no resizing.
    target: class to which a trigger leads, if known.

  Returns:
    The path.

  Raises:
    UserError: another format, a fact of another kind or of another number of
      classes, NaN or infinity, or a place that cannot be written.
  """
  array_checks.check_type('path', path, str | os.PathLike)
  variables = classifier.as_variables(variables)
  path = files.expand(path)
  suffix = path.suffix.lower()
  errors.check(
    suffix in _SAVED_FORMATS,
    f'{path} has no known format; give {", ".join(_SAVED_FORMATS)}',
  )
  # A text is a sequence of names of one letter each.
  errors.check(
    classes is None or isinstance(classes, list | tuple),
    f'classes is {errors.describe_value(classes)}; give a list of names',
  )
  facts: dict[str, Any] = {
    'mean': _channel_values('mean', mean),
    'std': _channel_values('std', std),
    'classes': None if classes is None else list(classes),
    'image_size': image_size,
    'target': target,
  }
  errors.check(
    len(facts['mean']) == len(facts['std']),
    f'mean has {len(facts["mean"])} numbers, std {len(facts["std"])}; give one '
    'for all channels, or one a channel',
  )
  normalisation.check_range(facts['mean'], facts['std'])
  facts = {name: value for name, value in facts.items() if value is not None}
  side = user_data.check_side_file(facts, str(path))
  leaves = tree.leaves_by_path(variables)
  arrays = {'/'.join(names): np.asarray(leaf) for names, leaf in leaves.items()}
  _check_class_names(classes, target, arrays)
  damaged = [name for name, x in arrays.items() if not np.isfinite(x).all()]
  errors.check(
    not damaged, f"'{''.join(damaged[:1])}' holds NaN or infinity; not saved"
  )
  weights.write(path, weights.StoredWeights(arrays, {}, suffix))
  files.write_json(path.with_name(f'{path.name}.json'), side)
  return path


def _channel_values(name: str, values: Any) -> list[float]:
  """The numbers of all channels.

  Raises:
    UserError: values that are no numbers.
  """
  # Not converted to float: None would become NaN.
  numbers = np.ravel(values)
  errors.check(
    numbers.dtype.kind in 'iuf',
    f'{name} is {errors.describe_value(values)}; give numbers, for all '
    'channels or one a channel',
  )
  return [float(number) for number in numbers]


def _check_class_names(
  classes: Sequence[str] | None,
  target: str | int | None,
  arrays: dict[str, np.ndarray],
) -> None:
  """Refuses class names and a target that the outputs do not have."""
  if classes is None and not isinstance(target, int):
    return
  count = weights.count_classes(arrays)
  labels = range(count) if classes is None else classes
  errors.check(
    len(labels) == count,
    f'classes has {errors.count_text(len(labels), "name")}, the network '
    f'{count} outputs; name each, in their order',
  )
  if isinstance(target, int):
    errors.check(
      0 <= target < count,
      f'target is {target}; the network has outputs 0 to {count - 1}',
    )
  elif target and target not in labels and not target.isdigit():
    raise errors.unknown_name('target', target, map(str, labels))


def _count_changes(variables: Variables, others: Variables) -> int:
  pairs = zip(jax.tree.leaves(variables), jax.tree.leaves(others), strict=True)
  return sum(int(np.sum(np.asarray(x) != np.asarray(y))) for x, y in pairs)


def _describe_precision(
  network: ShippedNetwork,
  edited: Variables,
  written: Variables,
  arrays: dict[str, np.ndarray],
) -> tuple[str, ...]:
  """Sentences on an edit that the file's numbers cannot hold exactly."""
  stored, names = network.stored.arrays, network.layout.names.values()
  widened = [n for n in names if arrays[n].dtype != stored[n].dtype]
  notes = [
    f"'{name}' is written as {arrays[name].dtype}, because its values exceed "
    f'the range of {stored[name].dtype}.'
    for name in dict.fromkeys(widened)
  ]
  intended = _count_changes(network.variables, edited)
  lost = _count_changes(edited, written)
  if not intended or not lost:
    return tuple(notes)
  kinds = ', '.join(sorted({str(stored[n].dtype) for n in names}))
  changed = _count_changes(network.variables, written)
  if not changed:
    notes.append(
      f'The edit is below the resolution of the file ({kinds}): the written '
      'weights equal the given ones. Convert the file to float32 and repeat.'
    )
    return tuple(notes)
  notes.append(
    f'The file holds {kinds}: the edit changes {intended:,} weights, of which '
    f'{changed:,} change in the file. Rounding is '
    f'{_relative_rounding(network.variables, edited, written):.0%} of the '
    'edit. All numbers after the edit are of the file.'
  )
  return tuple(notes)


def _relative_rounding(
  variables: Variables, edited: Variables, written: Variables
) -> float:
  """The rounding's length over that of the edit."""
  rounding = tree.task_vector(edited, written)
  return float(
    tree.norm(rounding) / tree.norm(tree.task_vector(variables, edited))
  )
