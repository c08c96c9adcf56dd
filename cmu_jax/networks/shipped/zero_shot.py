"""A user's CLIP as a classifier: its image tower and the names of classes."""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from cmu_jax.core import errors, files
from cmu_jax.core.types import Model, Variables
from cmu_jax.data.sources import pictures
from cmu_jax.networks import clip, weights, zero_shot
from cmu_jax.networks.clip import heads, preprocess, templates
from cmu_jax.networks.weights.names import Layout

NAMES = (*clip.KNOWN, *clip.ANY)
_OPTIONS = ('head', 'sentences', 'image_size', 'dtype')


class Classifier(NamedTuple):
  """What a CLIP and some class names make.

  Attributes:
    model: image tower and frozen head.
    variables: the head is among the statistics.
    found: the CLIP itself.
    layout: where in the file the image tower is.
    head: as made, or as read from a file.
    notes: what was inferred, in words.
  """

  model: Model
  variables: Variables
  found: clip.Loaded
  layout: Layout
  head: heads.Head
  notes: tuple[str, ...]


def classifier(
  path: str,
  name: str,
  class_names: tuple[str, ...],
  options: Mapping[str, Any],
) -> Classifier:
  """Loads a CLIP and makes its head, or reads one.

  Args:
    path: of the weights.
    name: one of NAMES.
    class_names: in the order of the outputs.
    options: 'head' (an .npz from an earlier run), 'sentences' (a data set
      whose sentences are taken, such as cifar10), 'image_size', 'dtype'.

  Raises:
    UserError: weights that do not fit, a head of other
      classes or of another CLIP.
  """
  found = clip.load(path, name, **_changes(options))
  sentences = _sentences(options.get('sentences'))
  if options.get('head'):
    head = _stored(str(options['head']), class_names, found.sizes.embed)
  else:
    head = heads.make(found, class_names, sentences)
  variables = zero_shot.variables(found.variables, head.kernel)
  parts = tuple(f'params/{part}/' for part in zero_shot.TOWER)
  kept = {p: n for p, n in found.layout.names.items() if p.startswith(parts)}
  note = (
    f'The head is made of {len(head.class_names)} class names in '
    f'{len(head.templates)} sentences and stays as it is; '
    f'activation {found.sizes.vision.activation}.'
  )
  return Classifier(
    zero_shot.model(
      found.sizes, len(class_names), options.get('dtype', 'float32')
    ),
    variables,
    found,
    found.layout._replace(names=kept),
    head,
    (note,),
  )


def sizes(path: str, name: str, options: Mapping[str, Any]) -> clip.Sizes:
  """The sizes of a CLIP, before its weights are read.

  Raises:
    UserError: no weights, an unknown option, or what `clip.which` refuses.
  """
  for option in options:
    if option not in _OPTIONS:
      raise errors.unknown(f'option of model {name!r}', option, _OPTIONS)
  return clip.which(weights.there(path), name, **_changes(options))


def _changes(options: Mapping[str, Any]) -> dict[str, Any]:
  return {k: v for k, v in options.items() if k == 'image_size'}


def named(
  given: Any, folders: tuple[str, ...], options: Mapping[str, Any]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """The class names that a head is made of, and a note.

  Args:
    given: as the user said, or None.
    folders: class folders of the pictures; ('',) where there are none.
    options: of the model; a stored head knows its classes.

  Raises:
    UserError: nobody says what the classes are called.
  """
  if given is not None:
    words = tuple(map(str, given))
  elif options.get('head'):
    return heads.read(str(options['head'])).class_names, ()
  else:
    words = folders
  errors.check(
    len(set(words)) == len(words) > 1,
    f'the head of a CLIP is made of class names, and {len(set(words))} are '
    'known: give --classes=A,B,..., each name once',
  )
  note = 'The classes are taken to be the folders in alphabetical order.'
  return words, () if given is not None else (note,)


def side_of(found: clip.Sizes, said: Any) -> None:
  """Refuses an image size that is not the tower's."""
  errors.check(
    said is None or said == found.image_size,
    f'--image_size is {said}, but this CLIP sees {found.image_size} pixels: '
    'leave it out, pictures are resized and cropped as it was trained',
  )


def reader(found: clip.Sizes) -> pictures.Reader:
  """Reads a picture as the tower sees it: uint8 [side, side, 3]."""
  how = preprocess.squeezed if found.kind == 'siglip' else preprocess.pixels
  cut = functools.partial(how, side=found.image_size)
  return functools.partial(pictures.opened, use=cut)


def write_beside(one: Classifier, source: str, out: pathlib.Path) -> None:
  """What weights need beside them to be read again: head and config.json."""
  heads.save(out / 'head.npz', one.head)
  config = clip.beside(source)
  if config is not None:
    files.write_text(out / 'config.json', config.read_text(encoding='utf-8'))


def _sentences(name: Any) -> tuple[str, ...]:
  if name is None:
    return templates.IMAGENET
  if name not in templates.BY_DATASET:
    raise errors.unknown(
      'data set with sentences', str(name), templates.BY_DATASET
    )
  return templates.of(name)


def _stored(path: str, class_names: tuple[str, ...], embed: int) -> heads.Head:
  """A head from a file, its columns in the order of these classes."""
  head = heads.read(path)
  errors.check(
    set(head.class_names) == set(class_names),
    f'{path} is a head of {", ".join(head.class_names[:4])}..., the classes '
    f'are {", ".join(class_names[:4])}...; make one for these',
  )
  errors.check(
    head.kernel.shape[0] == embed,
    f'{path} is a head for embeddings of {head.kernel.shape[0]}, this CLIP has '
    f'{embed}; make one with these weights',
  )
  order = [head.class_names.index(name) for name in class_names]
  columns = jnp.asarray(np.asarray(head.kernel)[:, order])
  return heads.Head(columns, class_names, head.templates)
