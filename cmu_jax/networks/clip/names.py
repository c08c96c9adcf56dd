"""Where three kinds of files keep the parameters of a CLIP.

HF's `flax_model.msgpack` has the names of our modules, `model.safetensors` the
same with PyTorch's leaves. OpenAI's state dict (as an .npz, say) is a layout of
its own: queries, keys and values are one matrix, and the projections are not
transposed.
"""

from cmu_jax.networks.weights.names import Layout

_TOWERS = {
  'vision_model/embeddings/class_embedding': 'visual.class_embedding',
  'vision_model/embeddings/patch_embedding/kernel': 'visual.conv1.weight',
  'vision_model/embeddings/position_embedding/embedding': (
    'visual.positional_embedding'
  ),
  'vision_model/pre_layrnorm/scale': 'visual.ln_pre.weight',
  'vision_model/pre_layrnorm/bias': 'visual.ln_pre.bias',
  'vision_model/post_layernorm/scale': 'visual.ln_post.weight',
  'vision_model/post_layernorm/bias': 'visual.ln_post.bias',
  'visual_projection/kernel': 'visual.proj',
  'text_model/embeddings/token_embedding/embedding': 'token_embedding.weight',
  'text_model/embeddings/position_embedding/embedding': 'positional_embedding',
  'text_model/final_layer_norm/scale': 'ln_final.weight',
  'text_model/final_layer_norm/bias': 'ln_final.bias',
  'text_projection/kernel': 'text_projection',
  'logit_scale': 'logit_scale',
}
_BLOCK = {
  'self_attn/out_proj': 'attn.out_proj',
  'mlp/fc1': 'mlp.c_fc',
  'mlp/fc2': 'mlp.c_proj',
  'layer_norm1': 'ln_1',
  'layer_norm2': 'ln_2',
}
_STACKED = ('q_proj', 'k_proj', 'v_proj')
# Kernels that OpenAI keeps as (in, out).
_AS_OURS = ('params/visual_projection/kernel', 'params/text_projection/kernel')


def torch_name(module: str) -> str:
  """A module's path here to its name in HF's PyTorch state dicts.

  Args:
    module: for example 'vision_model/encoder/layers/0/mlp/fc1'; the whole path
      of leaves that are no kernel, scale or bias.

  Returns:
    For example 'vision_model.encoder.layers.0.mlp.fc1'.
  """
  name = module.strip('/').replace('/', '.')
  if name.endswith('_embedding.embedding'):
    return f'{name.removesuffix(".embedding")}.weight'
  if name.endswith('attention.in_proj'):
    return f'{name}_'
  return name


def openai(paths: list[str]) -> Layout:
  """OpenAI's layout of the leaves at `paths`, 'params/vision_model/...'."""
  parts = {p: _STACKED.index(q) for p in paths for q in _STACKED if q in p}
  return Layout(
    {path: _openai(path.removeprefix('params/')) for path in paths},
    torch=True,
    thirds=parts,
    plain=frozenset(_AS_OURS) & frozenset(paths),
  )


def _openai(path: str) -> str:
  if path in _TOWERS:
    return _TOWERS[path]
  tower, _, inner = path.partition('/encoder/layers/')
  index, _, inner = inner.partition('/')
  prefix = 'visual.' if tower == 'vision_model' else ''
  block = f'{prefix}transformer.resblocks.{index}'
  module, _, leaf = inner.rpartition('/')
  if module.rpartition('/')[2] in _STACKED:
    return f'{block}.attn.in_proj_{"weight" if leaf == "kernel" else "bias"}'
  return f'{block}.{_BLOCK[module]}.{"bias" if leaf == "bias" else "weight"}'
