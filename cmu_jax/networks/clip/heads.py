"""Zero-shot heads: a linear classifier made of sentences, and its file.

Each class is the mean of its unit-length sentences, scaled to unit length again
and multiplied by exp(logit_scale), as in arXiv 2103.00020, section 3.1.4. The
small .npz replaces text tower and tokenizer.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cmu_jax.core import errors, files, tree
from cmu_jax.data.sources import npz
from cmu_jax.networks.clip import loading, prompts, towers

# Texts of a compiled call. A call for each text would be slow, and all texts at
# once need memory in proportion.
_CHUNK = 64
_REMEDY = 'make one with cmu_jax.networks.clip.heads.save'


class Head(NamedTuple):
  """A frozen classifier on normalised image embeddings.

  Attributes:
    kernel: scaled unit columns, one a class, [e, k].
    class_names: in the order of the columns.
    templates: the sentences it was made of.
  """

  kernel: Float[Array, 'e k']
  class_names: tuple[str, ...]
  templates: tuple[str, ...]


def make(
  loaded: loading.LoadedClip,
  class_names: Sequence[str],
  sentences: Sequence[str] = prompts.IMAGENET,
) -> Head:
  """Makes the head of a CLIP for some classes.

  Args:
    loaded: a CLIP with a text tower.
    class_names: one a class; '_' stands for a space.
    sentences: each with one '{}' for the name.

  Raises:
    UserError: no text tower, no '{}', or a tower of another vocabulary.
  """
  errors.check(
    loaded.has_text,
    'these weights have no text tower, so that class names cannot be made a '
    'head; use the whole CLIP, or a head that was saved before (head=FILE.npz)',
  )
  for sentence in sentences:
    errors.check(
      sentence.count('{}') == 1,
      f"the sentence '{sentence}' must have {{}} once, for the class name",
    )
  errors.check(
    loaded.sizes.kind == 'clip' and loaded.sizes.vocabulary > prompts.END,
    f'these weights ({loaded.sizes.kind}, {loaded.sizes.vocabulary} tokens) '
    f"have another tokenizer than CLIP's {prompts.END + 1}: make the head with "
    'theirs (cmu_jax.networks.clip.heads.make_from_tokens), save it and give '
    'head=FILE.npz',
  )
  spelled = prompts.spell_class_names(class_names)
  texts = [s.replace('{}', name) for name in spelled for s in sentences]
  rows = embed_texts(loaded, texts).reshape(len(spelled), len(sentences), -1)
  return Head(
    _class_columns(loaded, rows), tuple(class_names), tuple(sentences)
  )


def make_from_tokens(
  loaded: loading.LoadedClip,
  ids: Int[np.ndarray, 'k s t'],
  class_names: Sequence[str],
  sentences: Sequence[str],
) -> Head:
  """Makes the head of weights with their own tokenizer, such as SigLIP's.

  Args:
    loaded: a CLIP or SigLIP with a text tower.
    ids: of every class in every sentence, padded as that tokenizer does it.
    class_names: k of them.
    sentences: s of them.

  Raises:
    UserError: no text tower, or ids outside its vocabulary.
  """
  errors.check(loaded.has_text, 'these weights have no text tower')
  sizes, shape = loaded.sizes, (len(class_names), len(sentences))
  errors.check(
    ids.shape[:2] == shape and ids.shape[2] <= sizes.context,
    f'ids have shape {ids.shape}; give [{shape[0]}, {shape[1]}, up to '
    f'{sizes.context}]: classes, sentences, tokens',
  )
  errors.check(
    ids.min() >= 0 and ids.max() < sizes.vocabulary,
    f'ids go from {ids.min()} to {ids.max()}; these weights know 0 to '
    f'{sizes.vocabulary - 1}: take their own tokenizer',
  )
  run = jax.jit(loading.bind(sizes).text)
  rows = jnp.stack([run(loaded.variables, jnp.asarray(row)) for row in ids])
  return Head(
    _class_columns(loaded, rows), tuple(class_names), tuple(sentences)
  )


def _class_columns(
  loaded: loading.LoadedClip, rows: Float[Array, 'k s e']
) -> Float[Array, 'e k']:
  # SigLIP stores its temperature as an array of one number.
  scale = jnp.exp(loaded.variables.params['logit_scale']).reshape(())
  means = towers.normalise_rows(rows).mean(1)
  return scale * towers.normalise_rows(means).T


def read_or_make(
  folder: os.PathLike | str,
  loaded: loading.LoadedClip,
  class_names: Sequence[str],
  sentences: Sequence[str] = prompts.IMAGENET,
) -> Head:
  """Reads the head from a file in `folder`, or calls `make` and saves it."""
  # The file's name is a digest of all that a head depends on: the text tower,
  # the classes and the sentences.
  digest = hashlib.sha256(
    json.dumps([list(class_names), list(sentences)]).encode()
  )
  for path, leaf in tree.leaves_by_path(loaded.variables.params).items():
    if path[0] not in ('vision_model', 'visual_projection'):
      digest.update(np.ascontiguousarray(leaf).data)
  file = pathlib.Path(folder) / f'{digest.hexdigest()[:24]}.npz'
  if file.is_file():
    return read(file)
  head = make(loaded, class_names, sentences)
  save(file, head)
  return head


def embed_texts(
  loaded: loading.LoadedClip, texts: Sequence[str]
) -> Float[Array, 'n e']:
  """Computes embeddings of texts, not normalised."""
  ids = prompts.encode(texts, loaded.sizes.context)
  # The causal mask hides all that follows the end token: short rows cost a
  # fraction of 77 tokens.
  ids = ids[:, : int((ids != 0).sum(1).max())]
  # Equal chunks are compiled once: repeats of the last text fill the last one.
  missing = -len(ids) % min(_CHUNK, len(ids))
  ids = np.pad(ids, ((0, missing), (0, 0)), 'edge')
  chunks = ids.reshape(-1, min(_CHUNK, len(texts)), ids.shape[1])
  run = jax.jit(loading.bind(loaded.sizes).text)
  embeddings = [run(loaded.variables, jnp.asarray(chunk)) for chunk in chunks]
  return jnp.concatenate(embeddings)[: len(texts)]


def save(path: os.PathLike | str, head: Head) -> None:
  """Writes a head as a small .npz of plain arrays."""
  files.write(
    path,
    lambda file: np.savez(
      file,
      kernel=np.asarray(head.kernel, np.float32),
      class_names=np.array(head.class_names),
      templates=np.array(head.templates),
    ),
  )


def read(path: os.PathLike | str) -> Head:
  """Reads a file that `save` wrote.

  Raises:
    UserError: another file.
  """
  path = files.expand(path)
  errors.check(path.is_file(), f'the head {path} does not exist')
  arrays = npz.read_arrays(path, _REMEDY)
  errors.check(
    {'kernel', 'class_names', 'templates'} <= set(arrays)
    and arrays['kernel'].ndim == 2
    and arrays['kernel'].shape[1] == len(arrays['class_names']),
    f'{path} is no head of ours; {_REMEDY}',
  )
  return Head(
    jnp.asarray(arrays['kernel'], jnp.float32),
    tuple(map(str, arrays['class_names'])),
    tuple(map(str, arrays['templates'])),
  )
