"""The picture files below a folder, and the files that are left out."""

import collections
import itertools
import os
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from cmu_jax.core import errors

# Raster formats that Pillow opens and that data sets come in.
SUFFIXES = (
  *('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.apng', '.webp', '.avif'),
  *('.bmp', '.dib', '.ppm', '.pgm', '.pbm', '.pnm', '.tif', '.tiff', '.gif'),
  *('.jp2', '.j2k', '.tga', '.pcx', '.sgi', '.qoi'),
)
# For messages: the full list would hide their point.
USUAL = '.jpg, .png, .webp, .bmp, .tif, .ppm, .gif, ...'
# A line for each of a thousand class folders would hide all other lines.
_MAX_LINES = 6


class PictureFiles(NamedTuple):
  """The files below a folder.

  Attributes:
    paths: pictures, in the order of their names; those of subfolders last.
    left_out: reason -> number of files.
    nested: number of pictures in subfolders.
  """

  paths: list[pathlib.Path]
  left_out: collections.Counter[str]
  nested: int


def is_picture_name(name: str) -> bool:
  """Returns whether a visible file of this name is read as a picture."""
  return name.lower().endswith(SUFFIXES) and not name.startswith('.')


def list_subfolders(root: pathlib.Path) -> list[str]:
  """Lists the visible folders in `root`, sorted by name."""
  # Hidden folders are left by file managers and version control.
  with os.scandir(root) as entries:
    names = [entry.name for entry in entries if entry.is_dir()]
  return sorted(name for name in names if not name.startswith('.'))


def list_loose(root: pathlib.Path) -> list[str]:
  """Lists the pictures in `root` itself, sorted by name."""
  with os.scandir(root) as entries:
    names = [entry.name for entry in entries if entry.is_file()]
  return sorted(filter(is_picture_name, names))


def _scan(
  folder: pathlib.Path, parents: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[tuple[pathlib.Path, str]]:
  """Yields each file below a folder with a reason to leave it out, or ''."""
  stat = folder.stat()
  identity = stat.st_dev, stat.st_ino
  # A link to a folder above would lead round for ever.
  if identity in parents:
    return
  with os.scandir(folder) as entries:
    ordered = sorted(entries, key=lambda entry: entry.name)
  for entry in ordered:
    if not entry.is_dir():
      reason = _refusal(entry)
      if reason is not None:
        yield folder / entry.name, reason
  for entry in ordered:
    if entry.is_dir() and entry.name.startswith('.'):
      yield folder / entry.name, 'hidden folder'
    elif entry.is_dir():
      yield from _scan(folder / entry.name, parents | {identity})


def _refusal(entry: os.DirEntry) -> str | None:
  """The reason to leave a file out; '' for a picture, None to pass it over."""
  path = pathlib.PurePath(entry.name)
  if path.name.startswith('.'):
    # Without a picture's suffix it is a file manager's, which nobody misses.
    return 'hidden picture' if path.suffix.lower() in SUFFIXES else None
  if not entry.is_file():
    return 'broken link' if entry.is_symlink() else 'special file'
  if is_picture_name(path.name):
    return ''
  return path.suffix.lower() or 'no suffix'


def list_pictures(folder: pathlib.Path) -> PictureFiles:
  """Lists the pictures of a class folder, its subfolders included.

  Raises:
    UserError: there is none.
    OSError: a folder cannot be read.
  """
  entries = list(_scan(folder))
  paths = [path for path, reason in entries if not reason]
  left_out = collections.Counter(reason for _, reason in entries if reason)
  errors.check(
    paths,
    f'the folder {folder} has no picture ({USUAL})'
    + (f', only {_count_text(left_out)}' if left_out else '')
    + '; add some or remove the folder',
  )
  nested = sum(path.parent != folder for path in paths)
  return PictureFiles(paths, left_out, nested)


def _count_text(counts: collections.Counter[str]) -> str:
  return ', '.join(f'{n} {reason}' for reason, n in sorted(counts.items()))


def remark_on_files(
  root: pathlib.Path, listed: dict[pathlib.Path, PictureFiles]
) -> None:
  """Says which files below `root` are not read, and which lie deeper.

  Args:
    root: the folder that the user named.
    listed: folder -> its files.
  """
  left_out = {folder: files.left_out for folder, files in listed.items()}
  if root not in listed:
    # Class folders were listed alone: files beside them are read by nobody.
    with os.scandir(root) as entries:
      files = [entry for entry in entries if not entry.is_dir()]
    reasons = [reason for entry in files if (reason := _refusal(entry))]
    left_out = {root: collections.Counter(reasons), **left_out}
  incomplete = {folder: n for folder, n in left_out.items() if n}
  for folder, counts in itertools.islice(incomplete.items(), _MAX_LINES):
    errors.remark(f'Left out of {folder}: no pictures ({_count_text(counts)}).')
  surplus = list(incomplete.values())[_MAX_LINES:]
  if surplus:
    total: collections.Counter[str] = sum(surplus, collections.Counter())
    errors.remark(
      f'Left out of {len(surplus)} further folders in {root}: no pictures '
      f'({_count_text(total)}).'
    )
  if root in listed:
    _remark_on_flat(root, listed[root])
    return
  deep = [folder for folder, files in listed.items() if files.nested]
  if deep:
    count = sum(listed[folder].nested for folder in deep)
    errors.remark(
      f'{errors.count_text(count, "picture")} in {root}: in subfolders of '
      f'{deep[0].name}{" and other folders" if len(deep) > 1 else ""}, read as '
      'pictures of the folder above.'
    )


def _remark_on_flat(root: pathlib.Path, listed: PictureFiles) -> None:
  """Says how many pictures of a set without classes lie in its subfolders."""
  places = [path.relative_to(root).parts for path in listed.paths]
  counts = collections.Counter(part[0] for part in places if len(part) > 1)
  if not counts:
    return
  names = [f'{name} ({n})' for name, n in sorted(counts.items())]
  surplus = len(names) - _MAX_LINES
  if surplus > 0:
    names = [*names[:_MAX_LINES], f'and {surplus} more']
  errors.remark(
    f'{listed.nested} of {errors.count_text(len(places), "picture")} in {root}:'
    f' in its subfolders {", ".join(names)}. All are read as one set, and the '
    'subfolders are no classes.'
  )
