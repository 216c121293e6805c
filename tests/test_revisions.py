"""Revisions of a repository: names, changed files, folders with sources, and lists of commits."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from bench.time_gate import revisions
from bench.time_gate.revisions import (
    Revision,
    RevisionError,
    changed_since_head,
    check_out,
    chosen_head,
    commits_between,
    dependencies,
    resolve,
)
from tests.fake_sides import Repository


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    repository = Repository(tmp_path / "checkout")
    monkeypatch.setattr(revisions, "ROOT", repository.folder)
    return repository


def test_a_revision_has_the_names_that_git_knows(repository: Repository) -> None:
    first = repository.commit("First", full=1.0)
    second = repository.commit("Second", full=2.0)
    repository.git("tag", "--annotate", "--message", "A tag", "v1", first)
    assert resolve("HEAD") == Revision("HEAD", second)
    assert resolve("HEAD~1").commit == resolve("v1").commit == resolve(first[:8]).commit == first
    assert resolve("v1").label == f"v1 ({first[:10]})"
    assert resolve(first[:8]).label == first[:10]
    assert resolve("WORKTREE") == Revision("WORKTREE", None)
    assert revisions.subject(second).endswith(" Second")


@pytest.mark.parametrize("name", ["nosuch", "", "HEAD~9", "HEAD:variants", "--all", "-h", "a b"])
def test_a_revision_that_does_not_exist_is_refused(repository: Repository, name: str) -> None:
    repository.commit("First")
    with pytest.raises(RevisionError, match=re.escape(repr(name))):
        resolve(name)


def test_a_revision_without_the_package_is_refused(repository: Repository) -> None:
    repository.commit("First")
    repository.git("rm", "-r", "--quiet", "variants")
    repository.commit("Without")
    with pytest.raises(RevisionError, match="'HEAD' has no package variants"):
        resolve("HEAD")


def test_the_message_in_a_shallow_clone_says_how_to_get_all_commits(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = repository.commit("First", full=1.0)
    repository.commit("Second", full=2.0)
    repository.git("clone", "--quiet", "--depth=1", f"file://{repository.folder}", "../shallow")
    monkeypatch.setattr(revisions, "ROOT", tmp_path / "shallow")
    assert resolve("HEAD").commit
    with pytest.raises(RevisionError, match=r"the checkout is shallow: `git fetch --unshallow`"):
        resolve(first)


def test_outside_of_a_repository_there_is_no_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revisions, "ROOT", tmp_path)
    with pytest.raises(RevisionError, match=r"no revision 'HEAD' here: .* checkout of git"):
        resolve("HEAD")


def test_a_missing_program_git_is_one_message(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {"PATH": "/nowhere"})
    with pytest.raises(RevisionError, match="cannot run git: No such file"):
        resolve("HEAD")


def test_a_changed_file_is_named_with_the_two_ways_to_go_on(repository: Repository) -> None:
    commit = repository.commit("First", full=1.0)
    (repository.folder / "notes.txt").write_text("outside of the package")
    assert chosen_head(None) == Revision("HEAD", commit)
    repository.write(full=2.0)
    (repository.folder / "variants" / "engines").mkdir()
    repository.write(**{"engines/added": 1.0})
    assert changed_since_head() == ["variants/full.py", "variants/engines/added.py"]
    with pytest.raises(RevisionError) as refused:
        chosen_head(None)
    for words in (
        "variants/full.py, variants/engines/added.py changed",
        "--head WORKTREE",
        "--head HEAD",
    ):
        assert words in str(refused.value)
    assert chosen_head("HEAD") == Revision("HEAD", commit)
    assert chosen_head("WORKTREE").commit is None


def test_many_changed_files_are_counted(repository: Repository) -> None:
    repository.commit("First")
    repository.write(**{f"variant_{number}": 1.0 for number in range(5)})
    with pytest.raises(RevisionError, match=r"variant_2\.py and 2 more changed"):
        chosen_head(None)


def test_a_revision_is_checked_out_beside_the_files_as_they_are(
    repository: Repository, tmp_path: Path
) -> None:
    first = repository.commit("First", full=1.0)
    repository.commit("Second", full=2.0)
    repository.write(full=3.0)
    (repository.folder / "variants" / "__pycache__").mkdir()
    for name, cost in ((first, "1.0"), ("HEAD", "2.0"), ("WORKTREE", "3.0")):
        folder = tmp_path / "sources" / name
        check_out(resolve(name), folder)
        assert (folder / "variants" / "full.py").read_text() == f"COST = {cost}\n"
        assert sorted(path.name for path in folder.iterdir()) == ["pyproject.toml", "variants"]
        assert not (folder / "variants" / "__pycache__").exists()
    assert repository.git("worktree", "list").count("\n") == 0
    assert changed_since_head() == ["variants/full.py"]


def test_the_requirements_of_a_revision_are_read(repository: Repository, tmp_path: Path) -> None:
    project = repository.folder / "pyproject.toml"
    project.write_text('[project]\nname = "fake"\ndependencies = ["torch", "numpy>=2"]\n')
    repository.commit("First")
    check_out(resolve("HEAD"), tmp_path / "sources")
    assert dependencies(tmp_path / "sources") == {"torch", "numpy>=2"}
    (tmp_path / "sources" / "pyproject.toml").write_text("[project")
    with pytest.raises(RevisionError, match=r"pyproject\.toml of sources: Expected ']'"):
        dependencies(tmp_path / "sources")


class TestCommitsBetween:
    def test_commits_that_change_the_package_are_listed_oldest_first(
        self, repository: Repository
    ) -> None:
        good = repository.commit("Good", full=1.0)
        slow = repository.commit("Slow", full=2.0)
        (repository.folder / "notes.txt").write_text("outside of the package")
        repository.commit("Notes")
        bad = repository.commit("Bad", full=3.0)
        assert commits_between(resolve(good), resolve(bad)) == [slow, bad]
        assert commits_between(resolve(bad), resolve(bad)) == []

    def test_a_merge_counts_as_one_commit(self, repository: Repository) -> None:
        good = repository.commit("Good", full=1.0)
        repository.git("switch", "--quiet", "--create", "branch")
        repository.commit("One", linear=1.0)
        repository.commit("Two", linear=2.0)
        repository.git("switch", "--quiet", "main")
        own = repository.commit("Own", full=2.0)
        repository.git("merge", "--quiet", "--no-ff", "--message", "Merge", "branch")
        merged = repository.git("rev-parse", "HEAD")
        assert commits_between(resolve(good), resolve("main")) == [own, merged]

    def test_the_good_revision_must_be_an_ancestor(self, repository: Repository) -> None:
        good = repository.commit("Good", full=1.0)
        bad = repository.commit("Bad", full=2.0)
        with pytest.raises(RevisionError, match=f"{bad[:10]} is no ancestor of {good[:10]}"):
            commits_between(resolve(bad), resolve(good))
