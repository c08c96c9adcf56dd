"""What is to be repaired: network, weights and bad samples, put together.

What the user did not say is read from the weights' side file, from the weights
and from the pictures; what then is still unknown is one line that asks for it.
"""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmu_jax import errors, inputs, literals, metrics, models, weights
from cmu_jax.data import folder
from cmu_jax.repair.request import Request
from cmu_jax.types import Batch, InputStep, Model, Variables
from cmu_jax.weights import files, names

_SIDE = ('mean', 'std', 'image_size', 'class_names', 'target')


class Subject(NamedTuple):
  """A network and its bad samples.

  Attributes:
    model: the network.
    variables: its weights, as shipped.
    stored: the file they came from.
    layout: where in the file each of them is.
    inputs: raw pixels to network input.
    bad: the bad samples with the labels that the folder gives them; for poison
      all are of the target class.
    test: ordinary pictures with true labels, or None.
    class_names: one name a class.
    target: of the trigger; None for label noise.
    notes: what was inferred, in words.
  """

  model: Model
  variables: Variables
  stored: weights.Stored
  layout: names.Layout
  inputs: InputStep
  bad: Batch
  test: Batch | None
  class_names: tuple[str, ...]
  target: int | None
  notes: tuple[str, ...]


def subject(request: Request) -> Subject:
  """Reads everything that a repair needs.

  Raises:
    UserError: what is missing, malformed or unknown, a mistake a line.
  """
  stored = weights.read(request.weights)
  known = _known(request)
  classes = names.num_classes(stored.arrays)
  model, variables, layout, pictures = _fitting(request, known, stored, classes)
  shape = pictures.image.shape[1:]
  step = inputs.make(tuple(known['mean']), tuple(known['std']))
  named, note = _class_names(known['class_names'], classes, pictures.names)
  image = jnp.asarray(pictures.image)
  if request.kind == 'poison':
    label = jnp.zeros(len(image), jnp.int32)
    seen = metrics.predict(model, step, variables, Batch(image, label), 256)
    target, why = _target(known['target'], named, pictures.names, seen)
    bad = Batch(image, jnp.full(len(image), target, jnp.int32))
    note = (*note, *why)
  else:
    target = None
    bad = Batch(image, jnp.asarray(_labels(request.proxy, pictures, named)))
  test = _test(request.test, shape, named)
  return Subject(
    model, variables, stored, layout, step, bad, test, named, target, note
  )


def _fitting(
  request: Request, known: dict[str, Any], stored: weights.Stored, classes: int
) -> tuple[Model, Variables, names.Layout, folder.Pictures]:
  """The network and the pictures in the colours that its weights are for.

  With one mean for all channels it is not said whether pictures are grey: the
  weights decide, after what the pictures are themselves.
  """
  family, options = _model(request.model)
  grey_or_rgb = (None, 1, 3) if len(known['mean']) == 1 else (3,)
  refused: list[errors.UserError] = []
  for channels in grey_or_rgb:
    pictures = folder.pictures_in(
      pathlib.Path(request.proxy).expanduser(), known['image_size'], channels
    )
    shape = pictures.image.shape[1:]
    model = models.make(family, classes, shape, **options)
    template = jax.eval_shape(
      model.init, jax.random.key(0), jnp.zeros((1, *shape))
    )
    try:
      fitted = weights.fit(
        stored.arrays,
        template,
        models.REGISTRY[family].torch_name,
        pathlib.Path(request.weights).name,
      )
    except errors.UserError as error:
      refused.append(error)
    else:
      return model, *fitted, pictures
  raise refused[0]


def _known(request: Request) -> dict[str, Any]:
  """What flags and side file say; flags come first."""
  side = files.side_file(request.weights)
  for name in side:
    if name not in (*_SIDE, 'model', 'notes'):
      raise errors.unknown('field of the side file', name, _SIDE)
  said = {
    'mean': request.mean,
    'std': request.std,
    'image_size': request.image_size,
    'class_names': request.classes,
    'target': request.target,
  }
  known = {k: side.get(k) if v is None else v for k, v in said.items()}
  errors.check(
    known['mean'] is not None and known['std'] is not None,
    'how the network normalises its pictures is not known: give --mean and '
    f'--std (of pixels between 0 and 1), or write {request.weights}.json with '
    '{"mean": [...], "std": [...]}',
  )
  return known


def _model(text: str) -> tuple[str, dict[str, Any]]:
  """'resnet18:stem=imagenet,width=32' -> ('resnet18', {...})."""
  name, _, rest = text.partition(':')
  options: dict[str, Any] = {}
  for item in filter(None, rest.split(',')):
    key, equals, value = item.partition('=')
    errors.check(
      equals and value,
      f"--model option '{item}' needs a value: write {key}=VALUE",
    )
    options[key.strip()] = literals.free(value.strip())
  if name not in models.REGISTRY:
    raise errors.unknown('--model', name, models.REGISTRY)
  return name, options


def _class_names(
  given: Any, classes: int, found: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """The names of all classes in the order of the outputs, and a note."""
  if given is not None:
    names_ = tuple(map(str, given))
    errors.check(
      len(names_) == classes and len(set(names_)) == classes,
      f'{len(set(names_))} different class names are given, the network has '
      f'{classes} outputs; name each once, in their order',
    )
    return names_, ()
  numbers = tuple(map(str, range(classes)))
  if set(found) <= {*numbers, ''}:
    return numbers, ()
  if len(found) == classes:
    return found, (
      'The classes are taken to be the folders in alphabetical order.',
    )
  raise errors.UserError(
    f'the network has {classes} outputs, the folder {len(found)} class folders '
    f'({", ".join(found[:4])}{"..." if len(found) > 4 else ""}): give '
    '--classes=A,B,... in the order of the outputs'
  )


def _labels(
  root: str, pictures: folder.Pictures, named: tuple[str, ...]
) -> np.ndarray:
  """Class indices of pictures that lie in folders named after classes."""
  errors.check(
    pictures.names != ('',),
    f'{root} has no class folders: put each picture in the folder of its class '
    f'({", ".join(named[:3])}, ...)',
  )
  for name in pictures.names:
    if name not in named:
      raise errors.unknown(f'class folder in {root}', name, named)
  index = np.array([named.index(name) for name in pictures.names], np.int32)
  return index[pictures.group]


def _target(
  given: Any,
  named: tuple[str, ...],
  found: tuple[str, ...],
  seen: np.ndarray,
) -> tuple[int, tuple[str, ...]]:
  """Where the trigger leads, and how that is known."""
  if given is not None:
    text = str(given)
    if text in named:
      return named.index(text), ()
    if text.isdecimal() and int(text) < len(named):
      return int(text), ()
    raise errors.unknown('--target', text, named)
  if len(found) == 1 and found[0] in named:
    return named.index(found[0]), (
      f"The trigger leads to class '{found[0]}', after the folder's name.",
    )
  counts = np.bincount(seen, minlength=len(named))
  target, share = int(counts.argmax()), counts.max() / counts.sum()
  errors.check(
    share >= 0.5,
    f'the bad samples are sent to many classes, most often {share:.0%} to '
    f"'{named[target]}': where does the trigger lead? give --target",
  )
  return target, (
    f"The trigger leads to class '{named[target]}', where the network sends "
    f'{share:.0%} of the bad samples.',
  )


def _test(
  root: str | None, shape: tuple[int, ...], named: tuple[str, ...]
) -> Batch | None:
  if root is None:
    return None
  pictures = folder.pictures_in(
    pathlib.Path(root).expanduser(),
    shape[0] if shape[0] == shape[1] else None,
    shape[2],
  )
  label = _labels(root, pictures, named)
  return Batch(jnp.asarray(pictures.image), jnp.asarray(label))
