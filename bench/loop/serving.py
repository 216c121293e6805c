"""A worker process: it runs calls one after the other and sends what they return."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from typing import Any

from bench.loop.frames import read_frame, write_frame
from bench.loop.process_control import adopt_orphans, end_with_parent

__all__ = ["BEGAN", "CallError", "outcome_of", "serve"]

BEGAN = b""  # the message that a call begins


class CallError(Exception):
    """A call raised an exception that cannot be sent or would not be raised as it is. The message
    begins with the name of its type."""


def serve(parent: int, calls: int, results: int) -> None:
    """Run the calls of a pipe until it is closed. The first call sets up the process.

    Args:
        parent: process id of the parent of this process.
        calls: a pipe with pickled pairs (function, arguments).
        results: a pipe for BEGAN, and then a pickled pair (whether the call returned, its value or
            its exception), for each call but the first.
    """
    end_with_parent(parent)
    adopt_orphans()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for pipe in (calls, results):
        os.set_inheritable(pipe, False)
    status = 1
    try:
        start = read_frame(calls)
        if start is not None:
            function, arguments = pickle.loads(start)
            function(*arguments)
            while (call := read_frame(calls)) is not None:
                write_frame(results, BEGAN)
                write_frame(results, outcome_of(call))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except BaseException:  # closed by an implementation
                continue
        os._exit(status)  # threads that an implementation left do not delay the end


def outcome_of(call: bytes) -> bytes:
    """Run a pickled pair (function, arguments). Returns a pickled pair (whether the call returned,
    its value or its exception)."""
    try:
        function, arguments = pickle.loads(call)
        value = function(*arguments)
        return pickle.dumps((True, value))
    except BaseException as error:
        traceback.print_exc()
        return pickle.dumps((False, _sendable(error)))


def _sendable(error: BaseException) -> Exception:
    """The exception itself, if it can be sent and raised in another process."""
    # TimeoutError would mean that the call took too long.
    if isinstance(error, Exception) and not isinstance(error, TimeoutError):
        try:
            again: Any = pickle.loads(pickle.dumps(error))
            if type(again) is type(error) and str(again) == str(error):
                return error
        except BaseException:  # of the code of an implementation
            pass
    try:
        return CallError(f"{type(error).__name__}: {error}")
    except BaseException:
        return CallError(type(error).__name__)
