"""The compiled programs: a training of K models, and what they leave behind.

On several devices each one has its share of the models and a copy of the data;
nothing passes between them.
"""

import functools
from collections.abc import Callable
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree, Shaped

from cmu_jax.core import jit, vectorize
from cmu_jax.core.types import Batch, Network, Variables
from cmu_jax.training import segment

Signals = tuple[tuple[str, Callable[..., jax.Array]], ...]
Devices = tuple[jax.Device, ...]

_AXIS = 'models'


def place_on_devices(tree: PyTree, devices: Devices) -> PyTree:
  """Arrays with the models along their first axis, shared out over devices."""
  if len(devices) == 1:
    return tree
  mesh = Mesh(devices, (_AXIS,))
  return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(_AXIS)))


def _shard(run: Callable, split: int, devices: Devices) -> Callable:
  """`run` on every device; its first `split` arguments are of its models."""
  if len(devices) == 1:
    return run

  def call(*args: Any) -> Any:
    models, whole = PartitionSpec(_AXIS), PartitionSpec()
    specs = (models,) * split + (whole,) * (len(args) - split)
    return jax.shard_map(
      run,
      mesh=Mesh(devices, (_AXIS,)),
      in_specs=specs,
      out_specs=models,
      check_vma=False,
    )(*args)

  return call


def in_blocks(run: Callable, split: int, block: int, threads: int) -> Callable:
  """`run` on one block of models after another, in threads.

  Whatever the group, a model is trained by the same program, at the same place
  of its block: its bits do not depend on the group. Threads, because small
  networks do not keep the cores of a CPU busy from within one program.

  Args:
    run: compiled; its first `split` arguments are of models.
    split: see `run`.
    block: models of its program; it divides their number.
    threads: how many blocks are under way at a time.
  """

  compiled: list[bool] = []

  def call(*args: Any) -> Any:
    count = jax.tree.leaves(args[0])[0].shape[0] // block
    if count == 1:
      return run(*args)

    def one(i: int) -> Any:
      own = jax.tree.map(lambda x: x[i * block : (i + 1) * block], args[:split])
      with jax.enable_x64(wide):
        return jax.block_until_ready(run(*own, *args[split:]))

    # A new thread has the global settings, not those of the caller's block.
    wide = jax.config.read('jax_enable_x64')
    # Threads that meet a new program would compile it once each.
    found = [] if compiled else [one(0)]
    compiled.append(True)
    with futures.ThreadPoolExecutor(threads) as pool:
      found += pool.map(one, range(len(found), count))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)

  return call


@functools.lru_cache(maxsize=16)
def training_program(
  recipe: segment.SegmentSpec, strategy: vectorize.Strategy, devices: Devices
) -> Callable:
  """(keys, state, rows, batch, start, stop) -> state, jitted.

  Args:
    recipe: the static part of the training.
    strategy: how the models of a device are driven, see `vectorize.over`.
    devices: that share the models; their number divides that of the models.

  Returns:
    Steps [start, stop) of all models; it donates the state.
  """

  def run(keys, state, rows, batch, start, stop):
    member = lambda k, s, r: segment.run_segment(
      recipe, k, s, batch, start, stop, r
    )
    return vectorize.map_members(member, strategy)(keys, state, rows)

  return jit.compile_loop(_shard(run, 3, devices), donate_argnums=1)


@functools.lru_cache(maxsize=16)
def statistics_program(
  network: Network,
  signals: Signals,
  size: int,
  strategy: vectorize.Strategy,
  devices: Devices,
) -> Callable:
  """(variables, batch) -> {signal: [k, n]} in evaluation mode, jitted.

  Args:
    network: the model and its input step.
    signals: name and function of (logits, label).
    size: images of a model in memory at once, at most n.
    strategy: as for `training`.
    devices: likewise.
  """

  def look(variables: Variables, batch: Batch) -> dict[str, Shaped[Array, 'n']]:
    count = batch.label.shape[0]
    blocks = -(-count // size)
    rows = jnp.minimum(jnp.arange(blocks * size), count - 1)

    def block(index):
      logits = network.model.apply(
        variables, network.inputs.eval(batch.image[index], None)
      )
      return {name: fn(logits, batch.label[index]) for name, fn in signals}

    found = jax.lax.map(block, rows.reshape(blocks, size))
    return jax.tree.map(lambda x: x.reshape(-1)[:count], found)

  def run(variables, batch):
    return vectorize.map_members(lambda v: look(v, batch), strategy)(variables)

  return jit.compile_loop(_shard(run, 1, devices))
