"""A user's network put together from its weights and a folder of pictures.

Facts that the user did not give are read from the weights' side file, from the
weights and from the pictures. A fact that is still unknown gives one line that
asks for it.
"""

import functools
import itertools
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cmu_jax import networks
from cmu_jax.core import errors, literals
from cmu_jax.core.types import InputStep, Model, Network, Variables
from cmu_jax.data import input_step, normalisation
from cmu_jax.data.sources import image_folder
from cmu_jax.data.sources.pictures import PictureReader
from cmu_jax.networks import clip, weights
from cmu_jax.networks.clip import zero_shot
from cmu_jax.networks.shipped import (
  best_family,
  class_order,
  clip_network,
  inferred_sizes,
  user_data,
)
from cmu_jax.networks.weights import names
from cmu_jax.networks.weights.names import Layout


class ShippedNetwork(NamedTuple):
  """A network with its weights.

  Attributes:
    model: the network.
    variables: its weights, as shipped.
    stored: the file of the weights.
    layout: the place of each of them in the file.
    inputs: raw pixels to network input.
    pictures: of the folder that it was fitted to.
    order: names of the classes in the order of the outputs.
    mean: of the normalisation.
    std: likewise.
    target: from a flag or the side file, or None.
    notes: inferred facts, in words.
    side: the fields of the weights' side file, {} without one.
    reader: reads pictures as the network needs them; None for full pictures.
    write_companions: (path of written weights) -> None, writes the files that
      they need beside them; None where there are none.
    channels: their order, 'rgb' or 'bgr'.
  """

  model: Model
  variables: Variables
  stored: weights.StoredWeights
  layout: Layout
  inputs: InputStep
  pictures: image_folder.FolderPictures
  order: class_order.ClassOrder
  mean: tuple[float, ...]
  std: tuple[float, ...]
  target: Any
  notes: tuple[str, ...]
  side: dict[str, Any]
  reader: PictureReader | None = None
  write_companions: Callable[[pathlib.Path], None] | None = None
  channels: str = 'rgb'

  @property
  def class_names(self) -> tuple[str, ...]:
    return self.order.names

  @property
  def classifier(self) -> Network:
    return Network(self.model, self.inputs)


class Backbone(NamedTuple):
  """A network whose body was loaded.

  Attributes:
    model: body and head.
    variables: those of the head are zero: every class is as likely.
    stored: the file.
    layout: the place of each leaf of the body in the file.
  """

  model: Model
  variables: Variables
  stored: weights.StoredWeights
  layout: Layout


class _Request(NamedTuple):
  """A network by name, and where it is.

  Attributes:
    path: of the weights.
    family: a key of `networks.REGISTRY`, or a CLIP.
    options: of the family.
    root: folder of pictures.
    sets: flag -> root of each set of pictures with classes.
  """

  path: str
  family: str
  options: Mapping[str, Any]
  root: str
  sets: Mapping[str, str]

  @property
  def has_classes(self) -> bool:
    """True if the pictures have classes themselves."""
    return self.root in self.sets.values()

  def list_classes(self) -> list[class_order.ShownClasses]:
    """Lists the classes that each set shows."""
    return list(itertools.starmap(user_data.list_classes, self.sets.items()))


def load(
  path: str,
  model: str,
  root: str,
  overrides: Mapping[str, Any],
  sets: Mapping[str, str] | None = None,
) -> ShippedNetwork:
  """Reads weights and the pictures that fit them.

  Args:
    path: `.safetensors`, `.npz` or an Orbax directory; FILE.json beside it may
      hold the facts that `overrides` lacks.
    model: name of a network, with options: 'resnet18:stem=imagenet', or of a
      CLIP, whose head is made of class names: 'clip-vit-b16'.
    root: folder of pictures, in class folders or not.
    overrides: 'mean', 'std', 'channels', 'image_size', 'classes' and
      'target' as the user gave them; None is inferred.
    sets: flag -> root of each set of pictures with classes, the most important
      first, which may name the classes; None for `root` alone. Without `root`
      among them, its folders are no classes.

  Raises:
    UserError: a fact is missing, malformed or unknown, a mistake a line.
  """
  family, options = _parse_model(model)
  sets = {'': root} if sets is None else sets
  request = _Request(path, family, options, root, sets)
  if family in clip_network.NAMES:
    return _load_clip(request, overrides)
  # Options of the command line take precedence over config.json.
  config = _read_config_options(path, family)
  request = request._replace(options={**config, **options})
  stored = weights.read(path)
  side = user_data.read_side_file(path)
  facts = _merge_facts(path, overrides, side, {})
  heads = names.head_names(networks.REGISTRY[family].torch_name)
  # Names of another family are said to be that, not to lack a head.
  with best_family.name_other(request.family, request.options, stored.arrays):
    classes = weights.count_classes(stored.arrays, heads)
  # Said first: everything else depends on it.
  order = class_order.resolve(facts['classes'], classes, request.list_classes())
  class_order.announce(order)
  network, variables, layout, pictures, notes = _fit_network(
    request, facts, stored, classes
  )
  mean, std = user_data.check_normalisation(facts, pictures)
  return ShippedNetwork(
    network,
    variables,
    stored,
    layout,
    input_step.make(mean, std, channels=facts['channels']),
    pictures,
    order,
    mean,
    std,
    facts['target'],
    (*_reading_notes(stored, layout), *notes),
    side,
    write_companions=clip.config_writer(path) if config else None,
    channels=facts['channels'],
  )


def load_backbone(
  path: os.PathLike | str,
  name: str,
  num_classes: int,
  image_shape: tuple[int, int, int],
  **options: Any,
) -> Backbone:
  """Loads all of a network but its head, which the file may lack.

  Args:
    path: of the weights; a config.json beside them gives the options of
      families that have one (dinov2).
    name: of a family, see `networks.REGISTRY`.
    num_classes: k of the new head.
    image_shape: (h, w, c).
    **options: of the family; they take precedence over config.json.

  Raises:
    UserError: an unknown family, or weights that do not fit, a mistake a line.
  """
  if name not in networks.REGISTRY:
    raise errors.unknown_name('model', name, networks.REGISTRY)
  options = {**_read_config_options(path, name), **options}
  # Shapes alone: random values would be replaced by those of the file.
  model = networks.make(name, num_classes, image_shape, **options)
  shapes = inferred_sizes.variable_shapes(model, image_shape)
  stored = weights.read(path)
  torch_name = networks.REGISTRY[name].torch_name
  # A head in the file is that of other classes.
  heads = names.head_names(torch_name)
  arrays = {
    n: x for n, x in stored.arrays.items() if not names.is_head(n, heads)
  }
  params = {k: v for k, v in shapes.params.items() if k != 'head'}
  body, layout = weights.fit(
    arrays,
    Variables(params, shapes.batch_stats),
    torch_name,
    pathlib.Path(path).name,
  )
  head = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), shapes.params['head']
  )
  variables = Variables({**body.params, 'head': head}, body.batch_stats)
  return Backbone(model, variables, stored, layout)


def _reading_notes(
  stored: weights.StoredWeights, layout: Layout
) -> tuple[str, ...]:
  """Sentences on files, names and arrays that were not taken as they are."""
  return (*stored.notes, *names.describe(stored.arrays, layout))


def _read_config_options(
  path: os.PathLike | str, family: str
) -> dict[str, Any]:
  """Reads a family's options from the config.json beside the weights."""
  read = networks.REGISTRY[family].read_options
  config = clip.find_config(path)
  return {} if read is None or config is None else read(config)


def _load_clip(
  request: _Request, overrides: Mapping[str, Any]
) -> ShippedNetwork:
  """Loads a CLIP with a head of class names, and pictures in its format."""
  path, family, options, root, _ = request
  side = user_data.read_side_file(path)
  sizes = clip_network.resolve_sizes(path, family, options)
  # The normalisation of a CLIP's training is known, unlike that of others.
  usual = zip(('mean', 'std'), zero_shot.normalisation(sizes.kind), strict=True)
  facts = _merge_facts(path, overrides, side, dict(usual))
  # The pictures are resized for the tower, never the tower for the pictures.
  clip_network.check_image_size(sizes, facts['image_size'])
  reader = clip_network.picture_reader(sizes)
  # Picture files alone: an archive was resized by another filter than CLIP's.
  order = clip_network.choose_class_names(
    facts['classes'], request.list_classes(), options
  )
  class_order.announce(order)
  pictures = user_data.read_pictures(root, None, 3, reader, request.has_classes)
  classifier = clip_network.load_classifier(path, family, order.names, options)
  mean, std = user_data.check_normalisation(facts, pictures)
  return ShippedNetwork(
    classifier.model,
    classifier.variables,
    classifier.loaded.stored,
    classifier.layout,
    input_step.make(mean, std, channels=facts['channels']),
    pictures,
    order,
    mean,
    std,
    facts['target'],
    (
      *_reading_notes(classifier.loaded.stored, classifier.loaded.layout),
      *classifier.notes,
    ),
    side,
    reader,
    functools.partial(clip_network.write_head_and_config, classifier, path),
    facts['channels'],
  )


def _fit_network(
  request: _Request,
  facts: Mapping[str, Any],
  stored: weights.StoredWeights,
  classes: int,
) -> tuple[
  Model, Variables, Layout, image_folder.FolderPictures, tuple[str, ...]
]:
  """Finds the colours, the stem and the sizes that the weights are for.

  Returns:
    The network, its variables and their layout, the pictures, and notes.
  """
  path, family, options, root, _ = request
  # A single mean for all channels leaves open whether pictures are grey. The
  # colours of the pictures are tried first, then the weights decide. They also
  # decide the stem if it was not given.
  colours = (None, 1, 3) if len(facts['mean']) == 1 else (3,)
  refusals: list[errors.UserError] = []
  for channels in colours:
    pictures = user_data.read_pictures(
      root, facts['image_size'], channels, has_classes=request.has_classes
    )
    shape = pictures.image.shape[1:]
    for variant, note in inferred_sizes.list_variants(
      family, options, classes, shape, stored.arrays
    ):
      try:
        model = networks.make(family, classes, shape, **variant)
        variables, layout = weights.fit(
          stored.arrays,
          inferred_sizes.variable_shapes(model, shape),
          networks.REGISTRY[family].torch_name,
          pathlib.Path(path).name,
        )
      except errors.UserError as error:
        refusals.append(error)
      else:
        return model, variables, layout, pictures, note
  # The first attempt is the most plausible, and so is its error.
  with best_family.name_other(family, options, stored.arrays, shape):
    raise refusals[0]


def _merge_facts(
  path: str,
  overrides: Mapping[str, Any],
  side: Mapping[str, Any],
  usual: Mapping[str, Any],
) -> dict[str, Any]:
  """Takes each fact from flags, side file or the network's custom, in order."""
  facts: dict[str, Any] = {}
  for field in user_data.SIDE_FIELDS:
    # 0 is a target and a mean: only None counts as absent.
    values = (source.get(field) for source in (overrides, side, usual))
    facts[field] = next((v for v in values if v is not None), None)
  facts['channels'] = facts['channels'] or 'rgb'
  errors.check(
    facts['mean'] is not None and facts['std'] is not None,
    'how the network normalises its pictures is not known: give --mean and '
    f'--std (of pixels between 0 and 1), or write {path}.json with '
    '{"mean": [...], "std": [...]}',
  )
  sizes = len(facts['mean']), len(facts['std'])
  errors.check(
    {*sizes} <= {1, 3},
    f'mean has {sizes[0]} numbers and std {sizes[1]}; give one for all '
    'channels, or three for red, green and blue',
  )
  # Before the weights and the pictures are bound, which takes longer.
  normalisation.check_range(facts['mean'], facts['std'], user_data.STATISTICS)
  return facts


def _parse_model(text: str) -> tuple[str, dict[str, Any]]:
  """'resnet18:stem=imagenet,width=32' -> ('resnet18', {...})."""
  name, _, items = text.partition(':')
  options: dict[str, Any] = {}
  for item in filter(None, items.split(',')):
    key, equals, value = item.partition('=')
    errors.check(
      equals and value,
      f"--model option '{item}' needs a value: write {key}=VALUE",
    )
    options[key.strip()] = literals.parse_untyped(value.strip())
  if name not in (choices := (*networks.REGISTRY, *clip_network.NAMES)):
    raise errors.unknown_name('--model', name, choices)
  return name, options
