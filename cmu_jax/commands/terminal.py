"""The terminal of a process: text that never ends a run, and control-C.

The results of a command are its files. No stream on which it prints may keep
it from writing them: a pipe without a reader, a closed descriptor, an encoding
without the letters of the text.
"""

import contextlib
import errno
import io
import os
import select
import signal
import sys
import threading
from typing import Any, NoReturn, TextIO

INTERRUPTED = 130
INTERRUPTION = (
  'interrupted: the same command continues from the last checkpoint'
)
# Together with the end of the process, control-C takes less than two seconds.
_GRACE_SECONDS = 1.2
_SHOW_CURSOR = '\x1b[?25h'
_STDOUT, _STDERR = 1, 2


class _Stream(io.FileIO):
  """A standard stream that turns silent when it cannot be written."""

  def write(self, data: Any, /) -> int:
    try:
      # None where a descriptor that does not wait is full.
      return super().write(data) or 0
    except OSError as error:
      # The descriptor, not the object: XLA writes to it as well.
      _open_null(self.fileno())
      # A reader that ends early, such as `head`, is no mistake.
      if error.errno != errno.EPIPE and self.fileno() == _STDOUT:
        reason = f'cannot print the rest: {error.strerror}'
        print(f'{reason}; the files are complete', file=sys.stderr)
      return len(data)


def protect_streams() -> None:
  """Replaces stdout and stderr by streams that take any text at any time."""
  # Else the next file that is opened would get a free descriptor, and with it
  # all that libraries print.
  for descriptor in range(3):
    try:
      os.fstat(descriptor)
    except OSError:
      _open_null(descriptor)
  sys.stdout = _protect(sys.stdout, _STDOUT)
  sys.stderr = _protect(sys.stderr, _STDERR)


def _protect(stream: TextIO | None, descriptor: int) -> TextIO:
  if stream is not None:
    stream.flush()
  return io.TextIOWrapper(
    io.BufferedWriter(_Stream(descriptor, 'w', closefd=False)),
    encoding=getattr(stream, 'encoding', None) or 'utf-8',
    # File names may hold bytes that are no text in any encoding.
    errors='backslashreplace',
    line_buffering=True,
  )


def _open_null(descriptor: int) -> None:
  """Makes a descriptor take and forget whatever is written to it."""
  null = os.open(os.devnull, os.O_RDWR)
  if null != descriptor:
    os.dup2(null, descriptor)
    os.close(null)


def stop_promptly() -> None:
  """Makes control-C end this process within two seconds, anywhere.

  A KeyboardInterrupt does not: it waits for the end of a compilation, or comes
  out of one whose threads still work, and then the process crashes.
  """
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  signal.signal(signal.SIGINT, lambda *_: exit_interrupted())
  # The handler is a Python function: it has to wait for the main thread. The
  # byte that the system writes here does not.
  signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  threading.Thread(target=_watch, args=(reader,), daemon=True).start()


def _watch(reader: int) -> None:
  """Waits for control-C, and ends the process unless the handler does."""
  while signal.SIGINT not in os.read(reader, 1):
    pass
  # A second control-C ends it at once.
  select.select([reader], [], [], _GRACE_SECONDS)
  exit_interrupted()


def exit_interrupted() -> NoReturn:
  """Ends the process at once, and says how the command continues.

  All files are written under another name and renamed: each is whole or absent.
  """
  text = f'\n{INTERRUPTION}\n'
  # A live display hides the cursor, and has no time left to show it again.
  if sys.stderr.isatty():
    text = f'{_SHOW_CURSOR}{text}'
  # Not by the stream, which may be at work; a pipe may be full.
  if select.select([], [_STDERR], [], 0)[1]:
    with contextlib.suppress(OSError):
      os.write(_STDERR, text.encode())
  os._exit(INTERRUPTED)
