"""Sweeps: the valid content of files and overrides, and the cases that they give."""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

import variants
from bench import inputs
from bench.plan import sweep
from bench.plan.sweep import AXES, BUILT_IN, Sweep, SweepError, parse, read
from bench.schema.case import DIRECTIONS, Case
from bench.schema.validation import FileError
from tests.cases import capture_file, case
from variants.contract.hyperparameter import hyperparameter
from variants.contract.info import Info
from variants.sliding_window import SlidingWindowAttention

ONE = "sliding_window window_size=8"

WHOLE = ("cpu", "field", "gpu", "smoke")  # the built-in sweeps with every registered variant


def cases(*settings: str, device: str = "cpu") -> list[Case]:
    """The cases of axes given as `--set` texts."""
    chosen, files = Sweep("axes", ({},)).overridden(settings).located()
    return chosen.cases(device, files)


class TestFiles:
    def test_axes_at_the_top_apply_to_all_groups(self, tmp_path: Path) -> None:
        file = tmp_path / "mine.toml"
        file.write_text(
            f'variant = ["{ONE}"]\nheads = [2, 4]\nseq_len = 16\n'
            "[[group]]\ncausal = [true]\n[[group]]\nseq_len = [32]\nheads = [1]\n"
        )
        found = read(file)
        assert found.name == "mine"
        assert found.groups == (
            {"variant": (ONE,), "heads": (2, 4), "seq_len": (16,), "causal": (True,)},
            {"variant": (ONE,), "heads": (1,), "seq_len": (32,)},
        )
        seen = [(c.seq_len, c.heads, c.causal) for c in found.cases("cpu", {})]
        assert seen == [(16, 2, True), (16, 4, True), (32, 1, False)]

    def test_a_file_without_groups_is_one_group(self, tmp_path: Path) -> None:
        file = tmp_path / "mine.toml"
        file.write_text(f'variant = ["{ONE}"]\nseq_len = [16, 32]')
        assert len(read(file).cases("cpu", {})) == 2

    @pytest.mark.parametrize("name", WHOLE)
    def test_the_built_in_sweeps_can_be_planned(self, name: str) -> None:
        found = read(name)
        planned = found.cases("cuda" if name == "gpu" else "cpu", {})
        assert found.name == name
        assert {c.variant for c in planned} == set(variants.REGISTRY)
        assert {c.device for c in planned} == {"cuda" if name == "gpu" else "cpu"}
        # A variant that is only causal, or never causal, has cases too.
        asked = {(c.variant, c.causal) for c in planned}
        for variant, cls in variants.REGISTRY.items():
            assert asked & {(variant, causal) for causal in cls.info.causal_choices}
        assert {causal for _, causal in asked} == {False, True}

    def test_every_built_in_sweep_is_tested(self) -> None:
        # The sweep of the peers needs the peer packages: see test_peers.py.
        assert {file.stem for file in BUILT_IN.glob("*.toml")} == {
            *(*WHOLE, "answers", "gpu_check", "layer", "long", "peers")
        }

    def test_the_long_sweep_has_one_setting_of_a_knob(self) -> None:
        planned = read("long").cases("cpu", {})
        assert {c.seq_len for c in planned} == {65536, 1048576}
        for variant in {c.variant for c in planned}:
            asked = {c.attention.hyperparameters for c in planned if c.variant == variant}
            assert asked == {a.hyperparameters for a in variants.grid(variant, "default")}

    def test_the_sweep_of_a_layer_has_heads_projections_and_decoding(self) -> None:
        planned = read("layer").cases("cpu", {})
        calls = [c for c in planned if c.direction != "decode"]
        steps = [c for c in planned if c.direction == "decode"]
        assert {c.variant for c in steps} == {
            name for name, cls in variants.REGISTRY.items() if "step" in cls.info.supports
        }
        assert {256, 16384} <= {c.seq_len for c in steps}
        assert {c.heads * c.head_dim for c in calls} == {512}
        points = {(c.variant, c.heads, c.projections) for c in calls}
        names = {c.variant for c in calls}
        kinds = ("none", "separate", "shared")
        assert points == set(itertools.product(names, (1, 2, 4, 8, 16, 32), kinds))
        for heads in (1, 2, 4, 8, 16, 32):
            one = next(c for c in calls if c.heads == heads)
            assert inputs.load(one, {}).query.shape == (1, heads, 1024, 512 // heads)

    def test_the_sweep_of_answers_can_leave_out_each_kind_of_its_cases(self) -> None:
        planned = read("answers").cases("cpu", {})
        full = {c.attention for c in planned if c.variant == "full"}
        axes = ("inputs", "layer", "heads", "dtype", "direction", "causal")
        # The lengths of exact attention in each scene.
        lengths: dict[tuple[object, ...], set[int]] = defaultdict(set)
        for c in planned:
            if c.attention in full:
                lengths[tuple(getattr(c, axis) for axis in axes)].add(c.seq_len)
        assert min(map(len, lengths.values())) >= 4  # two ends and two interior lengths
        steps = sorted([256 << k for k in range(7)] + [384 << k for k in range(6)])
        real = ("smollm2", 15, 8, "float32", "forward", True)
        assert lengths[real] == set(steps[:11])
        assert lengths["sinks effective_keys=32", None, 2, *real[3:]] == set(steps)
        # Each of these values has another value beside it with all else equal.
        for place, values in (
            (1, inputs.open_capture("smollm2", {}).layers),
            (2, (2, 4, 8, 16)),
            (3, ("float32", "bfloat16")),
            (4, DIRECTIONS),
            (5, (True, False)),
        ):
            for value in values:
                assert len(lengths[*real[:place], value, *real[place + 1 :]]) >= 4
        assert len({inputs for inputs, *_ in lengths}) >= 4
        # Every method that may be recommended, and no other.
        softmax = {a.info.name for name in variants.REGISTRY for a in variants.grid(name)
                   if a.target != "other_kernel"}  # fmt: skip
        assert {c.variant for c in planned} == softmax

    def test_the_real_inputs_of_built_in_sweeps_fit_the_capture(self) -> None:
        tokens = inputs.open_capture("smollm2", {}).tokens
        for file in BUILT_IN.glob("*.toml"):
            if file.stem != "peers":
                real = [c for c in read(file.stem).cases("cpu", {}) if c.layer is not None]
                assert all(max(c.seq_len, c.key_len) <= tokens for c in real), file.stem
        for name in ("answers", "cpu", "gpu"):
            planned = read(name).cases("cpu", {})
            assert max(c.seq_len for c in planned if c.layer is not None) == tokens

    def test_a_folder_of_the_same_name_does_not_hide_a_built_in_sweep(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "smoke").mkdir()
        monkeypatch.chdir(tmp_path)
        assert read("smoke").name == "smoke"

    def test_an_unknown_sweep_names_the_built_in_ones(self) -> None:
        with pytest.raises(
            SweepError,
            match=r"no sweep 'cpuu' \(did you mean 'cpu'\?\); .*: answers, cpu, field, gpu, "
            r"gpu_check, layer, long, peers, smoke$",
        ):
            read("cpuu")

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(FileError, match=r"cannot read .*none\.toml: No such file"):
            read(tmp_path / "none.toml")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"seq_len = [1,", "is not valid TOML: "),
            (b"seq_len = 1\nseq_len = 2", "is not valid TOML: "),
            (b"\xff", "expected UTF-8"),
            (b"seq_len = " + b"[" * 100_000, "lists and objects in each other"),
            (b"seq_len = " + b"9" * 9_000, "is not valid TOML: "),
        ],
    )
    def test_a_file_that_is_no_toml_is_named(
        self, tmp_path: Path, content: bytes, message: str
    ) -> None:
        file = tmp_path / "mine.toml"
        file.write_bytes(content)
        with pytest.raises(FileError, match=rf"mine\.toml.* {message}"):
            read(file)

    def test_a_sweep_with_too_many_cases_is_refused_before_they_are_made(self) -> None:
        numbers = list(range(1, 1001))
        axes = {"variant": [ONE], "seq_len": numbers, "batch": numbers, "seed": numbers}
        with pytest.raises(SweepError, match="may have 100000 cases; got 1000000000,"):
            parse("axes", axes).cases("cpu", {})
        groups = [{"variant": [ONE], "seq_len": [n], "seed": [*range(999)]} for n in range(1, 1001)]
        with pytest.raises(SweepError, match="may have 100000 cases; got"):
            parse("groups", {"group": groups}).cases("cpu", {})

    def test_a_setting_that_a_variant_has_twice_is_refused(self) -> None:
        asked = parse("twice", {"seq_len": 16, "variant": "lsh num_hashes=1 num_hashes=2"})
        with pytest.raises(SweepError, match="'num_hashes' is given twice"):
            asked.cases("cpu", {})

    def test_a_sweep_may_set_the_timeout_of_a_case(self) -> None:
        assert parse("mine", {"seq_len": 16}).timeout == 180
        mine = parse("mine", {"seq_len": 16, "timeout": 30})
        assert mine.timeout == 30
        assert mine.groups == ({"seq_len": (16,)},)
        assert mine.overridden(["heads=1"]).located()[0].timeout == 30
        for wrong in (0, -1, True, "long", float("nan"), [30]):
            with pytest.raises(SweepError, match=r"mine: timeout must be a number .*; got "):
                parse("mine", {"timeout": wrong})

    def test_a_sweep_may_measure_energy(self) -> None:
        assert parse("mine", {"seq_len": 16}).energy == 0
        mine = parse("mine", {"seq_len": 16, "energy": 2})
        assert mine.overridden(["heads=1"]).located()[0].energy == 2.0
        with pytest.raises(SweepError, match=r"mine: energy must be a number .*; got -1"):
            parse("mine", {"energy": -1})

    def test_a_sweep_may_set_the_limit_for_slow_calls(self) -> None:
        assert parse("mine", {"seq_len": 16}).slow_call == float("inf")
        mine = parse("mine", {"seq_len": 16, "slow_call": 0.5})
        assert mine.slow_call == 0.5
        assert mine.overridden(["heads=1"]).located()[0].slow_call == 0.5
        with pytest.raises(SweepError, match=r"mine: slow_call must be a number .*; got -1"):
            parse("mine", {"slow_call": -1})

    @pytest.mark.parametrize("content", ["[group]\nheads = [1]", "group = []", "group = [1]"])
    def test_groups_must_be_an_array_of_tables(self, tmp_path: Path, content: str) -> None:
        file = tmp_path / "mine.toml"
        file.write_text(content)
        with pytest.raises(SweepError, match=r"groups must be written as \[\[group\]\] tables"):
            read(file)


class TestErrors:
    def test_an_unknown_axis_names_all_axes(self) -> None:
        with pytest.raises(SweepError) as caught:
            parse("mine", {"seqlen": [16]})
        assert "mine: unknown axis 'seqlen' (did you mean 'seq_len'?); the axes are: " in str(
            caught.value
        )
        assert all(axis in str(caught.value) for axis in AXES)
        with pytest.raises(
            SweepError, match=r"--set: unknown axis 'seqlen' .*; the axes are: batch, "
        ):
            cases("seqlen=16")

    @pytest.mark.parametrize(
        ("axis", "value", "message"),
        [
            ("dtype", "int8", "must be one of float32, bfloat16, float16, float64; got 'int8'"),
            ("dtype", "float46", r"must be .*; got 'float46' \(did you mean 'float64'\?\)"),
            ("dtype", ["x"], r"must be one of float32, .*; got \['x'\]"),
            ("direction", "back", "must be one of forward, forward_backward, decode; got 'back'"),
            ("projections", "joint", "must be one of none, separate, shared; got 'joint'"),
            ("heads", 0, "must be a whole number of at least 1; got 0"),
            ("heads", -1, "must be a whole number of at least 1; got -1"),
            ("heads", 1.5, r"must be a whole number of at least 1; got 1\.5"),
            ("seq_len", "long", "must be a whole number of at least 1; got 'long'"),
            ("key_len", True, "must be a whole number of at least 1; got True"),
            ("batch", {"a": 1}, "must be a whole number of at least 1; got {'a': 1}"),
            ("kv_heads", 0, "must be a whole number of at least 1; got 0"),
            ("head_dim", 0, "must be a whole number of at least 1; got 0"),
            ("width", 0, "must be a whole number of at least 1; got 0"),
            ("seed", -1, "must be a whole number of at least 0; got -1"),
            ("seed", 2**63, r"must be below 2\^63; got 9223372036854775808"),
            ("layer", "middle", "must be a whole number of at least 0; got 'middle'"),
            ("causal", "yes", "must be true, false or if_possible; got 'yes'"),
            ("causal", 1, "must be true, false or if_possible; got 1"),
            ("other_operators", "no", "must be true or false; got 'no'"),
            ("longest", "full", "must be VARIANT=TOKENS, such as full=16384; got 'full'"),
            ("longest", "fll=9", "must be VARIANT=TOKENS, such as full=16384; got 'fll=9'"),
            ("longest", "full=0", "must be VARIANT=TOKENS, such as full=16384; got 'full=0'"),
            ("variant", 5, "must be text; got 5"),
            ("variant", " ", "must be text; got ' '"),
            ("implementation", "", "must be text; got ''"),
            ("inputs", 5, "must be text; got 5"),
        ],
    )
    def test_an_invalid_value_is_refused_with_the_valid_ones(
        self, axis: str, value: Any, message: str
    ) -> None:
        with pytest.raises(SweepError, match=f"^{axis} {message}$"):
            parse("mine", {axis: [value]})

    def test_every_axis_checks_its_values(self) -> None:
        for axis in AXES:
            with pytest.raises(SweepError, match=axis):
                parse("mine", {axis: [None]})

    def test_an_axis_needs_at_least_one_value(self) -> None:
        with pytest.raises(SweepError, match="mine: axis 'heads' has no values"):
            parse("mine", {"heads": []})

    def test_an_override_needs_an_equals_sign(self) -> None:
        with pytest.raises(SweepError, match=r"write an override as axis=value,value; got 'heads'"):
            cases("heads")

    @pytest.mark.parametrize("text", ["heads=", "heads=1,,2", "heads=1;2", "seed=-1", "heads=²"])
    def test_an_override_that_is_no_number_is_refused(self, text: str) -> None:
        with pytest.raises(SweepError, match="must be a whole number of at least"):
            cases("seq_len=16", text)

    def test_an_axis_that_is_overridden_twice_is_refused(self) -> None:
        """One of the two values would be ignored."""
        with pytest.raises(SweepError, match=r"--set heads is given twice; write .* heads=a,b"):
            cases("seq_len=16", "heads=1", "heads=2")

    def test_a_sweep_needs_a_length(self) -> None:
        with pytest.raises(SweepError, match="a sweep needs the axis seq_len"):
            cases(f"variant={ONE}")

    def test_an_unknown_variant_names_the_known_ones(self) -> None:
        for text in ("sliding", "sliding window_size=8"):
            with pytest.raises(
                SweepError, match=r"unknown variant 'sliding' .*; known variants: "
            ) as e:
                cases("seq_len=16", f"variant={text}")
            assert all(name in str(e.value) for name in variants.REGISTRY)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("sliding_window window=8", "no hyperparameter 'window' .*; it has: .*window_size"),
            (
                "sliding_window window_size",
                "write hyperparameters as name=value; got 'window_size'",
            ),
            (
                "sliding_window window_size=-1",
                "window_size must be an integer of at least 0; got -1",
            ),
            ("sliding_window window_size=x", "window_size must be .*; got 'x'"),
            ("lsh shared_qk=yes", "shared_qk must be True or False; got 'yes'"),
            ("linear feature_map=sin", "feature_map must be one of elu, relu; got 'sin'"),
            ("full implementation=fast", "implementation must be one of auto, onednn, .*'fast'"),
        ],
    )
    def test_an_invalid_hyperparameter_is_refused_with_the_valid_ones(
        self, text: str, message: str
    ) -> None:
        with pytest.raises(SweepError, match=message):
            cases("seq_len=16", f"variant={text}")

    def test_an_unknown_implementation_is_refused_with_those_of_the_variant(self) -> None:
        with pytest.raises(
            SweepError, match="full: implementation must be one of auto, onednn, sdpa, plain"
        ):
            cases("seq_len=16", "variant=full", "implementation=blocks")

    def test_key_value_heads_must_divide_the_query_heads(self) -> None:
        for heads, kv_heads in ((4, 3), (2, 4)):
            message = f"kv_heads must divide heads; got heads={heads}, kv_heads={kv_heads}"
            with pytest.raises(SweepError, match=message):
                cases("seq_len=16", f"heads={heads}", f"kv_heads={kv_heads}")

    def test_heads_must_divide_the_width(self) -> None:
        with pytest.raises(SweepError, match="heads must divide width; got width=512, heads=3"):
            cases("seq_len=16", "width=512", "heads=4,3")

    def test_a_width_and_a_head_dim_cannot_be_combined(self) -> None:
        message = r"width is heads \* head_dim and replaces head_dim; got both, give one of them"
        with pytest.raises(SweepError, match=f"--set: {message}"):
            cases("seq_len=16", "width=512", "head_dim=64")
        with pytest.raises(SweepError, match=f"mine: {message}"):
            parse("mine", {"seq_len": 16, "head_dim": 64, "group": [{"width": 512}]})

    def test_unknown_inputs_name_the_known_ones(self) -> None:
        with pytest.raises(
            SweepError, match="unknown inputs 'noise'; known: gaussian, clustered, "
        ):
            cases("seq_len=16", "inputs=noise")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("sinks heat=2", "temperature=NUMBER and effective_keys=NUMBER; got 'heat=2'"),
            ("sinks temperature=0", "temperature of inputs must be a number above 0; got '0'"),
            ("sinks effective_keys=few", "must be a number above 1; got 'few'"),
            ("sinks temperature=2 effective_keys=9", "give one of temperature and effective_keys"),
        ],
    )
    def test_invalid_settings_of_inputs_are_refused(self, text: str, message: str) -> None:
        with pytest.raises(SweepError, match=message):
            cases("seq_len=16", f"inputs={text}")
        with pytest.raises(SweepError, match=message):
            parse("mine", {"seq_len": [16], "inputs": ["gaussian", text]})

    def test_a_missing_capture_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(SweepError, match=r"none\.safetensors: expected .* got no such file"):
            cases("seq_len=16", f"inputs=file:{tmp_path / 'none.safetensors'}")

    def test_a_layer_that_was_not_captured_is_refused_with_the_captured_ones(self) -> None:
        with pytest.raises(
            SweepError, match=r"smollm2 holds the layers \[3, 15, 28\]; got layer 4"
        ):
            cases("seq_len=16", "inputs=smollm2", "layer=3,4")


class TestCases:
    def test_a_missing_axis_has_its_default(self) -> None:
        assert cases("seq_len=16", f"variant={ONE}") == [
            case(seq_len=16, heads=8, kv_heads=8, head_dim=64)
        ]

    def test_without_a_variant_every_registered_variant_has_its_grid(self) -> None:
        found = [one.attention for one in cases("seq_len=16")]
        assert len(found) == len(set(found))
        assert set(found) == {one for name in variants.REGISTRY for one in variants.grid(name)}

    def test_a_name_gives_its_grid_or_the_default_of_its_knob(self) -> None:
        def asked(*settings: str) -> set[str]:
            return {c.attention.hyperparameters for c in cases("seq_len=16", *settings)}

        sizes = "variant=sliding_window"
        grid = {f"window_size={n}" for n in (64, 128, 256, 512)}
        assert asked(sizes) == asked(sizes, "settings=grid") == grid
        assert asked(sizes, "settings=default") == {"window_size=256"}
        assert asked(sizes, "settings=default,grid") == grid
        # A setting that is no number is no knob, and a written setting is kept.
        maps = cases("seq_len=16", "variant=linear,compressed", "settings=default")
        assert len(maps) == 4
        assert asked("variant=sliding_window window_size=8", "settings=default") == {
            "window_size=8"
        }
        with pytest.raises(SweepError, match="settings must be one of grid, default; got 'best'"):
            asked("settings=best")

    def test_each_method_is_causal_if_possible(self) -> None:
        found = cases("seq_len=16", "variant=linformer,lsh,transformer_xl", "causal=if_possible")
        assert {(c.variant, c.causal) for c in found} == {
            ("linformer", False), ("lsh", True), ("transformer_xl", True),
        }  # fmt: skip

    def test_a_slow_variant_can_end_at_shorter_sequences(self) -> None:
        found = cases("seq_len=16,32,64", "variant=full,lsh", "settings=default", "longest=lsh=32")
        assert {c.seq_len for c in found if c.variant == "lsh"} == {16, 32}
        assert {c.seq_len for c in found if c.variant == "full"} == {16, 32, 64}
        longer = cases("seq_len=16", "key_len=64", "variant=lsh", "longest=lsh=32")
        assert not longer

    def test_other_operators_can_be_left_out(self) -> None:
        asked = "variant=linear,additive,lsh"
        kept = cases("seq_len=16", asked, "settings=default", "other_operators=false")
        # For linear, the feature maps that do not approximate softmax.
        left_out = {
            c for c in cases("seq_len=16", asked, "settings=default")
            if c.attention.target == "other_kernel"
        }  # fmt: skip
        assert {c.variant for c in left_out} == {"linear", "additive"}
        assert not left_out & set(kept)
        assert "lsh" in {c.variant for c in kept}
        assert len(cases("seq_len=16", asked, "settings=default")) == len(kept) + len(left_out)

    @pytest.mark.parametrize("name", ["cpu", "gpu"])
    def test_a_built_in_sweep_has_the_curve_of_every_variant(self, name: str) -> None:
        planned = read(name).cases("cpu", {})
        curves = [c for c in planned if c.direction == "forward" and c.inputs == "smollm2"]
        for variant in variants.REGISTRY:
            own = [c for c in curves if c.variant == variant and c.seq_len == 4096]
            assert set(variants.grid(variant)) <= {c.attention for c in own}
        # At shorter lengths a variant has one value of its knob.
        other = {c.attention for c in planned if c.variant == "lsh" and c.seq_len < 4096}
        assert other == {variants.create("lsh")}

    def test_without_a_variant_those_with_a_step_are_decoded(self) -> None:
        found = cases("seq_len=16", "direction=decode,forward", "causal=true")
        names = {c.variant for c in found if c.direction == "decode"}
        assert names == {
            name for name, cls in variants.REGISTRY.items() if "step" in cls.info.supports
        }
        assert {c.variant for c in found} == set(variants.REGISTRY)
        (asked,) = cases("seq_len=16", "direction=decode", "variant=lsh bucket_size=8")
        assert asked.variant == "lsh"

    def test_axes_are_combined(self) -> None:
        found = cases(
            "seq_len=16,32", "heads=1,2,3", "dtype=float32,bfloat16", "causal=true,false",
            f"variant={ONE}",
        )  # fmt: skip
        points = {(c.seq_len, c.heads, c.dtype, c.causal) for c in found}
        expected = itertools.product((16, 32), (1, 2, 3), ("float32", "bfloat16"), (True, False))
        assert points == set(expected)
        assert len(found) == 24

    def test_short_cases_come_before_long_ones_for_any_order_of_the_values(self) -> None:
        found = cases("seq_len=1024,16,128", "heads=8,1", "dtype=float32,bfloat16")
        assert [c.seq_len for c in found] == sorted(c.seq_len for c in found)
        found = cases("seq_len=16", "key_len=64,16,1024,128", f"variant={ONE}")
        assert [c.key_len for c in found] == [16, 64, 128, 1024]
        found = cases("seq_len=16,2,1,128", "key_len=256", f"variant={ONE}")
        assert [c.seq_len for c in found] == [1, 2, 16, 128]

    def test_cases_of_one_shape_are_consecutive(self) -> None:
        found = [
            c.shape for c in cases("seq_len=64,16", "heads=4,2", "seed=1,0", "causal=true,false")
        ]
        assert len([shape for shape, _ in itertools.groupby(found)]) == len(set(found)) == 16

    def test_a_case_of_two_groups_occurs_once(self) -> None:
        both = parse(
            "mine",
            {
                "variant": [ONE],
                "group": [{"seq_len": [16, 32, 16]}, {"seq_len": [32, 64], "causal": [False]}],
            },
        )
        assert [c.seq_len for c in both.cases("cpu", {})] == [16, 32, 64]

    def test_two_texts_of_the_same_setting_give_one_case(self) -> None:
        found = cases("seq_len=16", f"variant={ONE},sliding_window window_size=8,{ONE}")
        assert len(found) == 1

    def test_key_value_heads_default_to_the_query_heads(self) -> None:
        found = cases("seq_len=16", "heads=4,8", f"variant={ONE}")
        assert [(c.heads, c.kv_heads) for c in found] == [(4, 4), (8, 8)]
        found = cases("seq_len=16", "heads=4,8", "kv_heads=1,2", f"variant={ONE}")
        assert [(c.heads, c.kv_heads) for c in found] == [(4, 1), (4, 2), (8, 1), (8, 2)]

    def test_keys_default_to_the_number_of_queries(self) -> None:
        found = cases("seq_len=16,32", f"variant={ONE}")
        assert [(c.seq_len, c.key_len) for c in found] == [(16, 16), (32, 32)]
        found = cases("seq_len=1,16", "key_len=64", f"variant={ONE}")
        assert {(c.seq_len, c.key_len) for c in found} == {(1, 64), (16, 64)}

    def test_only_captures_have_layers_and_the_middle_one_is_the_default(self) -> None:
        found = cases("seq_len=16", "inputs=gaussian,smollm2", f"variant={ONE}")
        assert {(c.inputs, c.layer) for c in found} == {("gaussian", None), ("smollm2", 15)}
        found = cases("seq_len=16", "inputs=gaussian,smollm2", "layer=3,28", f"variant={ONE}")
        assert sorted((c.inputs, c.layer or 0) for c in found) == [
            ("gaussian", 0),
            ("smollm2", 3),
            ("smollm2", 28),
        ]

    def test_a_width_is_divided_by_all_heads(self) -> None:
        found = cases("seq_len=16", "width=512,64", "heads=1,8", f"variant={ONE}")
        assert sorted((c.heads, c.kv_heads, c.head_dim) for c in found) == [
            (1, 1, 64), (1, 1, 512), (8, 8, 8), (8, 8, 64),
        ]  # fmt: skip

    def test_an_implementation_axis_replaces_the_implementation_of_the_variant(self) -> None:
        found = cases("seq_len=16", "variant=full", "implementation=plain,sdpa")
        assert [c.attention.implementation for c in found] == ["plain", "sdpa"]

    def test_a_capture_is_named_without_its_folder(self, tmp_path: Path) -> None:
        file = tmp_path / "some.safetensors"
        capture_file(file)
        chosen = Sweep("axes", ({"inputs": (f"file:{file}", "gaussian")},))
        located, files = chosen.located()
        assert located.groups == ({"inputs": ("file:some.safetensors", "gaussian")},)
        assert files == {"some.safetensors": file}
        settings = ["seq_len=16", "head_dim=8", f"inputs=file:{file}", f"variant={ONE}"]
        assert [(c.inputs, c.layer) for c in cases(*settings)] == [("file:some.safetensors", 15)]

    def test_a_capture_keeps_its_settings_and_may_have_several_of_them(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "my models").mkdir()
        file = tmp_path / "my models" / "some of them.safetensors"
        capture_file(file)
        texts = (f"file:{file}", f"file:{file} temperature=2.0", f"file:{file} effective_keys=9")
        located, files = Sweep("axes", ({"inputs": texts},)).located()
        name = "file:some of them.safetensors"
        assert files == {"some of them.safetensors": file}
        assert located.groups == (
            {"inputs": (name, f"{name} temperature=2", f"{name} effective_keys=9")},
        )
        settings = ["seq_len=16", "head_dim=8", f"inputs={texts[1]}", f"variant={ONE}"]
        assert [(c.inputs, c.layer) for c in cases(*settings)] == [(f"{name} temperature=2", 15)]

    def test_inputs_have_settings_like_variants(self, tmp_path: Path) -> None:
        file = tmp_path / "mine.toml"
        file.write_text(
            'seq_len = [16]\ninputs = ["sinks temperature=0.50", "clustered effective_keys=32", '
            f'"gaussian temperature=2", "sinks temperature=1"]\nvariant = ["{ONE}"]\n'
        )
        spelled = {
            "sinks temperature=0.5",
            "clustered effective_keys=32",
            "gaussian temperature=2",
            "sinks",
        }
        assert {c.inputs for c in read(file).cases("cpu", {})} == spelled
        text = "inputs=sinks temperature=.5,clustered  effective_keys=32,gaussian temperature=2.0"
        found = cases("seq_len=16", f"variant={ONE}", f"{text}, sinks")
        assert {c.inputs for c in found} == spelled
        assert {c.layer for c in found} == {None}
        assert len({c.case_id for c in found}) == 4

    def test_inputs_of_one_meaning_give_one_case(self) -> None:
        text = "inputs=local,local temperature=1,local temperature=1.0"
        assert [c.inputs for c in cases("seq_len=16", f"variant={ONE}", text)] == ["local"]

    def test_two_captures_of_one_name_are_refused(self, tmp_path: Path) -> None:
        """A row could not distinguish them, and one capture would replace the other."""
        for folder in ("a", "b"):
            (tmp_path / folder).mkdir()
            capture_file(tmp_path / folder / "some.safetensors")
        names = [f"file:{tmp_path / folder / 'some.safetensors'}" for folder in ("a", "b", "a")]
        with pytest.raises(SweepError, match="rows identify inputs by the name of the file"):
            cases("seq_len=16", "head_dim=8", f"inputs={names[0]},{names[1]}")
        assert cases("seq_len=16", "head_dim=8", f"inputs={names[0]},{names[2]}", f"variant={ONE}")


class TestOverrides:
    def test_an_override_replaces_the_axis_in_every_group(self) -> None:
        two = parse("mine", {"group": [{"heads": [1], "seq_len": [16]}, {"seq_len": [32]}]})
        changed = two.overridden(["heads=2,4", "causal=TRUE", f"variant={ONE}"])
        added = {"heads": (2, 4), "causal": (True,), "variant": (ONE,)}
        assert changed.groups == ({"seq_len": (16,), **added}, {"seq_len": (32,), **added})
        assert changed.name == "mine"

    def test_groups_that_become_equal_become_one(self) -> None:
        two = parse("mine", {"seq_len": [16], "group": [{"heads": [1]}, {"heads": [2]}]})
        assert len(two.overridden(["heads=4"]).groups) == 1
        assert len(two.overridden(["seq_len=4"]).groups) == 2

    def test_a_width_replaces_a_head_dim_and_vice_versa(self) -> None:
        narrow = parse("mine", {"seq_len": [16], "head_dim": [16]})
        wide = narrow.overridden(["width=64"])
        assert wide.groups == ({"seq_len": (16,), "width": (64,)},)
        assert wide.overridden(["head_dim=16"]).groups == narrow.groups

    def test_overrides_do_not_change_the_sweep(self) -> None:
        one = parse("mine", {"seq_len": [16]})
        one.overridden(["seq_len=32"])
        assert one.groups == ({"seq_len": (16,)},)
        assert one.overridden([]) == one

    def test_numbers_and_words_are_read_in_the_type_of_the_axis(self) -> None:
        (group,) = (
            Sweep("axes", ({},))
            .overridden(
                ["seq_len= 16, 32", "causal=true,False", "dtype=bfloat16", "layer=3", "seed=0"]
            )
            .groups
        )
        assert group == {
            "seq_len": (16, 32),
            "causal": (True, False),
            "dtype": ("bfloat16",),
            "layer": (3,),
            "seed": (0,),
        }


class TestReproduction:
    @pytest.mark.parametrize("name", sorted(variants.REGISTRY))
    def test_a_case_gives_exactly_its_attention(self, name: str) -> None:
        for attention in [*variants.grid(name), variants.create(name)]:
            asked = case(
                variant=name,
                implementation=attention.implementation,
                hyperparameters=attention.hyperparameters,
            )
            assert asked.attention == attention

    @pytest.mark.parametrize("name", sorted(variants.REGISTRY))
    def test_every_hyperparameter_is_read_back_from_text(self, name: str) -> None:
        """Also values outside every grid, one field at a time."""
        for field in dataclasses.fields(variants.REGISTRY[name]):
            default, choices = field.default, field.metadata.get("choices")
            if field.name == "implementation":
                others = variants.REGISTRY[name].info.implementations
            elif choices:
                others = choices
            elif isinstance(default, bool):
                others = (not default,)
            else:
                others = (default + field.metadata.get("step", 1),)
            for value in others:
                attention = variants.create(name, **{field.name: value})
                asked = case(
                    variant=name,
                    implementation=attention.implementation,
                    hyperparameters=attention.hyperparameters,
                )
                assert asked.attention == attention

    def test_a_fraction_is_read_back_from_text(self, monkeypatch: pytest.MonkeyPatch) -> None:
        @dataclass(frozen=True, kw_only=True)
        class Warm(SlidingWindowAttention):
            info: ClassVar[Info] = replace(SlidingWindowAttention.info, name="warm")
            temperature: float = hyperparameter(1.0, minimum=0.0, doc="divisor of scores")

        monkeypatch.setitem(variants.REGISTRY, "warm", Warm)
        for temperature in (0.5, 1e-07, 2.5e8, 1e22, 3.0):
            warm = Warm(temperature=temperature, window_size=3)
            asked = case(variant="warm", hyperparameters=warm.hyperparameters)
            assert asked.attention == warm
        (one,) = cases("seq_len=16", "variant=warm temperature=2")
        assert one.attention.hyperparameters == "temperature=2.0 window_size=256"
        for text in ("cold", "-1", "nan", "1e"):
            with pytest.raises(SweepError, match=f"temperature must be .*got .*{text}"):
                cases("seq_len=16", f"variant=warm temperature={text}")

    @pytest.mark.parametrize("name", WHOLE)
    def test_the_columns_of_a_row_give_exactly_its_case(self, name: str) -> None:
        planned = read(name).cases("cpu", {})
        assert len(planned) > 50
        for one in planned:
            assert cases(*as_settings(one)) == [one]

    def test_the_columns_of_a_row_without_defaults_give_exactly_its_case(self) -> None:
        axes = [
            "batch=3", "heads=4", "kv_heads=2", "seq_len=8", "key_len=16", "head_dim=64",
            "causal=true", "dtype=float16", "direction=forward_backward", "seed=5", "layer=28",
            "inputs=smollm2 temperature=0.5,sinks effective_keys=9", "variant=full,lsh",
            "projections=shared",
        ]  # fmt: skip
        planned = cases(*axes)
        assert len(planned) == 2 * (len(variants.grid("full")) + len(variants.grid("lsh")))
        for one in planned:
            assert cases(*as_settings(one)) == [one]


def as_settings(one: Case) -> list[str]:
    """The `--set` texts of the case columns of a row."""
    texts = [f"variant={one.variant} {one.attention.hyperparameters}"]
    for axis, value in one.values.items():
        if axis not in ("variant", "hyperparameters", "device") and value is not None:
            texts.append(f"{axis}={value}")
    return texts


def test_the_device_of_the_plan_is_the_device_of_its_cases() -> None:
    assert {c.device for c in cases("seq_len=16", device="cuda")} == {"cuda"}


def test_every_default_belongs_to_an_axis() -> None:
    assert set(sweep.DEFAULTS) < set(AXES)
    assert parse("mine", {axis: list(values) for axis, values in sweep.DEFAULTS.items()})
