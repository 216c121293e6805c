"""RoundRatios of the time gate: cases that are measured again, faults, and real processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.time_gate import gate
from bench.time_gate.gate import CaseOutcome, GatePlan, NoJudgement
from bench.time_gate.side import Side, SideError
from bench.time_gate.verdict import LOOKS, TimeVerdict
from tests.fake_sides import FakeSide, Machine, Repository

ROUNDS = 4


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(gate, "Side", machine.side)
    return machine


class Compared:
    """Compares two folders with the fake package."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.steps: list[tuple[int, int]] = []
        for name in ("base", "head"):
            (folder / name / "variants").mkdir(parents=True)
            (folder / name / "variants" / "__init__.py").write_text("")

    def __call__(self, base: Mapping[str, float], head: Mapping[str, float]) -> list[CaseOutcome]:
        """The outcomes; takes the milliseconds of the variants."""
        for name, variants in (("base", base), ("head", head)):
            for variant, cost in variants.items():
                file = self._folder / name / "variants" / f"{variant}.py"
                file.write_text(f"COST = {cost}\n")
        plan = GatePlan(self._folder / "base", self._folder / "head", self._folder, rounds=ROUNDS)
        requests = {name: {"attention": name} for name in {**base, **head}}
        return gate.compare(plan, requests, lambda *step: self.steps.append(step))


@pytest.fixture
def compared(tmp_path: Path, machine: Machine) -> Compared:
    return Compared(tmp_path)


def verdicts(outcomes: list[CaseOutcome]) -> dict[str, str | None]:
    return {
        one.name: one.judgement.verdict if one.judgement is not None else None for one in outcomes
    }


def rounds(machine: Machine, variant: str) -> float:
    """The number of rounds of a variant; each has three sides."""
    return machine.prepared.count(variant) / 3


def test_each_case_gets_its_verdict(compared: Compared) -> None:
    found = compared({"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 1.0, "b": 1.3, "c": 0.7})
    assert verdicts(found) == {
        "a": TimeVerdict.SAME,
        "b": TimeVerdict.SLOWER,
        "c": TimeVerdict.FASTER,
    }
    assert {(one.peak_bytes, one.output_change) for one in found} == {((1000, 1000), 0.0)}


def test_only_unclear_cases_are_measured_again_and_at_most_twice(
    compared: Compared, machine: Machine
) -> None:
    found = compared({"same": 1.0, "limit": 1.0}, {"same": 1.0, "limit": 1.031})
    assert verdicts(found) == {"same": TimeVerdict.SAME, "limit": TimeVerdict.UNCLEAR}
    assert rounds(machine, "same") == ROUNDS
    assert rounds(machine, "limit") == (2**LOOKS - 1) * ROUNDS
    assert found[1].judgement is not None
    assert found[1].judgement.rounds == (2**LOOKS - 1) * ROUNDS
    assert compared.steps[0] == (2 * ROUNDS, 1)
    assert compared.steps[-1] == (2**LOOKS * ROUNDS, 2**LOOKS * ROUNDS)


def test_each_round_has_new_processes_and_another_order(
    compared: Compared, machine: Machine
) -> None:
    names = dict.fromkeys("abcdef", 1.0)
    compared(names, names)
    assert Counter(machine.started) == {"base": 2 * ROUNDS, "head": ROUNDS}
    each = [tuple(machine.prepared[start : start + 18]) for start in range(0, 18 * ROUNDS, 18)]
    assert len(set(each)) == ROUNDS


@pytest.mark.parametrize("request_", ["prepare", "time", "facts"])
@pytest.mark.parametrize("place", ["base", "head"])
def test_a_case_that_fails_does_not_stop_the_others(
    compared: Compared, machine: Machine, request_: str, place: str
) -> None:
    def fault(side: FakeSide, request: str, variant: str) -> None:
        if (side.sources.name, request, variant) == (place, request_, "bad"):
            raise SideError("ValueError: some fault")

    machine.fault = fault
    names = dict.fromkeys(("a", "b", "bad", "c", "d", "e"), 1.0)
    found = {one.name: one for one in compared(names, names)}
    assert found["bad"].failure == NoJudgement("ValueError: some fault", place)
    assert found["bad"].judgement is None
    assert {rounds(machine, name) for name in "abcde"} == {ROUNDS}
    assert machine.prepared.count("bad") <= 5  # head alone and base alone come after a failure
    assert set(verdicts([found[name] for name in "abcde"]).values()) == {TimeVerdict.SAME}


def test_processes_that_cannot_start_again_fail_the_cases_that_wait(
    compared: Compared, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(FakeSide):
        def started(self) -> None:
            super().started()
            if len(machine.started) > 3 * ROUNDS - 3:
                raise SideError("no answer in 120 s")

    monkeypatch.setattr(gate, "Side", lambda sources, threads, name: Late(machine, sources, name))
    found = compared({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 1.0})
    assert {one.failure for one in found} == {NoJudgement("new processes: no answer in 120 s")}
    assert compared.steps[-1] == (2 * ROUNDS, 2 * ROUNDS)


def test_a_case_that_only_one_side_has_is_not_measured(compared: Compared) -> None:
    found = compared({"old": 1.0, "both": 1.0}, {"new": 1.0, "both": 1.0})
    assert {one.name: one.missing for one in found} == {
        "old": NoJudgement("unknown variant", "head"),
        "new": NoJudgement("unknown variant", "base"),
        "both": None,
    }
    assert verdicts(found) == {"old": None, "new": None, "both": TimeVerdict.SAME}


PACKAGE = """
import os, time

class Attention:
    uses_shared_qk = False

    def __init__(self, text):
        self._text = text

    def __call__(self, query, key, value, causal):
        if self._text == "ends":
            print("last words", flush=True)
            os._exit(7)
        if self._text == "hangs":
            time.sleep(60)
        if self._text == "fails":
            raise ValueError("some fault")
        return query + 1

def parse(text):
    if text == "unknown":
        raise ValueError("no such variant")
    return Attention(text)

def choose_float32_route():
    pass
"""


@pytest.fixture(scope="module")
def request_of(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    import torch
    from safetensors.torch import save_file

    file = tmp_path_factory.mktemp("inputs") / "inputs.safetensors"
    save_file({name: torch.ones(1, 1, 4, 2) for name in ("query", "key", "value")}, file)
    return {"causal": False, "device": "cpu", "direction": "forward", "inputs": str(file)}


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Side]:
    repository = Repository(tmp_path / "sources")
    repository.write(__init__=PACKAGE)
    with Side(repository.folder, 1) as side:
        side.started()
        yield side


def test_a_real_process_answers_and_a_case_that_fails_leaves_it_usable(
    real: Side, request_of: dict[str, Any]
) -> None:
    with pytest.raises(SideError, match=r"^ValueError: some fault$"):
        real.ask("prepare", 20, case=request_of | {"attention": "fails"})
    with pytest.raises(SideError, match="no case is prepared"):
        real.ask("time", 20, calls=1)
    missing = real.ask("prepare", 20, case=request_of | {"attention": "unknown"})
    assert missing == {"missing": "no such variant"}
    assert real.ask("missing", 20, attention="unknown") == {"why": "no such variant"}
    assert real.ask("prepare", 20, case=request_of | {"attention": "good"}) == {}
    assert real.ask("time", 20, calls=3)["ns"] > 0
    with pytest.raises(SideError, match=r"^no answer in 0 s$"):
        real.ask("prepare", 0.2, case=request_of | {"attention": "hangs"})


def test_the_end_of_a_real_process_is_reported_with_its_last_line(
    real: Side, request_of: dict[str, Any]
) -> None:
    with pytest.raises(SideError, match=r"^the process ended with status 7: last words$"):
        real.ask("prepare", 20, case=request_of | {"attention": "ends"})
    with pytest.raises(SideError, match="the process ended with status 7"):
        real.ask("prepare", 20, case=request_of | {"attention": "good"})
