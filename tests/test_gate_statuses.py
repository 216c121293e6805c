"""Exit statuses and messages of `bench compare --base`; the processes are fakes."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bench.cli import revision_gate
from bench.cli.commands import main
from bench.time_gate import revisions
from bench.time_gate.gate import CaseOutcome
from bench.time_gate.gate_summary import GateSummary
from bench.time_gate.side import SideError
from bench.time_gate.verdict import Judgement, TimeVerdict
from tests.fake_sides import FakeSide, Machine, Repository, fake_machine

FINE, REGRESSION, NOT_MEASURED, INVALID = 0, 1, 2, 3
SWEEP = """
inputs = ["gaussian"]
implementation = ["auto"]
variant = ["full", "linear feature_map=elu", "top_k"]
settings = ["default"]
causal = [true]
heads = [1]
seq_len = [16]
head_dim = [8]
"""
EQUAL = {"full": 1.0, "linear": 1.0, "top_k": 1.0}

Compare = Callable[..., Result]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """A repository with one commit."""
    repository = Repository(tmp_path / "checkout")
    repository.commit("First", **EQUAL)
    monkeypatch.setattr(revisions, "ROOT", repository.folder)
    return repository


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return fake_machine(monkeypatch)


@pytest.fixture
def compare(repository: Repository, machine: Machine, tmp_path: Path) -> Compare:
    (tmp_path / "cases.toml").write_text(SWEEP)

    def run(*words: str, base: str = "HEAD~1") -> Result:
        sweep = ("--sweep", str(tmp_path / "cases.toml"), "--device", "cpu", "--rounds", "4")
        return CliRunner().invoke(main, ["compare", "--base", base, *sweep, *words])

    return run


def refused(result: Result, status: int, message: str) -> None:
    """The command ended with a status and one line of its message."""
    assert (result.exit_code, result.stdout) == (status, "")
    assert re.fullmatch(rf"Error: .*{message}.*\n", result.stderr), result.stderr


def verdict(result: Result, case: str) -> str:
    """The verdict in the row of a case."""
    (row,) = [line for line in result.stdout.splitlines() if re.match(rf"│ {case} ", line)]
    return row.split("│")[2].strip()


def test_equal_code_is_fine(compare: Compare, repository: Repository) -> None:
    repository.commit("Same")
    said = compare()
    assert said.exit_code == FINE, said.output
    assert re.search(r"base HEAD~1 \(\w{10}\), head HEAD \(\w{10}\): 3 SAME", said.stdout)


def test_a_slower_case_is_a_regression(
    compare: Compare, repository: Repository, tmp_path: Path
) -> None:
    repository.commit("Slow", linear=1.3, top_k=0.7)
    said = compare("--summary", str(tmp_path / "summary.md"))
    assert said.exit_code == REGRESSION, said.output
    assert [verdict(said, name) for name in EQUAL] == ["SAME", "SLOWER", "FASTER"]
    text = (tmp_path / "summary.md").read_text()
    assert "### Time gate: 1 SLOWER, 1 FASTER, 1 SAME" in text
    assert re.search(r"\| linear .* \| SLOWER \| 1\.[23]\d+ \|", text)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "cases.toml",
        "summary.md",
    ]


def test_a_faster_case_is_fine(compare: Compare, repository: Repository) -> None:
    repository.commit("Fast", linear=0.5)
    assert compare().exit_code == FINE


def fails_in(name: str, during: str = "prepare") -> Callable[[FakeSide, str, str], None]:
    def fail(side: FakeSide, request: str, variant: str) -> None:
        if (side.sources.name, request, variant) == (name, during, "linear"):
            raise SideError("RuntimeError: some fault")

    return fail


@pytest.mark.parametrize("during", ["prepare", "facts", "time"])
@pytest.mark.parametrize(("side", "status"), [("base", NOT_MEASURED), ("head", REGRESSION)])
def test_a_call_that_fails_on_head_only_is_a_regression(
    compare: Compare, repository: Repository, machine: Machine, side: str, status: int, during: str
) -> None:
    repository.commit("Faulty")
    machine.fault = fails_in(side, during)
    said = compare()
    assert said.exit_code == status
    assert verdict(said, "linear") == "FAILED"
    words = " ".join(said.stdout.split())
    assert f"{side}: RuntimeError: some fault" in words
    expected = {
        "base": "The result is not complete: 1 case could not be measured.",
        "head": "Regression: 1 case of head cannot be called.",
    }
    assert expected[side] in words


def test_a_regression_counts_more_than_a_case_that_fails(
    compare: Compare, repository: Repository, machine: Machine
) -> None:
    repository.commit("Slow", full=1.5)
    machine.fault = fails_in("base")
    assert compare().exit_code == REGRESSION


def test_a_call_that_fails_once_on_head_is_no_regression(
    compare: Compare, repository: Repository, machine: Machine
) -> None:
    repository.commit("Same")
    failed: list[str] = []

    def once(side: FakeSide, request: str, variant: str) -> None:
        if (side.sources.name, request, variant) == ("head", "time", "linear") and not failed:
            failed.append(variant)
            raise SideError("OutOfMemoryError: no memory")

    machine.fault = once
    said = compare()
    assert said.exit_code == NOT_MEASURED
    words = " ".join(said.stdout.split())
    assert "head failed, and this is not confirmed: OutOfMemoryError: no memory" in words
    assert "The result is not complete: 1 case could not be measured." in words


def test_a_case_that_base_cannot_call_either_is_no_regression(
    compare: Compare, repository: Repository, machine: Machine
) -> None:
    repository.commit("Same")
    begun: list[str] = []

    def later(side: FakeSide, request: str, variant: str) -> None:
        begun.append(request)
        late = variant == "linear" and request == "time" and len(begun) > 60
        if late and (side.sources.name == "head" or seen):  # head is the first that fails
            seen.append(side.sources.name)
            raise SideError("OutOfMemoryError: no memory")

    seen: list[str] = []
    machine.fault = later
    said = compare()
    assert seen == ["head", "head", "base"]
    assert said.exit_code == NOT_MEASURED


class TestCasesThatHeadLacks:
    def test_they_are_listed_and_the_result_is_not_complete(
        self, compare: Compare, repository: Repository
    ) -> None:
        (repository.folder / "variants" / "linear.py").unlink()
        repository.commit("Without")
        said = compare()
        assert said.exit_code == NOT_MEASURED
        assert verdict(said, "linear") == "NOT IN BOTH"
        assert "head lacks 1 case of base" in " ".join(said.stdout.split())

    def names(
        self, monkeypatch: pytest.MonkeyPatch, change: Callable[[str, str], list[str]]
    ) -> None:
        """Each side answers with changed names of its cases."""
        asked = FakeSide._asked

        def answer(side: FakeSide, request: str, timeout: float, **more: Any) -> dict[str, Any]:
            answer = asked(side, request, timeout, **more)
            if request == "names":
                place = side.sources.name
                return {"names": [it for name in answer["names"] for it in change(place, name)]}
            return answer

        monkeypatch.setattr(FakeSide, "_asked", answer)

    def test_a_case_that_no_variant_of_the_checkout_has_is_listed(
        self, compare: Compare, repository: Repository, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        repository.commit("Same")

        def renamed(side: str, name: str) -> list[str]:
            """Base has one implementation more, and another name for a hyperparameter."""
            if side == "base" and name.startswith("linear"):
                return [name.replace("feature_map", "map"), f"{name} implementation=old"]
            return [name]

        self.names(monkeypatch, renamed)
        said = compare("--case", "linear*")
        assert said.exit_code == NOT_MEASURED
        assert "head lacks 2 cases of base" in " ".join(said.stdout.split())
        assert said.stdout.count("NOT IN BOTH") == 3  # with the headline

    def test_a_case_that_only_head_has_is_fine(
        self, compare: Compare, repository: Repository, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        repository.commit("Same")
        self.names(monkeypatch, lambda side, name: [name, f"{name} new"][: 1 + (side == "head")])
        said = compare()
        assert said.exit_code == FINE
        assert "3 SAME, 3 NOT IN BOTH" in said.stdout

    def test_a_case_that_only_the_checkout_lacks_is_not_measured(
        self, compare: Compare, repository: Repository, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        repository.commit("Same")
        self.names(monkeypatch, lambda side, name: [name, f"{name} more"])
        said = compare()
        assert said.exit_code == NOT_MEASURED
        words = " ".join(said.stdout.split())
        assert "the checkout that measures lacks 3 cases of both revisions" in words

    def test_a_revision_whose_cases_cannot_be_listed_is_a_note(
        self, compare: Compare, repository: Repository, machine: Machine
    ) -> None:
        repository.commit("Same")

        def fail(side: FakeSide, request: str, variant: str) -> None:
            if (side.sources.name, request) == ("base", "names"):
                raise SideError("ImportError: no module")

        machine.fault = fail
        said = compare()
        assert said.exit_code == FINE
        words = " ".join(said.stdout.split())
        assert "The cases of base cannot be listed, so some may be missing: ImportError" in words


@pytest.mark.parametrize(("high", "status"), [(1.09, FINE), (1.11, NOT_MEASURED)])
def test_a_case_that_may_be_much_slower_is_not_measured(high: float, status: int) -> None:
    same = CaseOutcome("a", Judgement(TimeVerdict.SAME, 1.0, 0.99, 1.01, (0.98, 1.02), 0.01, 10))
    unclear = CaseOutcome(
        "b", Judgement(TimeVerdict.UNCLEAR, 1.05, 1.0, high, (0.97, 1.2), 0.01, 30)
    )
    found = GateSummary("", [same, same, unclear], [])
    assert revision_gate.status_of(found) == status
    assert ("1 case with UNCLEAR may be more than 10% slower" in found.markdown()) is (
        status != FINE
    )
    (row,) = [line for line in found.markdown().splitlines() if line.startswith("| b | UNCLEAR ")]
    assert "widened interval 0.970 to 1.200 after 30 rounds" in row


def test_noise_that_hides_most_cases_is_not_measured(
    compare: Compare, repository: Repository, machine: Machine
) -> None:
    repository.commit("Same")
    machine.noise = 0.3
    said = compare()
    assert said.exit_code == NOT_MEASURED
    assert "3 UNCLEAR" in said.stdout


def test_a_revision_that_cannot_be_imported_is_not_measured(
    compare: Compare, repository: Repository
) -> None:
    repository.commit("Broken", __init__="raise ImportError('some library')\n")
    refused(compare(), NOT_MEASURED, r"HEAD \(\w+\) does not run in this environment: .*library")


def test_a_pyproject_that_is_not_valid_is_refused_before_the_measurement(
    compare: Compare, repository: Repository, machine: Machine
) -> None:
    (repository.folder / "pyproject.toml").write_text("[project")
    repository.commit("Broken")
    refused(compare(), INVALID, r"pyproject\.toml of head: Expected '\]'")
    assert not machine.prepared


def test_other_requirements_are_a_note(compare: Compare, repository: Repository) -> None:
    project = repository.folder / "pyproject.toml"
    project.write_text('[project]\nname = "fake"\ndependencies = ["torch>=9"]\n')
    repository.commit("Requires")
    said = compare()
    assert said.exit_code == FINE
    assert "Head requires other packages (with torch>=9)." in said.stdout


def test_an_unexpected_error_is_no_regression(
    compare: Compare, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.commit("Same")
    monkeypatch.setattr(revision_gate, "compare_sources", lambda *_: 1 / 0)
    said = compare()
    assert said.exit_code == NOT_MEASURED
    assert said.stderr.endswith("Error: division by zero\n")
    assert "Traceback" in said.stderr


def test_a_revision_that_does_not_exist_is_bad_input(compare: Compare) -> None:
    refused(compare(base="nosuch"), INVALID, "there is no revision 'nosuch'")
    refused(compare("--head", "nosuch", base="HEAD"), INVALID, "there is no revision 'nosuch'")


def test_a_dirty_tree_needs_a_choice(
    compare: Compare, repository: Repository, machine: Machine
) -> None:
    repository.write(full=1.5)
    refused(compare(base="HEAD"), INVALID, r"full\.py changed .*--head WORKTREE .*--head HEAD")
    assert not machine.started
    assert compare("--head", "HEAD", base="HEAD").exit_code == FINE
    assert compare("--head", "WORKTREE", base="HEAD").exit_code == REGRESSION


def test_the_message_in_a_shallow_clone_says_how_to_get_all_commits(
    compare: Compare, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.commit("Second")
    repository.git("clone", "--quiet", "--depth=1", f"file://{repository.folder}", "../shallow")
    monkeypatch.setattr(revisions, "ROOT", repository.folder.parent / "shallow")
    refused(compare(), INVALID, "the checkout is shallow: `git fetch --unshallow`")


class TestOnlyVariantsThatChanged:
    ONLY = ("--only", "variants-that-changed")

    def test_other_variants_are_not_measured(
        self, compare: Compare, repository: Repository, machine: Machine
    ) -> None:
        repository.commit("Slow", linear=1.3)
        said = compare(*self.ONLY)
        assert said.exit_code == REGRESSION
        assert "1 SLOWER" in said.stdout
        assert set(machine.prepared) == {"linear"}

    def test_nothing_changed_is_fine_and_the_summary_says_so(
        self, compare: Compare, repository: Repository, machine: Machine, tmp_path: Path
    ) -> None:
        repository.commit("Same")
        said = compare(*self.ONLY, "--summary", str(tmp_path / "summary.md"))
        words = "o variant of these cases differs between HEAD~1"
        assert said.exit_code == FINE
        assert said.stdout.startswith(f"n{words}")
        assert f"\n\nN{words}" in (tmp_path / "summary.md").read_text()
        assert not machine.prepared


class TestACaseThatBaseLacks:
    @pytest.fixture(autouse=True)
    def added(self, repository: Repository) -> None:
        """Base has no `linear`."""
        (repository.folder / "variants" / "linear.py").unlink()
        repository.commit("Without")
        repository.commit("Added", linear=1.0)

    def test_it_is_listed_without_a_verdict(self, compare: Compare) -> None:
        said = compare()
        assert said.exit_code == FINE
        assert verdict(said, "linear") == "NOT IN BOTH"
        assert "2 SAME, 1 NOT IN BOTH" in said.stdout

    def test_it_is_bad_input_if_it_was_named(self, compare: Compare, machine: Machine) -> None:
        refused(
            compare("--case", "linear *"),
            INVALID,
            r"HEAD~1 \(\w+\) has no case linear .*: unknown variant",
        )
        assert not machine.prepared


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--case", "nosuch"], "no case is named 'nosuch'; names are such as full"),
        (["--band", "0"], "expected a share above 0 and below 1"),
        (["--rounds", "2"], "2 is not in the range x>=3"),
        (["--nosuch"], "No such option"),
        (["folder"], "--base compares revisions; got also the folder folder"),
        (["--set", "seq_len=x"], "seq_len"),
        (["--sweep", "nosuch.toml"], r"nosuch\.toml"),
        (["--summary", "nosuch/summary.md"], r"cannot write nosuch.summary\.md: No such file"),
        (["--summary", "/dev/null/summary.md"], r"cannot write .*summary\.md: Not a directory"),
        (["--summary", "."], "is a directory"),
    ],
)
def test_bad_input_is_refused_before_anything_is_measured(
    compare: Compare, machine: Machine, words: list[str], message: str
) -> None:
    refused(compare(*words, base="HEAD"), INVALID, message)
    assert not machine.started


STOPPED = """
import os, signal, sys, click
from bench.cli.gate_command import GateCommand
from bench.cli.revision_gate import scratch_folder

@click.command(cls=GateCommand)
def stopped():
    with scratch_folder() as folder:
        print(folder, flush=True)
        os.kill(os.getpid(), int(sys.argv.pop()))
        signal.pause()

# The parent may ignore the signal, as nohup does; a gate then ignores it too.
signal.signal(int(sys.argv[-1]), signal.default_int_handler)
stopped(sys.argv[1:-1])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_removes_the_sources_and_is_no_regression(number: signal.Signals) -> None:
    words = [sys.executable, "-c", STOPPED, str(int(number))]
    found = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert (found.returncode, found.stderr) == (128 + number, "Error: stopped\n")
    folder = Path(found.stdout.strip())
    assert folder.name.startswith("time-gate-")
    assert not folder.exists()


def test_two_folders_or_a_base_are_needed() -> None:
    folders = ["a", "b"]
    options = (["--head", "HEAD"], ["--summary", "s.md"], ["--case", "lsh"], ["--rounds", "10"])
    for words in (["a"], [], *([*folders, *one] for one in options)):
        refused(CliRunner().invoke(main, ["compare", *words]), INVALID, "or --base REVISION")
