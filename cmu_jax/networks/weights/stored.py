"""The content of a weights file, with the checks that all formats share."""

import os
import pathlib
import re
import shlex
import zipfile
from typing import NamedTuple

import numpy as np
from jax import numpy as jnp

from cmu_jax.core import errors, files
from cmu_jax.core.types import PyTree

# HF's list of which array is in which file.
SHARD_INDEX = '.safetensors.index.json'
_PICKLE_SUFFIXES = (
  *('.pt', '.pth', '.th', '.bin', '.ckpt', '.tar', '.pkl', '.pickle'),
  *('.p', '.pk', '.joblib', '.torch', '.ptc', '.bin.index.json'),
)
# Protocols 2 to 5 begin with these two bytes. So does a safetensors file whose
# header has 640 bytes, for example; zeros and a brace follow there.
_PICKLE_START = re.compile(rb'\x80[\x02-\x05](?!\0{6}\{)')
# Finds the state dict in a checkpoint under any key: the dict that holds most
# tensors. The clones part tensors that share memory, which safetensors refuses.
_RECIPE = (
  'import sys, torch; from safetensors.torch import save_file; '
  "c = torch.load(sys.argv[1], map_location='cpu', weights_only=True); "
  'd = max([c, *(v for v in c.values() if isinstance(v, dict))], '
  'key=lambda d: sum(map(torch.is_tensor, d.values()))); '
  'save_file({k: v.clone().contiguous() for k, v in d.items() '
  'if torch.is_tensor(v)}, sys.argv[2])'
)


class StoredWeights(NamedTuple):
  """The content of a weights file.

  Attributes:
    arrays: by name as stored; nested names are joined by '/'.
    metadata: texts of a safetensors header, for example; {} elsewhere.
    suffix: '.safetensors', '.npz', '.msgpack' or '' for an Orbax directory.
    names: of an Orbax directory, the tree with each array's name in its place;
      None where the names' slashes give the tree.
    notes: sentences on the reading that the user must know.
  """

  arrays: dict[str, np.ndarray]
  metadata: dict[str, str]
  suffix: str
  names: PyTree = None
  notes: tuple[str, ...] = ()


def locate(path: os.PathLike | str) -> pathlib.Path:
  """Returns the path of existing weights.

  Raises:
    UserError: there is nothing.
  """
  path = files.expand(path)
  index = path.with_name(f'{path.name}.index.json')
  hint = f'; they are in several files, give {index}' if index.is_file() else ''
  errors.check(path.exists(), f'the weights {path} do not exist{hint}')
  return path


def refuse_pickle(path: pathlib.Path) -> None:
  """Refuses a pickle, by its name or by its bytes.

  Raises:
    UserError: with a command that converts a checkpoint of PyTorch.
  """
  if path.is_file() and _is_pickle(path):
    raise errors.UserError(
      f'{path} is a pickle, which can run any code when it is opened, so it is '
      'never opened here; where it is a checkpoint of PyTorch, convert it once '
      f'where PyTorch is: {conversion_command(path)}'
    )


def conversion_command(path: pathlib.Path) -> str:
  """A shell command that converts a checkpoint of PyTorch to safetensors."""
  # Without its folder: the user may convert it on another machine.
  files = (path.name, f'{path.name.partition(".")[0] or "w"}.safetensors')
  return f'python -c "{_RECIPE}" {shlex.join(files)}'


def _is_pickle(path: pathlib.Path) -> bool:
  if path.name.lower().endswith(_PICKLE_SUFFIXES):
    return True
  try:
    with path.open('rb') as file:
      if _PICKLE_START.match(file.read(9)):
        return True
    # Since version 1.6, torch.save writes a zip with a pickle in it.
    with zipfile.ZipFile(path) as archive:
      return any(name.endswith('data.pkl') for name in archive.namelist())
  except (OSError, zipfile.BadZipFile):
    # The reader of the format has better words for a damaged file.
    return False


def restore_bfloat16(array: np.ndarray) -> np.ndarray:
  """Returns the bfloat16 numbers of an .npz, which knows only their size."""
  # The format has no bfloat16: numpy.savez writes '|V2', two bytes a number.
  # No other type of numbers is written like that.
  raw = array.dtype.kind == 'V' and array.dtype.names is None
  if raw and array.dtype.itemsize == 2:
    return array.view(jnp.bfloat16)
  return array


def check_numbers(path: pathlib.Path, stored: StoredWeights) -> StoredWeights:
  """Returns weights all of whose arrays are numbers.

  Raises:
    UserError: there are no arrays, or one is of no numbers.
  """
  errors.check(stored.arrays, f'{path} holds no arrays')
  arrays = {name: restore_bfloat16(x) for name, x in stored.arrays.items()}
  for name, array in arrays.items():
    # NumPy knows bfloat16 as a type of another package, whose kind is 'V'.
    errors.check(
      array.dtype.kind in 'fiub' or array.dtype == jnp.bfloat16,
      f"{path}: '{name}' is of type {array.dtype}, which is no type of weights "
      "here; store it as float32, by x.astype('float32')",
    )
  return stored._replace(arrays=arrays)
