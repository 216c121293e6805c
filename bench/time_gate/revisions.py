"""Revisions of the checkout: names, changed files, and folders with their sources."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

from bench.schema.validation import UserError, shown

ROOT = Path(__file__).parents[2]
SOURCES = "variants"  # the package that the revisions differ in; the harness is the same for both
WORKTREE = "WORKTREE"  # as a revision: the files as they are


class RevisionError(UserError):
    """A revision does not exist, or cannot be used. The message is one sentence."""


@dataclass(frozen=True)
class Revision:
    """A commit, or the files of the checkout as they are (`commit` is None)."""

    name: str
    commit: str | None

    @property
    def label(self) -> str:
        """The name that was given, and the commit if the name is another one."""
        if self.commit is None:
            return "the working tree"
        short = self.commit[:10]
        return short if self.commit.startswith(self.name) else f"{self.name} ({short})"


def resolve(name: str) -> Revision:
    """The revision of a name such as a branch, a tag or a commit, or `WORKTREE`.

    Raises:
        RevisionError: there is no such commit, or it has no variants.
    """
    if name == WORKTREE:
        return Revision(name, None)
    if name.startswith("-"):
        raise RevisionError(f"expected a revision of git, got {shown(name)}")
    found = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    if found.returncode:
        why = _why_missing()
        raise RevisionError(f"there is no revision {shown(name)} here{why}")
    commit = found.stdout.decode().strip()
    if _git("cat-file", "-e", f"{commit}:{SOURCES}/__init__.py").returncode:
        raise RevisionError(f"revision {shown(name)} has no package {SOURCES}")
    return Revision(name, commit)


def chosen_head(name: str | None) -> Revision:
    """The revision of `--head`. Without one it is HEAD, which must then be the files as they are.

    Raises:
        RevisionError: there is no such revision, or files were changed since HEAD.
    """
    if name is None and (dirty := changed_since_head()):
        more = f" and {len(dirty) - 3} more" if len(dirty) > 3 else ""
        raise RevisionError(
            f"{', '.join(dirty[:3])}{more} changed since HEAD; commit this, or state which files "
            f"to measure: --head {WORKTREE} takes the files as they are, --head HEAD the commit"
        )
    return resolve(name or "HEAD")


def changed_since_head() -> list[str]:
    """The files of the package that differ from HEAD, with new ones."""
    status = _git("status", "--porcelain", "--untracked-files=all", "--", SOURCES)
    _check(status, "git status")
    return [line[3:] for line in status.stdout.decode().splitlines()]


def check_out(revision: Revision, folder: Path) -> None:
    """Write the package of a revision, and pyproject.toml, into a new folder.

    Nothing in the checkout changes: there is no entry of `git worktree` to remove after a crash.
    """
    folder.mkdir(parents=True)
    if revision.commit is None:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / SOURCES, folder / SOURCES, ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", folder)
        return
    archive = _git("archive", "--format=tar", revision.commit, SOURCES, "pyproject.toml")
    _check(archive, f"git archive {revision.label}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")


def text_of(revision: Revision, file: Path) -> str | None:
    """The text of a file, as a path in the checkout; None if the revision has no such file."""
    if revision.commit is None:
        path = ROOT / file
        return path.read_text(encoding="utf-8") if path.exists() else None
    found = _git("show", f"{revision.commit}:{file.as_posix()}")
    return None if found.returncode else found.stdout.decode()


def dependencies(folder: Path) -> set[str]:
    """The requirements of the package that was checked out into a folder.

    Raises:
        RevisionError: pyproject.toml is not valid.
    """
    try:
        table = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    except ValueError as error:
        raise RevisionError(f"pyproject.toml of {folder.name}: {error}") from None
    return set(table.get("project", {}).get("dependencies", ()))


def commits_between(good: Revision, bad: Revision) -> list[str]:
    """The commits after `good` up to `bad`, oldest first, along first parents.

    Raises:
        RevisionError: `good` is no ancestor of `bad`.
    """
    if _git("merge-base", "--is-ancestor", str(good.commit), str(bad.commit)).returncode:
        raise RevisionError(f"{good.label} is no ancestor of {bad.label}")
    listed = _git(
        "rev-list", "--reverse", "--first-parent", f"{good.commit}..{bad.commit}", "--", SOURCES
    )
    _check(listed, "git rev-list")
    return listed.stdout.decode().split()


def subject(commit: str) -> str:
    """The date and the first line of the message of a commit."""
    shown_commit = _git("log", "-1", "--format=%cs %s", commit)
    return shown_commit.stdout.decode(errors="replace").strip()


def _why_missing() -> str:
    if _git("rev-parse", "--is-inside-work-tree").returncode:
        return ": the program does not run from a checkout of git"
    shallow = _git("rev-parse", "--is-shallow-repository").stdout.strip() == b"true"
    return "; the checkout is shallow: `git fetch --unshallow` gets all commits" if shallow else ""


def _check(result: subprocess.CompletedProcess[bytes], command: str) -> None:
    if result.returncode:
        said = result.stderr.decode(errors="replace").strip()
        raise RevisionError(f"{command} failed: {said}")


def _git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, env={**os.environ, "LC_ALL": "C"}
        )
    except OSError as error:
        raise RevisionError(f"cannot run git: {error.strerror}") from None
