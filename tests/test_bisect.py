"""The command `bench bisect`: its lines and exit statuses; most processes are fakes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bench.cli.commands import main
from bench.time_gate import revisions
from bench.time_gate.verdict import LOOKS
from tests.fake_sides import Machine, Repository, fake_machine

ROOT = Path(__file__).parents[1]
FOUND, NOT_MEASURED, INVALID = 0, 2, 3
SWEEP = """
inputs = ["gaussian"]
implementation = ["auto"]
variant = ["full", "linear feature_map=elu"]
settings = ["default"]
causal = [true]
heads = [1]
seq_len = [16]
head_dim = [8]
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    repository = Repository(tmp_path / "checkout")
    monkeypatch.setattr(revisions, "ROOT", repository.folder)
    return repository


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return fake_machine(monkeypatch)


Bisect = Callable[..., Result]


@pytest.fixture
def bisect(repository: Repository, machine: Machine, tmp_path: Path) -> Bisect:
    (tmp_path / "cases.toml").write_text(SWEEP)

    def run(good: str, bad: str = "HEAD", case: str = "full *") -> Result:
        words = ["bisect", "--good", good, "--bad", bad, "--device", "cpu", "--rounds", "4"]
        sweep = ["--sweep", str(tmp_path / "cases.toml")]
        return CliRunner().invoke(main, [*words, *sweep, *(["--case", case] if case else [])])

    return run


def commits(repository: Repository, costs: Sequence[float | str]) -> list[str]:
    """One commit for each time of `full` in milliseconds; all differ in a comment."""
    return [
        repository.commit(
            f"Commit {number}",
            full=f"{cost if isinstance(cost, str) else f'COST = {cost}'}  # {number}\n",
            linear=1.0,
        )
        for number, cost in enumerate(costs)
    ]


def test_the_commit_is_found_and_compared_with_its_parent(
    bisect: Bisect, repository: Repository
) -> None:
    all_ = commits(repository, [1.0, 1.0, 1.0, 1.0, 1.0, 1.1, 1.1, 1.1])
    said = bisect(all_[0])
    assert said.exit_code == FOUND, said.output
    case, ends, *steps, found, subject, parent = said.stdout.splitlines()
    assert case.startswith("full causal forward n=16")
    assert case.endswith(": 7 commits that change variants between good and bad")
    ratio = r"ratio (1\.\d{3}|0\.9\d\d) \(.* to .*\)"
    assert re.fullmatch(
        rf"bad HEAD \({all_[-1][:10]}\) against good {all_[0][:10]}: {ratio}, SLOWER", ends
    )
    expected = ((7, 3, "good"), (4, 5, "bad"), (2, 4, "good"))
    for line, (candidates, number, end) in zip(steps, expected, strict=True):
        start = rf"{candidates} candidates: {all_[number][:10]} \d{{4}}-\d\d-\d\d Commit {number}"
        assert re.fullmatch(rf"{start}: {ratio}, nearer to {end}", line)
    assert found == f"first slow commit: {all_[5]}"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d Commit 5", subject)
    assert re.fullmatch(rf"against its parent: {ratio}, SLOWER; this confirms the commit", parent)


def test_several_small_steps_do_not_confirm_the_commit(
    bisect: Bisect, repository: Repository, machine: Machine
) -> None:
    machine.noise = 0.0005
    all_ = commits(repository, [1.0, 1.02, 1.04, 1.06, 1.08, 1.1])
    said = bisect(all_[0])
    assert said.exit_code == NOT_MEASURED
    assert f"first slow commit: {all_[3]}" in said.stdout
    assert said.stdout.endswith("SAME; this does not confirm the commit\n")
    assert f"the commit {all_[3][:10]} is not confirmed" in said.stderr


def test_a_bad_revision_that_is_not_slower_is_not_measured(
    bisect: Bisect, repository: Repository
) -> None:
    all_ = commits(repository, [1.0, 1.0, 1.0])
    said = bisect(all_[0])
    assert said.exit_code == NOT_MEASURED
    assert re.search(
        r"bad HEAD \(\w+\) is not slower than good \w+: ratio [\d.]+ \(.*\), SAME", said.stderr
    )


def test_commits_that_do_not_run_are_left_out(bisect: Bisect, repository: Repository) -> None:
    all_ = commits(repository, [1.0, 1.0, "no cost", "no cost", 1.1, 1.1, 1.1])
    said = bisect(all_[0])
    assert said.exit_code == NOT_MEASURED
    assert f"{all_[3][:10]} " in said.stdout
    assert (
        "does not run in this environment: SyntaxError: invalid syntax, not decided" in said.stdout
    )
    names = ", ".join(one[:10] for one in all_[2:5])
    assert (
        f"one of 3, and all except the last could not be measured, or are not decided: {names}"
        in said.stderr
    )


def test_a_commit_without_the_package_is_left_out(bisect: Bisect, repository: Repository) -> None:
    first, *_ = commits(repository, [1.0, 1.0])
    repository.git("rm", "-r", "--quiet", "variants")
    repository.commit("Without")
    (repository.folder / "variants").mkdir()
    (repository.folder / "variants" / "__init__.py").write_text("")
    *_, slow = commits(repository, [1.0, 1.0, 1.2])
    said = bisect(first)
    assert said.exit_code == FOUND, said.output
    assert f"first slow commit: {slow}" in said.stdout
    assert re.search(r"Without: .*, not decided\n", said.stdout)


def test_an_open_decision_gets_more_rounds(
    bisect: Bisect, repository: Repository, machine: Machine
) -> None:
    all_ = commits(repository, [1.0, 1.0488, 1.1])
    said = bisect(all_[0])
    assert said.exit_code == NOT_MEASURED, said.output
    assert re.search(r"2 candidates: .* Commit 1: ratio 1\.0.*, not decided\n", said.stdout)
    assert len(machine.prepared) == 3 * 4 * (1 + 2**LOOKS - 1)


class TestBadInput:
    def test_bisect_needs_commits(self, bisect: Bisect, repository: Repository) -> None:
        first, _ = commits(repository, [1.0, 1.1])
        for said in (bisect(first, "WORKTREE"), bisect("WORKTREE")):
            assert said.exit_code == INVALID
            assert "bisect needs commits, got WORKTREE" in said.stderr

    def test_good_must_be_an_ancestor(self, bisect: Bisect, repository: Repository) -> None:
        first, last = commits(repository, [1.0, 1.1])
        said = bisect(last, first)
        assert said.exit_code == INVALID
        assert "is no ancestor of" in said.stderr

    def test_a_commit_must_change_a_variant(self, bisect: Bisect, repository: Repository) -> None:
        first, last = commits(repository, [1.0, 1.1])
        repository.commit("Empty")
        assert first != last
        said = bisect(last)
        assert said.exit_code == INVALID
        assert re.search(r"no commit after \w+ up to HEAD \(\w+\) changes a variant", said.stderr)

    def test_one_case_must_match(
        self, bisect: Bisect, repository: Repository, machine: Machine
    ) -> None:
        first, _ = commits(repository, [1.0, 1.1])
        for case, message in (
            ("*", r"expected one case, got 2: full causal .* \| linear feature_map=elu .*"),
            ("nosuch", "no case is named 'nosuch'"),
            ("", "expected --case NAME"),
        ):
            said = bisect(first, case=case)
            assert said.exit_code == INVALID
            assert re.search(message, said.stderr)
        assert not machine.started

    def test_both_ends_must_have_the_case(self, bisect: Bisect, repository: Repository) -> None:
        first = repository.commit("First", linear=1.0)
        repository.commit("Second", full=1.0)
        said = bisect(first)
        assert said.exit_code == INVALID
        assert re.search(r"\w{10} has no case full .*: unknown variant", said.stderr)


SLOW_WORK = """    with torch.no_grad():
        for _ in range(8):
            torch.ones(256, 256) @ torch.ones(256, 256)
"""


@pytest.mark.serial
def test_real_work_in_a_real_variant_is_found(repository: Repository, tmp_path: Path) -> None:
    """Real processes measure copies of this package."""
    folder = repository.folder / "variants"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "variants", folder, ignore=ignored, dirs_exist_ok=True)
    good = repository.commit("Good")
    file = folder / "top_k.py"
    start = "    key, value = (expand_heads(x, query.shape[1]) for x in (key, value))\n"
    text = file.read_text()
    assert text.count(start) == 1
    file.write_text(text.replace(start, start + SLOW_WORK))
    slow = repository.commit("Slow")
    words = ["bisect", "--good", good, "--bad", "HEAD", "--device", "cpu", "--rounds", "3"]
    axes = ["--set", "seq_len=64", "--set", "variant=top_k top_k=16", "--set", "direction=forward"]
    said = CliRunner().invoke(main, [*words, *axes, "--case", "top_k top_k=16 causal *"])
    assert said.exit_code == FOUND, said.output
    assert f"first slow commit: {slow}\n" in said.stdout
    assert said.stdout.endswith("SLOWER; this confirms the commit\n")
