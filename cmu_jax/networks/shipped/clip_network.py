"""A user's CLIP as a classifier: its image tower and the names of classes."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from cmu_jax.core import errors, files
from cmu_jax.core.types import Model, Variables
from cmu_jax.data.sources import pictures
from cmu_jax.networks import clip, weights
from cmu_jax.networks.clip import architecture, heads, prompts, zero_shot
from cmu_jax.networks.shipped import class_order
from cmu_jax.networks.weights.names import Layout

NAMES = (*clip.PUBLISHED, *clip.FROM_CONFIG)
_OPTIONS = ('head', 'sentences', 'image_size', 'dtype')


class ClipClassifier(NamedTuple):
  """A CLIP with a head of class names.

  Attributes:
    model: image tower and frozen head.
    variables: the head is among the statistics.
    loaded: the CLIP itself.
    layout: the place of the image tower in the file.
    head: as made, or as read from a file.
    notes: inferred facts, in words.
  """

  model: Model
  variables: Variables
  loaded: clip.LoadedClip
  layout: Layout
  head: heads.Head
  notes: tuple[str, ...]


def load_classifier(
  path: str,
  name: str,
  class_names: tuple[str, ...],
  options: Mapping[str, Any],
) -> ClipClassifier:
  """Loads a CLIP and makes its head, or reads it.

  Args:
    path: of the weights.
    name: one of NAMES.
    class_names: in the order of the outputs.
    options: 'head' (an .npz from an earlier run), 'sentences' (a data set
      whose sentences are taken, such as cifar10), 'image_size', 'dtype'.

  Raises:
    UserError: weights that do not fit, a head of other classes or of another
      CLIP.
  """
  loaded = clip.load(path, name, **_size_changes(options))
  # Before the head is made, so that a wrong name fails early.
  sentences = _choose_templates(options.get('sentences'))
  if options.get('head'):
    head = _read_head(str(options['head']), class_names, loaded.sizes.embed)
  else:
    head = heads.make(loaded, class_names, sentences)
  # Only the image tower is repaired: the text tower goes back unchanged.
  prefixes = tuple(f'params/{part}/' for part in zero_shot.IMAGE_PARTS)
  names = {
    path: stored
    for path, stored in loaded.layout.names.items()
    if path.startswith(prefixes)
  }
  note = (
    f'The head is made of {len(head.class_names)} class names in '
    f'{len(head.templates)} sentences and stays as it is; '
    f'activation {loaded.sizes.vision.activation}.'
  )
  dtype = options.get('dtype', 'float32')
  return ClipClassifier(
    zero_shot.model(loaded.sizes, len(class_names), dtype),
    zero_shot.variables(loaded.variables, head.kernel),
    loaded,
    loaded.layout._replace(names=names),
    head,
    (note,),
  )


def resolve_sizes(
  path: str, name: str, options: Mapping[str, Any]
) -> clip.Sizes:
  """Determines the sizes of a CLIP before its weights are read.

  Raises:
    UserError: no weights, an unknown option, or an error of
      `clip.resolve_sizes`.
  """
  for option in options:
    if option not in _OPTIONS:
      raise errors.unknown_name(f'option of model {name!r}', option, _OPTIONS)
  location = weights.locate(path)
  return clip.resolve_sizes(location, name, **_size_changes(options))


def _size_changes(options: Mapping[str, Any]) -> dict[str, Any]:
  return {k: v for k, v in options.items() if k == 'image_size'}


def choose_class_names(
  names: Any,
  sets: Sequence[class_order.ShownClasses],
  options: Mapping[str, Any],
) -> class_order.ClassOrder:
  """Determines the class names that a head is made of.

  Args:
    names: as the user gave them, or None.
    sets: of pictures, whose folders show classes.
    options: of the model; a stored head knows its classes.

  Raises:
    UserError: the names of the classes are unknown or not distinct.
  """
  if names is not None:
    words = tuple(map(str, names))
  elif options.get('head'):
    # A saved head was made of sentences: its names need no check.
    words = heads.read(str(options['head'])).class_names
    return class_order.ClassOrder(words, False, 'of the head')
  else:
    present = (s.names for s in sets if s.names != ('',))
    words = tuple(sorted({name for folders in present for name in folders}))
  errors.check(
    len(set(words)) == len(words) > 1,
    f'the head of a CLIP is made of class names, and {len(set(words))} are '
    'known: give --classes=A,B,..., each name once',
  )
  # The head is made of the names, so that no order contradicts it.
  source = 'as given' if names is not None else "the folders' names"
  return class_order.ClassOrder(words, False, f'{source}; they make the head')


def check_image_size(sizes: clip.Sizes, image_size: Any) -> None:
  """Refuses an image size that is not the tower's."""
  errors.check(
    image_size is None or image_size == sizes.image_size,
    f'--image_size is {image_size}, but this CLIP sees {sizes.image_size} '
    'pixels: leave it out, pictures are resized and cropped as it was trained',
  )


def picture_reader(sizes: clip.Sizes) -> pictures.PictureReader:
  """Reads a picture as the tower sees it: uint8 [side, side, 3]."""
  # The towers were trained on pictures prepared in two different ways.
  resize = (
    zero_shot.squeeze if sizes.kind == 'siglip' else zero_shot.crop_centre
  )
  use = functools.partial(resize, side=sizes.image_size)
  return functools.partial(pictures.read_picture, use=use)


def write_head_and_config(
  classifier: ClipClassifier, source: str, written: pathlib.Path
) -> None:
  """Writes the files that `load_classifier` needs beside written weights."""
  # With the head saved, a later run needs no text tower.
  heads.save(written.parent / 'head.npz', classifier.head)
  if clip.find_config(source) is None:
    # The sizes of a published CLIP: the folder's own config.json is another.
    config = architecture.to_config(classifier.loaded.sizes)
    files.write_json(clip.config_path(written), config)
  else:
    clip.config_writer(source)(written)


def _choose_templates(name: Any) -> tuple[str, ...]:
  if name is None:
    return prompts.IMAGENET
  # `prompts.for_dataset` would answer a typing error by ImageNet's.
  if name not in prompts.BY_DATASET:
    raise errors.unknown_name(
      'data set with sentences', str(name), prompts.BY_DATASET
    )
  return prompts.BY_DATASET[name]


def _read_head(
  path: str, class_names: tuple[str, ...], embed: int
) -> heads.Head:
  """Reads a head and puts its columns in the order of the given classes."""
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
  # The classes may be given in another order than in the earlier run.
  order = [head.class_names.index(name) for name in class_names]
  columns = jnp.asarray(np.asarray(head.kernel)[:, order])
  return heads.Head(columns, class_names, head.templates)
