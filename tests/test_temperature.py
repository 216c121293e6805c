"""Settings of inputs: their text, and the temperature of scores."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench import inputs
from bench.inputs import InputsError, Source
from bench.inputs.source import KNOWN
from bench.schema.case import Case
from bench.schema.outcome import Status
from bench.workloads.attention import measure_case
from tests.cases import capture_file, case, fresh_worker, settings
from variants.contract.definitions import expand_heads


def load(text: str, **changes: object) -> inputs.Inputs:
    return inputs.load(asked(text, **changes), {})


def asked(text: str, **changes: object) -> Case:
    return case(inputs=text, **({"head_dim": 64, "seq_len": 512, "causal": True} | changes))


class TestText:
    @pytest.mark.parametrize(
        ("text", "source"),
        [
            ("gaussian", Source("gaussian")),
            ("sinks temperature=0.5", Source("sinks", temperature=0.5)),
            ("needle effective_keys=32", Source("needle", effective_keys=32)),
            ("smollm2 temperature=2", Source("smollm2", temperature=2)),
            ("file:a.safetensors", Source("file:a.safetensors")),
            ("file:/b c/a d.safetensors", Source("file:/b c/a d.safetensors")),
            (
                "file:/b c/a d.safetensors effective_keys=20.5",
                Source("file:/b c/a d.safetensors", effective_keys=20.5),
            ),
        ],
    )
    def test_the_text_is_read_and_written(self, text: str, source: Source) -> None:
        assert Source.parse(text) == source
        assert str(source) == text

    @pytest.mark.parametrize(
        ("text", "spelled"),
        [
            (" local  temperature=0.50 ", "local temperature=0.5"),
            ("local temperature=1e0", "local"),
            ("local effective_keys=3.2e1", "local effective_keys=32"),
            ("local temperature=1e-7", "local temperature=1e-07"),
        ],
    )
    def test_settings_of_one_meaning_have_one_text(self, text: str, spelled: str) -> None:
        assert str(Source.parse(text)) == spelled
        assert str(Source.parse(spelled)) == spelled

    def test_the_text_names_the_file(self) -> None:
        assert Source.parse("file:a b.safetensors temperature=3").file == "a b.safetensors"
        assert Source.parse("smollm2").file is None

    @pytest.mark.parametrize("name", ["noise", "", "file:", "Sinks", "file: temperature=2", "file"])
    def test_an_unknown_family_names_the_known_ones(self, name: str) -> None:
        with pytest.raises(InputsError, match=r"unknown inputs .*; known: ") as error:
            Source.parse(name)
        assert str(error.value).endswith(
            "gaussian, clustered, local, needle, sinks, smollm2, file:NAME"
        )
        assert ", ".join(KNOWN) in str(error.value)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("sinks hot", "temperature=NUMBER and effective_keys=NUMBER; got 'hot'"),
            ("sinks heat=2", "temperature=NUMBER and effective_keys=NUMBER; got 'heat=2'"),
            ("sinks temperature", "got 'temperature' in 'sinks temperature'"),
            ("sinks temperature = 2", "got 'temperature' in"),
            ("file:a.safetensors heat=2", "got 'heat=2' in"),
            ("sinks temperature=", "temperature of inputs must be a number above 0; got ''"),
            ("sinks temperature=hot", "must be a number above 0; got 'hot'"),
            ("sinks temperature=0", "must be a number above 0; got '0'"),
            ("sinks temperature=-1", "must be a number above 0; got '-1'"),
            ("sinks temperature=nan", "must be a number above 0; got 'nan'"),
            ("sinks temperature=inf", "must be a number above 0; got 'inf'"),
            ("sinks effective_keys=1", "effective_keys of inputs must be a number above 1; got '1"),
            ("sinks temperature=1 effective_keys=9", "give one of temperature and effective_keys"),
            ("sinks temperature=1 temperature=1", "give one of temperature and effective_keys"),
        ],
    )
    def test_invalid_settings_are_refused_with_the_valid_ones(
        self, text: str, message: str
    ) -> None:
        with pytest.raises(InputsError, match=re.escape(message)):
            Source.parse(text)


class TestTemperature:
    @pytest.mark.parametrize("name", ["gaussian", "clustered", "local", "needle", "sinks"])
    def test_a_temperature_divides_all_scores_and_changes_nothing_else(self, name: str) -> None:
        plain = load(name)
        for temperature in (0.25, 4.0):
            other = load(f"{name} temperature={temperature}")
            # A power of two divides without rounding.
            assert torch.equal(other.query * temperature, plain.query)
            assert torch.equal(other.key, plain.key)
            assert torch.equal(other.value, plain.value)
        third = load(f"{name} temperature=3").query
        torch.testing.assert_close(third * 3, plain.query, rtol=1e-6, atol=0)

    def test_a_temperature_applies_to_captures(self, tmp_path: Path) -> None:
        path = tmp_path / "some.safetensors"
        capture_file(path)
        shape = {"head_dim": 8, "seq_len": 24, "heads": 4, "kv_heads": 2, "layer": 3}
        files = {path.name: path}
        plain = inputs.load(asked(f"file:{path.name}", **shape), files)
        warm = inputs.load(asked(f"file:{path.name} temperature=2", **shape), files)
        assert torch.equal(warm.query * 2, plain.query)
        assert torch.equal(warm.key, plain.key)
        assert warm.detail == plain.detail
        smollm2 = load("smollm2 temperature=0.5", layer=15)
        assert torch.equal(smollm2.query, 2 * load("smollm2", layer=15).query)

    def test_a_temperature_that_overflows_the_dtype_raises(self) -> None:
        with pytest.raises(InputsError, match=r"must be finite in float16; got infinite"):
            load("sinks temperature=1e-5", dtype="float16")
        with fresh_worker():
            row, _ = measure_case.measure(
                asked("sinks temperature=1e-5", dtype="float16"), settings()
            )
        assert row.status is Status.UNSUPPORTED
        assert "take a higher temperature" in row.reason


def effective_keys(query: Tensor, key: Tensor, *, causal: bool) -> float:
    """The mean over all rows and heads, from the whole matrix of weights."""
    query, key = query.double(), expand_heads(key.double(), query.shape[1])
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    if causal:
        rows, keys = scores.shape[-2:]
        hidden = torch.ones(rows, keys, dtype=torch.bool).triu(1 + keys - rows)
        scores = scores.masked_fill(hidden, -torch.inf)
        scores = scores[..., max(0, rows - keys) :, :]
    weights = scores.softmax(-1)
    return float(torch.special.entr(weights).sum(-1).exp().mean())


class TestEffectiveKeys:
    @pytest.mark.parametrize("wanted", [6, 32, 100])
    @pytest.mark.parametrize("causal", [True, False])
    @pytest.mark.parametrize("name", ["gaussian", "clustered", "local", "needle", "sinks"])
    def test_the_number_of_effective_keys_is_the_requested_one(
        self, name: str, causal: bool, wanted: int
    ) -> None:
        loaded = load(f"{name} effective_keys={wanted}", causal=causal)
        found = effective_keys(loaded.query, loaded.key, causal=causal)
        assert found == pytest.approx(wanted, rel=0.02)

    @pytest.mark.parametrize(
        "changes",
        [
            {"seq_len": 1500, "heads": 2},  # only some rows are used in the search
            {"seq_len": 100, "key_len": 700, "heads": 4, "kv_heads": 2, "batch": 2},
            {"seq_len": 700, "key_len": 300, "heads": 3},  # rows that see no key do not count
            {"head_dim": 5},
        ],
    )
    @pytest.mark.parametrize("name", ["clustered", "local", "sinks"])
    def test_the_number_of_effective_keys_is_the_requested_one_at_other_shapes(
        self, name: str, changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("bench.inputs.temperature.PAIRS", 1 << 21)
        loaded = load(f"{name} effective_keys=20", **changes)
        found = effective_keys(loaded.query, loaded.key, causal=True)
        assert found == pytest.approx(20, rel=0.02)

    def test_the_number_of_effective_keys_is_the_requested_one_in_a_captured_layer(self) -> None:
        for layer in (3, 15, 28):
            loaded = load("smollm2 effective_keys=10", layer=layer, heads=3, kv_heads=1)
            found = effective_keys(loaded.query, loaded.key, causal=True)
            assert found == pytest.approx(10, rel=0.02)
            assert loaded.detail.startswith(f"layer {layer}, tokens 0 to 511, ")

    def test_the_row_records_the_temperature_that_was_found(self) -> None:
        loaded = load("local effective_keys=20", heads=1)
        said = re.fullmatch(
            r"scores that fall with distance, seed 0; temperature ([\d.]+), at which 512 rows of "
            r"each head have ([\d.]+) effective keys on average",
            loaded.detail,
        )
        assert said
        again = load(f"local temperature={said[1]}", heads=1)
        torch.testing.assert_close(loaded.query, again.query, rtol=1e-3, atol=0)
        found = effective_keys(loaded.query, loaded.key, causal=True)
        assert found == pytest.approx(float(said[2]), rel=1e-3)

    def test_inputs_with_effective_keys_are_the_same_each_time(self) -> None:
        one, again = load("sinks effective_keys=9"), load("sinks effective_keys=9")
        assert torch.equal(one.query, again.query)
        assert one.detail == again.detail

    @pytest.mark.parametrize("wanted", [257, 1e6])
    def test_more_effective_keys_than_visible_keys_are_refused_with_the_valid_range(
        self, wanted: float
    ) -> None:
        """A causal row of 512 sees 256.5 keys on average."""
        with pytest.raises(InputsError, match="cannot be reached") as error:
            load(f"needle effective_keys={wanted}")
        said = re.search(
            r"have ([\d.]+) at temperature 0.00098 and ([\d.]+) at temperature 1024",
            str(error.value),
        )
        assert said
        assert float(said[1]) == pytest.approx(1, abs=0.2)
        assert float(said[2]) == pytest.approx(256.5, abs=0.1)

    def test_a_single_effective_key_is_refused(self) -> None:
        with pytest.raises(InputsError, match="cannot be reached"):
            load("sinks effective_keys=2", seq_len=1)

    def test_inputs_with_effective_keys_are_measured(self) -> None:
        with fresh_worker():
            row, _ = measure_case.measure(asked("sinks effective_keys=9", seq_len=64), settings())
        assert row.status is Status.OK
        assert row.effective_keys == pytest.approx(9, rel=0.02)
        assert row.case.inputs == "sinks effective_keys=9"
        assert "; temperature 0." in row.inputs_detail

    def test_effective_keys_that_cannot_be_reached_give_an_unsupported_row(self) -> None:
        with fresh_worker():
            row, _ = measure_case.measure(asked("local effective_keys=600"), settings())
        assert row.status is Status.UNSUPPORTED
        assert row.reason.startswith("effective_keys=600 cannot be reached")
