"""Inputs: the same numbers for the same case, and captured heads with their own key/value heads."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import variants
from bench import inputs
from bench.inputs import CaptureError, Inputs, InputsError
from bench.inputs.captured import Capture
from bench.schema.case import Case
from bench.schema.measurement import Measurement, Raw
from bench.schema.outcome import Status
from bench.workloads.attention import measure_case
from tests.cases import capture_file, case, settings

pytestmark = pytest.mark.usefixtures("fresh")

TOO_LONG = (
    "file:some.safetensors holds 24 tokens; 25 were asked for; take inputs=sinks "
    "effective_keys=32, or capture a longer text"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "somebody"
    folder.mkdir()
    return folder / "some.safetensors"


def captured(**changes: object) -> Case:
    """Four heads of layer 3 with two key/value heads, as captured."""
    asked = {"inputs": "file:some.safetensors", "layer": 3, "head_dim": 8, "seq_len": 24}
    return case(**(asked | {"heads": 4, "kv_heads": 2} | changes))


class TestGaussian:
    def test_the_same_case_has_the_same_numbers(self) -> None:
        torch.manual_seed(1)
        first = inputs.load(case(), {})
        torch.manual_seed(2)
        again = inputs.load(case(), {})
        for one, other in zip(
            (first.query, first.key, first.value),
            (again.query, again.key, again.value),
            strict=True,
        ):
            assert torch.equal(one, other)
        assert first.detail == again.detail == "independent standard normal numbers, seed 0"

    def test_the_global_random_state_does_not_change(self) -> None:
        before = torch.get_rng_state()
        inputs.load(case(), {})
        assert torch.equal(torch.get_rng_state(), before)

    def test_another_seed_has_other_numbers(self) -> None:
        one, other = inputs.load(case(), {}), inputs.load(case(seed=1), {})
        assert not torch.isclose(one.query, other.query).any(-1).all()

    def test_query_key_and_value_are_independent(self) -> None:
        loaded = inputs.load(case(seq_len=512), {})
        for one, other in (
            (loaded.query, loaded.key),
            (loaded.query, loaded.value),
            (loaded.key, loaded.value),
        ):
            # A correlation of 2·512·16 pairs is within five standard deviations of none.
            assert abs(float((one * other).mean())) < 5 / math.sqrt(one.numel())
            assert float(one.square().mean()) == pytest.approx(1, abs=0.1)

    def test_shapes_are_those_of_the_case(self) -> None:
        loaded = inputs.load(case(batch=3, heads=4, kv_heads=2, seq_len=5, key_len=7), {})
        assert loaded.query.shape == (3, 4, 5, 16)
        assert loaded.key.shape == loaded.value.shape == (3, 2, 7, 16)

    @pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
    def test_another_dtype_holds_the_same_numbers(self, dtype: str) -> None:
        kind = getattr(torch, dtype)
        loaded = inputs.load(case(dtype=dtype), {})
        assert loaded.query.dtype == loaded.key.dtype == loaded.value.dtype == kind
        assert torch.equal(loaded.value, inputs.load(case(), {}).value.to(kind))


class TestCaptured:
    def test_the_heads_of_the_file_come_first_and_in_order(self, path: Path) -> None:
        tensors = capture_file(path, scale=8**-0.5)
        loaded = inputs.load(captured(), {path.name: path})
        assert torch.equal(loaded.query[0], tensors["layer_3.query"].float())
        assert torch.equal(loaded.key[0], tensors["layer_3.key"].float())
        assert torch.equal(loaded.value[0], tensors["layer_3.value"].float())
        assert loaded.detail == "layer 3, tokens 0 to 23, query heads 0 1 2 3 of 4"

    @pytest.mark.parametrize(
        ("batch", "heads", "kv_heads"),
        [
            (1, 4, 2),
            (1, 2, 2),
            (1, 1, 1),
            (1, 2, 1),
            (1, 4, 1),
            (1, 3, 3),
            (1, 8, 8),
            (2, 4, 2),
            (2, 16, 8),
            (3, 12, 4),
        ],
    )
    @pytest.mark.parametrize("seed", [0, 1])
    def test_each_query_head_reads_the_key_value_head_of_its_capture(
        self, path: Path, batch: int, heads: int, kv_heads: int, seed: int
    ) -> None:
        tensors = capture_file(path, scale=8**-0.5)
        query, key, value = (
            tensors[f"layer_15.{role}"].float() for role in ("query", "key", "value")
        )
        asked = captured(batch=batch, heads=heads, kv_heads=kv_heads, seed=seed, layer=15)
        loaded = inputs.load(asked, {path.name: path})
        named = re.fullmatch(
            r"layer 15, tokens 0 to 23, query heads ([\d ]+) of 4(, drawn with replacement)?",
            loaded.detail,
        )
        assert named
        drawn = []
        for b in range(batch):
            for head in range(heads):
                (mine,) = [i for i in range(4) if torch.equal(loaded.query[b, head], query[i])]
                own = head // (heads // kv_heads)
                (read,) = [j for j in range(2) if torch.equal(loaded.key[b, own], key[j])]
                assert torch.equal(loaded.value[b, own], value[read])
                assert mine // 2 == read
                drawn.append(mine)
        assert drawn == [int(word) for word in named[1].split()]
        assert bool(named[2]) == (len(set(drawn)) < len(drawn))
        # No head is repeated while another head of the file is unused.
        used_kv = Counter(
            j
            for b in range(batch)
            for h in range(kv_heads)
            for j in range(2)
            if torch.equal(loaded.key[b, h], key[j])
        )
        assert len(used_kv) == min(2, batch * kv_heads)

    def test_other_seeds_draw_other_heads(self, path: Path) -> None:
        capture_file(path)
        details = {
            inputs.load(captured(heads=16, kv_heads=16, seed=seed), {path.name: path}).detail
            for seed in range(5)
        }
        assert len(details) == 5
        again = inputs.load(captured(heads=16, kv_heads=16, seed=4), {path.name: path}).detail
        assert again in details

    def test_queries_have_the_last_positions_of_the_keys(self, path: Path) -> None:
        tensors = capture_file(path, scale=8**-0.5)
        loaded = inputs.load(captured(seq_len=5, key_len=20), {path.name: path})
        assert torch.equal(loaded.query[0], tensors["layer_3.query"].float()[:, 15:20])
        assert torch.equal(loaded.key[0], tensors["layer_3.key"].float()[:, :20])
        assert "tokens 0 to 19," in loaded.detail

    @pytest.mark.parametrize("scale", [8**-0.5, 0.5, 0.0625])
    def test_the_scale_of_the_model_is_kept(self, path: Path, scale: float) -> None:
        """Variants divide scores by the square root of head_dim; the captured model may use another
        scale."""
        tensors = capture_file(path, scale=scale)
        loaded = inputs.load(captured(dtype="float64"), {path.name: path})
        full = variants.create("full", implementation="plain")
        out = full(loaded.query, loaded.key, loaded.value)
        query, key, value = (
            tensors[f"layer_3.{role}"].double() for role in ("query", "key", "value")
        )
        key, value = key.repeat_interleave(2, 0), value.repeat_interleave(2, 0)
        expected = (query @ key.transpose(-2, -1) * scale).softmax(-1) @ value
        torch.testing.assert_close(out[0], expected, rtol=1e-6, atol=1e-7)

    def test_the_committed_capture_needs_no_file(self) -> None:
        loaded = inputs.load(case(inputs="smollm2", layer=15, head_dim=64, heads=3, kv_heads=1), {})
        assert loaded.query.shape == (1, 3, 32, 64)
        assert loaded.detail == "layer 15, tokens 0 to 31, query heads 0 1 2 of 3"


def scores(query: Tensor, key: Tensor) -> Tensor:
    return query.double() @ key.double().transpose(-2, -1)


class TestOtherWidths:
    """Heads of another width contain the channels of captured heads, and no other numbers."""

    def load(self, path: Path, **changes: object) -> Inputs:
        asked = captured(**({"kv_heads": changes.get("heads", 4)} | changes))
        return inputs.load(asked, {path.name: path})

    def test_fewer_heads_are_concatenated_captured_heads(self, path: Path) -> None:
        capture_file(path, scale=8**-0.5)
        whole = self.load(path, heads=4, head_dim=8, batch=2)
        wide = self.load(path, heads=2, head_dim=16, batch=2)
        for one, other in zip(tensors_of(wide), tensors_of(whole), strict=True):
            assert one.shape == (2, 2, 24, 16)
            for head in range(2):
                expected = torch.cat([other[:, 2 * head], other[:, 2 * head + 1]], -1)
                assert torch.equal(one[:, head], expected)
        single = self.load(path, heads=1, head_dim=32, batch=2)
        added = scores(whole.query, whole.key).sum(1)
        torch.testing.assert_close(scores(single.query, single.key)[:, 0], added)

    @pytest.mark.parametrize("positions", ["rotary, already applied", "none in query and key"])
    def test_each_of_more_heads_is_a_part_of_one_captured_head(
        self, path: Path, positions: str
    ) -> None:
        capture_file(path, scale=8**-0.5, positions=positions)
        whole = self.load(path, heads=4, head_dim=8, batch=2)
        narrow = self.load(path, heads=8, head_dim=4, batch=2)
        for one, other in zip(tensors_of(narrow), tensors_of(whole), strict=True):
            assert one.shape == (2, 8, 24, 4)
            parts = one.unflatten(1, (4, 2)).transpose(2, 3).flatten(3)  # both parts concatenated
            assert not torch.equal(parts, other)
            assert torch.equal(parts.sort(-1).values, other.sort(-1).values)
        parts = scores(narrow.query, narrow.key).unflatten(1, (4, 2)).sum(2)
        torch.testing.assert_close(parts, scores(whole.query, whole.key))

    def test_rotary_positions_equal_those_of_a_narrower_head(self, path: Path) -> None:
        """Two channels of ones, rotated by position, in the pairs of `rotate_half`."""
        capture_file(path, scale=8**-0.5, positions="rotary, already applied")

        def turned(channels: int, frequencies: Tensor) -> Tensor:
            angles = torch.arange(24)[:, None] * frequencies
            return torch.cat([angles.cos() - angles.sin(), angles.cos() + angles.sin()], -1)

        frequencies = 10000.0 ** (-torch.arange(0, 8, 2) / 8)
        file = load_file(path)
        for role in ("query", "key"):
            like = file[f"layer_3.{role}"]
            file[f"layer_3.{role}"] = turned(8, frequencies).half().expand_as(like).contiguous()
        save_file(file, path, Capture.open(path).metadata)
        narrow = self.load(path, heads=8, head_dim=4).query[0]
        for part, own in ((0, frequencies[::2]), (1, frequencies[1::2])):
            torch.testing.assert_close(narrow[part], turned(4, own), rtol=0, atol=2e-3)
        narrower_head = 10000.0 ** (-torch.arange(0, 4, 2) / 4)
        torch.testing.assert_close(frequencies[::2], narrower_head)

    def test_the_scale_follows_the_channels_of_a_head(self, path: Path) -> None:
        tensors = capture_file(path, scale=0.5)
        wide = self.load(path, heads=1, head_dim=16, dtype="float64")
        out = variants.create("full", implementation="plain")(*tensors_of(wide))
        query, key, value = (
            tensors[f"layer_3.{role}"].double() for role in ("query", "key", "value")
        )
        # The model's scale of 0.5 is for 8 channels; query heads 0 and 2 read key heads 0 and 1.
        summed = query[0] @ key[0].T + query[2] @ key[1].T
        weights = (summed * 0.5 * (8 / 16) ** 0.5).softmax(-1)
        expected = weights @ torch.cat([value[0], value[1]], -1)
        torch.testing.assert_close(out[0, 0], expected, rtol=1e-6, atol=1e-7)

    def test_the_row_describes_the_change_of_width(self, path: Path) -> None:
        capture_file(path, positions="rotary, already applied")
        assert self.load(path, heads=2, head_dim=16).detail == (
            "layer 3, tokens 0 to 23, query heads 0 2 1 3 of 4; 2 joined to each head of 16 "
            "channels; scale 0.354, as the model's 0.5 is for 8"
        )
        assert self.load(path, heads=8, head_dim=4).detail == (
            "layer 3, tokens 0 to 23, query heads 0 2 1 3 of 4; each split into 2 heads of 4 "
            "channels, which keep rotary pairs together; scale 0.707, as the model's 0.5 is for 8"
        )

    def test_every_number_of_heads_uses_the_same_captured_heads(self) -> None:
        details = {
            inputs.load(
                case(inputs="smollm2", layer=15, heads=heads, head_dim=512 // heads), {}
            ).detail.partition(";")[0]
            for heads in (1, 2, 4, 8, 16, 32)
        }
        assert len(details) == 1

    def test_heads_of_the_captured_width_are_unchanged(self) -> None:
        """Earlier rows stay comparable: compares with a digest of the numbers of an earlier
        version."""
        loaded = inputs.load(case(inputs="smollm2", layer=15, head_dim=64, heads=8, kv_heads=4), {})
        assert loaded.detail == (
            "layer 15, tokens 0 to 31, query heads 0 1 2 0 1 0 1 1 of 3, drawn with replacement"
        )
        digest = hashlib.sha256(b"".join(x.numpy().tobytes() for x in tensors_of(loaded)))
        assert digest.hexdigest()[:16] == "22bac4634e3acbc7"


def tensors_of(loaded: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    return loaded.query, loaded.key, loaded.value


class TestUnsupported:
    def row(self, asked: Case, files: dict[str, Path]) -> Measurement:
        row, raw = measure_case.measure(asked, settings(files=files))
        assert raw == Raw()
        return row

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            (
                {"head_dim": 12},
                "file:some.safetensors has head_dim 8; its heads are joined or split evenly, "
                "so head_dim must be a multiple or a divisor of 8; got 12",
            ),
            (
                {"heads": 3, "kv_heads": 3, "head_dim": 4},
                "file:some.safetensors has head_dim 8; only whole heads are split, so heads * "
                "head_dim must be a multiple of 8; got 3 * 4 = 12",
            ),
            (
                {"heads": 8, "kv_heads": 8, "head_dim": 1},
                "file:some.safetensors has rotary positions, which pair channels, so head_dim must "
                "be even; got 1",
            ),
            (
                {"head_dim": 16},
                "file:some.safetensors has head_dim 8; heads of another width need as many "
                "key/value heads as query heads; got heads=4, kv_heads=2",
            ),
            ({"seq_len": 25}, TOO_LONG),
            (
                {"seq_len": 4, "key_len": 25},
                TOO_LONG,
            ),
            ({"layer": None}, "file:some.safetensors needs a layer, one of [3, 15]"),
            ({"layer": 4}, "file:some.safetensors: layer must be one of 3, 15; got 4"),
            (
                {"seq_len": 9, "key_len": 8},
                "file:some.safetensors: queries are the last of the captured keys, so seq_len (9) "
                "must not exceed key_len (8)",
            ),
        ],
    )
    def test_a_case_that_the_capture_cannot_provide_is_an_unsupported_row(
        self, path: Path, changes: dict[str, object], reason: str
    ) -> None:
        capture_file(path, positions="rotary, already applied")
        row = self.row(captured(**changes), {path.name: path})
        assert (row.status, row.reason) == (Status.UNSUPPORTED, reason)

    def test_a_missing_or_damaged_capture_is_an_unsupported_row(self, path: Path) -> None:
        row = self.row(captured(), {path.name: path})
        assert row.status is Status.UNSUPPORTED
        assert "no such file" in row.reason
        tensors = capture_file(path)
        metadata = Capture.open(path).metadata
        tensors["layer_3.key"][0, 0, 0] = math.nan
        save_file(tensors, path, metadata)
        row = self.row(captured(), {path.name: path})
        assert row.status is Status.UNSUPPORTED
        assert "layer_3.key must be finite; got 1 NaN" in row.reason

    def test_an_unknown_family_names_the_known_ones(self) -> None:
        for name in ("gaussiann", "file:", ""):
            with pytest.raises(
                InputsError, match=r"known: gaussian, clustered, .*, smollm2, file:NAME"
            ):
                inputs.open_capture(name, {})
        for name in ("gaussiann", "gaussian heat=2"):
            row = self.row(case(inputs=name), {})
            assert row.status is Status.UNSUPPORTED
            assert name.split()[-1] in row.reason

    def test_a_capture_with_a_temperature_gives_the_same_errors(self, path: Path) -> None:
        """Errors of the capture are reported before the temperature is applied."""
        files = {path.name: path}
        warm = "file:some.safetensors temperature=2"
        row = self.row(captured(inputs=warm), files)
        assert "no such file" in row.reason
        tensors = capture_file(path)
        row = self.row(captured(inputs=warm, seq_len=25), files)
        assert row.reason == TOO_LONG
        row = self.row(captured(inputs=warm, head_dim=12), files)
        assert row.reason.startswith("file:some.safetensors has head_dim 8; ")
        tensors["layer_3.query"][0, 0, 0] = math.inf
        save_file(tensors, path, Capture.open(path).metadata)
        row = self.row(captured(inputs="file:some.safetensors effective_keys=3"), files)
        assert row.status is Status.UNSUPPORTED
        assert "layer_3.query must be finite; got 1 NaN or infinite numbers" in row.reason


class TestNoPathInARow:
    def texts(self, row: Measurement) -> str:
        return " ".join(str(value) for value in row.values.values())

    def test_a_measured_case_records_no_path(self, path: Path) -> None:
        capture_file(path)
        row, _ = measure_case.measure(captured(), settings(files={path.name: path}))
        assert row.status is Status.OK
        assert row.case.inputs == "file:some.safetensors"
        assert os.sep not in self.texts(row)
        assert "somebody" not in self.texts(row)

    @pytest.mark.parametrize("relative", [False, True])
    def test_a_case_with_a_missing_file_records_no_path(
        self, path: Path, relative: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(path.parent.parent)
        given = Path("somebody") / path.name if relative else path
        row, _ = measure_case.measure(captured(), settings(files={path.name: given}))
        assert row.status is Status.UNSUPPORTED
        assert row.reason.startswith("file:some.safetensors: expected a .safetensors file")
        assert "somebody" not in self.texts(row)


def test_a_file_that_is_no_capture_is_named(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, file)
    assert list(load_file(file)) == ["weight"]
    with pytest.raises(CaptureError, match=r"other\.safetensors: format must be"):
        inputs.open_capture(f"file:{file}", {})


def test_a_draw_takes_each_head_before_any_head_twice() -> None:
    def counts(count: int) -> Tensor:
        drawn = inputs._draw(count, 3, torch.Generator().manual_seed(0))
        assert len(drawn) == count
        return torch.bincount(drawn, minlength=3)

    assert counts(2).tolist() == [1, 1, 0]
    assert counts(3).tolist() == [1, 1, 1]
    assert counts(300).min() > 50
