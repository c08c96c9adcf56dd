"""Measures of the package's files that `test_architecture` sets limits on."""

import ast
import functools
import io
import pathlib
import re
import tokenize

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / 'cmu_jax'
# A function takes a verb as its name. These participles do not end in -ed or
# -ing, or are used like one.
_PARTICIPLES = (
  'kept held told seen drawn known given made left shown begun found said done '
  'wrong beside alone beyond late there alike unlike named'
)
PARTICIPLES = set(_PARTICIPLES.split())
NO_PARTICIPLES = {'seed', 'embed', 'feed', 'speed', 'need', 'read', 'string'}
NO_PARTICIPLES |= {'ring'}
# Names that say nothing about the value of a variable.
_FILLERS = (
  'found own one told known place part held made seen given other more some '
  'each both first last now before after rest whole asked wanted left kept '
  'shown said done how what where way look like such'
)
FILLERS = set(_FILLERS.split())
OPENING = re.compile(
  r'^(what|which|whether|how|where|who|when|why|those|one|that)\b', re.I
)
_LAYOUT = {
  *(tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
  tokenize.ENDMARKER,
}


def module_files():
  """Dotted name -> file, of every module of the package."""
  files = {}
  for path in sorted(PACKAGE.rglob('*.py')):
    parts = path.relative_to(ROOT).with_suffix('').parts
    files['.'.join(part for part in parts if part != '__init__')] = path
  return files


@functools.cache
def tree(path):
  """The syntax tree of a file."""
  return ast.parse(path.read_text(encoding='utf-8'))


def nodes(paths, kind):
  """All nodes of a kind in some files, each with its file."""
  for path in paths:
    for node in ast.walk(tree(path)):
      if isinstance(node, kind):
        yield path, node


def line_count(path):
  """Lines of a file."""
  return path.read_text(encoding='utf-8').count('\n')


def parameter_count(function):
  """Parameters of a function, without * and **."""
  arguments = function.args
  return len(arguments.posonlyargs + arguments.args + arguments.kwonlyargs)


def body_length(function):
  """Lines of a function below its signature's first line and docstring."""
  start = function.lineno
  if ast.get_docstring(function, clean=False) is not None:
    start = function.body[0].end_lineno
  return function.end_lineno - start


def is_participle(name):
  """Whether a function's name is a single participle, such as 'drawn'."""
  word = name.strip('_')
  if '_' in word or word in NO_PARTICIPLES:
    return False
  return word.endswith(('ed', 'ing')) or word in PARTICIPLES


def participle_percent(paths):
  """Percentage of functions whose name is a bare participle."""
  names = [node.name for _, node in nodes(paths, ast.FunctionDef)]
  return 100 * sum(map(is_participle, names)) / len(names)


def filler_percent(paths):
  """Percentage of assignments to variables with a filler name."""
  names = [
    node.id
    for _, node in nodes(paths, ast.Name)
    if isinstance(node.ctx, ast.Store)
  ]
  return 100 * sum(name in FILLERS for name in names) / len(names)


def docstrings(path):
  """The docstring nodes of a file."""
  for _, node in nodes([path], (ast.Module, ast.ClassDef, ast.FunctionDef)):
    if ast.get_docstring(node, clean=False) is not None:
      yield node.body[0]


def opening_percent(paths):
  """Percentage of docstrings that open with what, whether, how, those ..."""
  texts = [
    node.value.value.strip() for path in paths for node in docstrings(path)
  ]
  return 100 * sum(bool(OPENING.match(text)) for text in texts) / len(texts)


def _comments_and_code(path):
  """Number of comments, and of code lines without docstrings, of a file."""
  comments, code = 0, set()
  text = path.read_text(encoding='utf-8')
  for token in tokenize.generate_tokens(io.StringIO(text).readline):
    if token.type == tokenize.COMMENT:
      comments += 1
    elif token.type not in _LAYOUT:
      code |= set(range(token.start[0], token.end[0] + 1))
  for node in docstrings(path):
    code -= set(range(node.lineno, node.end_lineno + 1))
  return comments, len(code)


def comments_per_100_lines(paths):
  """Comments per 100 lines of code."""
  counts = [_comments_and_code(path) for path in paths]
  comments, code = map(sum, zip(*counts, strict=True))
  return 100 * comments / code
