"""Reasons of failed cases: typed, on one line, and without names of people, machines and folders,
whatever was raised."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from bench.inputs import CaptureError, InputsError
from bench.schema.outcome import Status
from bench.workloads import failure as reasons
from bench.workloads.failure import LONGEST, cleaned, failure
from tests.worker_faults import Wordless
from variants import UnsupportedError


@pytest.fixture(autouse=True)
def alice(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The user alice, with a home folder, on node7."""
    monkeypatch.setattr(os, "environ", {"HOME": "/home/alice", "USER": "alice"})
    monkeypatch.setattr(socket, "gethostname", lambda: "node7.lab.example.org")
    reasons._names.cache_clear()
    yield
    reasons._names.cache_clear()


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (
            "cannot open alice; secret file.txt; /home/alice/y; ~/z",
            "cannot open (user); secret file.txt; (path)",
        ),
        ("/home/Bob Miller: No such file", "(path): No such file"),
        (
            "[Errno 2] No such file or directory: '/home/bob miller/my; x.txt'",
            "[Errno 2] No such file or directory: '(path)'",
        ),
        ("copy '/a/b' to '/c/d': denied", "copy '(path)': denied"),
        ('File "/a/b c.py", line 3', 'File "(path)", line 3'),
        ("no name 'x' from 'y' (/home/bob/y.py) here", "no name 'x' from 'y' ((path)) here"),
        (r"C:\Users\bob\my file.txt: denied", "(path): denied"),
        ("D:/data/x", "(path)"),
        (r"\\server\share\bob", "(path)"),
        ("open ~bob/x", "open (path)"),
        ("open ~bob", "open (path)"),
        ("--out=/tmp/x", "--out=(path)"),
        ("error:/home/bob/x", "error:(path)"),
        ("open //home/bob/x", "open (path)"),
        ("file:///home/bob/x", "(path)"),
        ("in home/alice/data", "in home/(user)/data"),
        ("Alice_secret of ALICE", "(user)_secret of (user)"),
        ("at node7:5000 and node7.lab.example.org", "at (host):5000 and (host)"),
        ("bob@node7 or bob@somewhere.org", "(address) or (address)"),
        ("no route to 10.0.0.7:80", "no route to (address):80"),
        # Not names and not paths.
        ("~5 GiB of 3 / 4, and/or a/b", "~5 GiB of 3 / 4, and/or a/b"),
        ("see https://pytorch.org/docs/x.html", "see https://pytorch.org/docs/x.html"),
        ("malice, node70, version 1.2.3", "malice, node70, version 1.2.3"),
        ("mat1 and mat2: 3x4 @ 5x6", "mat1 and mat2: 3x4 @ 5x6"),
        ("a\n\tb \x1b[31m \udcff c", "a b [31m c"),
        ("x" * 1000, "x" * (LONGEST - 3) + "..."),
    ],
)
def test_a_text_is_one_line_without_names_and_folders(text: str, clean: str) -> None:
    assert cleaned(text, {}) == clean


def test_a_path_of_a_capture_becomes_its_name() -> None:
    files = {"alice.safetensors": Path("/data/my own.safetensors"), "b": Path("/data/my own")}
    assert cleaned("/data/my own.safetensors: layer 3", files) == "file:alice.safetensors: layer 3"
    assert cleaned("'/data/my own' and '/data/other'", files) == "'file:b' and '(path)'"


class Nameless(type):
    @property
    def __name__(cls) -> NoReturn:
        raise ValueError("no name")


class Odd(Exception, metaclass=Nameless):
    """An exception whose type has no name."""


class Textual(str):
    """A text whose methods fail."""

    def __getitem__(self, index: Any) -> NoReturn:
        raise ValueError("no part")

    splitlines = __contains__ = __getitem__  # type: ignore[assignment]


class Liar(Exception):
    def __str__(self) -> str:
        return Textual("as text")

    @property  # type: ignore[misc]
    def __class__(self) -> NoReturn:
        raise ValueError("no class")


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (UnsupportedError("needs\na GPU"), Status.UNSUPPORTED, "needs a GPU"),
        (InputsError("file:x holds 3 tokens"), Status.UNSUPPORTED, "file:x holds 3 tokens"),
        (CaptureError("~/x: cannot be read"), Status.UNSUPPORTED, "(path): cannot be read"),
        (MemoryError(), Status.OUT_OF_MEMORY, "MemoryError"),
        (
            torch.OutOfMemoryError("CUDA out of memory."),
            Status.OUT_OF_MEMORY,
            "CUDA out of memory.",
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: 12"),
            Status.OUT_OF_MEMORY,
            "DefaultCPUAllocator: can't allocate memory: 12",
        ),
        (ValueError("first\nsecond"), Status.ERROR, "ValueError: first"),
        (ValueError("\nraised:\n  second\nthird"), Status.ERROR, "ValueError: raised: second"),
        (ValueError(), Status.ERROR, "ValueError"),
        (SystemExit(3), Status.ERROR, "SystemExit: 3"),
        (KeyboardInterrupt(), Status.ERROR, "KeyboardInterrupt"),
        (GeneratorExit(), Status.ERROR, "GeneratorExit"),
        (BaseException("base"), Status.ERROR, "BaseException: base"),
        (type("alice", (Exception,), {})("x"), Status.ERROR, "(user): x"),
    ],
)
def test_every_exception_has_a_status_and_a_reason(
    error: BaseException, status: Status, reason: str
) -> None:
    assert failure(error, {}) == (status, reason)


def test_an_exception_whose_own_code_fails_has_a_reason() -> None:
    assert failure(Wordless(), {}) == (Status.ERROR, "Wordless")
    assert failure(Odd(), {}) == (Status.ERROR, "an exception without a name")
    assert failure(Liar(), {}) == (Status.ERROR, "Liar: as text")


def test_a_text_without_end_is_cut() -> None:
    _, reason = failure(ValueError("x" * 50_000_000), {})
    assert len(reason) == LONGEST


@pytest.mark.parametrize("text", ["/" * 10_000, "~/" * 5_000, "'/a" * 3_000, "a@" * 5_000])
def test_no_text_takes_long(text: str) -> None:
    started = time.monotonic()
    cleaned(text, {})
    assert time.monotonic() - started < 2


def test_names_that_say_nothing_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"HOME": "/root", "USER": "root"})
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    reasons._names.cache_clear()
    assert cleaned("square root at localhost", {}) == "square root at localhost"
