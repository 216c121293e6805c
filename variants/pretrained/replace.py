"""Variants in pretrained models, as an `attn_implementation` of Hugging Face transformers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from variants.contract.added import added_names
from variants.contract.attention import Attention
from variants.contract.checks import UnsupportedError
from variants.contract.parsing import as_attention
from variants.pretrained.model_call import AttentionFunction, add_parameters
from variants.pretrained.model_masks import make_mask

# Parts of a name that have a special meaning in transformers.
RESERVED = ("eager", "sdpa", "flash", "flex_attention", "|", "/", ":", "@")


def attn_implementation(attention: Attention | str, name: str | None = None) -> str:
    """Register an attention in transformers, and return its name.

        AutoModelForCausalLM.from_pretrained(..., attn_implementation=attn_implementation("linear"))

    The name can also be passed to `from_config` and `model.set_attn_implementation`. In all these
    places, transformers does not check that the model uses the name; `replace_attention` does.

    The model's scaling, grouped heads, causality and padding are kept. If the model needs anything
    else (a soft cap, sinks, a position bias, its own window, dropout in training, another kind of
    mask), it raises UnsupportedError when it runs. It also raises UnsupportedError if it continues
    from a cache with an attention that is not `prefix_stable`: call
    `generate(..., use_cache=False)` with such an attention. A sequence that contains only padding
    attends to nothing. Learned tensors have their seeded values. Attention weights are returned if
    the model passes `output_attentions` to its attention.

    Args:
        attention: a variant, or its text, such as "lsh num_hashes=4".
        name: None means a name that is made from the settings of the attention.

    Raises:
        ValueError: an unknown variant; a name that is in use, or has a meaning in transformers.
        ImportError: transformers is not installed, or is older than 4.56.
    """
    function = AttentionFunction(as_attention(attention))
    return _register(function, _name(function) if name is None else name)


def replace_attention(
    model: Any,
    attention: Attention | str,
    *,
    example: Mapping[str, Any] | None = None,
    layers: Collection[int] | None = None,
) -> Any:
    """Replace the attention of a transformers model, and check that the model uses the new one.

    The check is one forward pass over four tokens, or over `example`. Every module with "attention"
    in the name of its class must use transformers' AttentionInterface. If a module does not, or if
    the variant does not support the model, the model stays unchanged.

    The learned tensors of the variant are added to each of these modules as `attention_parameters`,
    with their seeded values. Training the model trains them, and `state_dict` contains them.
    `from_pretrained` does not load them: replace the attention first, then load the state.

    Args:
        model: a `transformers.PreTrainedModel`, changed in place.
        attention: a variant, or its text, such as "lsh num_hashes=4".
        example: arguments of a forward pass, for models with another input than token ids.
        layers: numbers of the layers to replace, counted from 0 as in the `layer_idx` of attention
            modules; the other layers use exact attention, `full`. None means all layers.

    Returns:
        The model.

    Raises:
        ValueError: an unknown variant; not a transformers model; an example on which the model
            cannot run; a layer that the model does not have.
        UnsupportedError: the attention cannot be replaced, or the variant does not support it.
        ImportError: transformers is not installed, or is older than 4.56.
    """
    transformers = _transformers()
    if not isinstance(model, transformers.PreTrainedModel):
        raise ValueError(
            f"model must be a transformers.PreTrainedModel; got {type(model).__name__}"
        )
    example = _example(model) if example is None else example
    chosen = as_attention(attention)
    function = AttentionFunction(chosen, None if layers is None else frozenset(layers))
    name = _register(function, _name(function))
    recorder = _CallRecorder(function)
    before = [(config, config._attn_implementation) for config in _configs(model)]
    transformers.AttentionInterface.register(name, recorder)
    try:
        with _quiet(transformers.utils.logging):
            model.set_attn_implementation(name)
        _run(model, example, recorder)
        _check_all_replaced(model, recorder)
        _check_layers(model, recorder)
    except BaseException:
        for config, implementation in before:
            config._attn_implementation_internal = implementation
        raise
    finally:
        transformers.AttentionInterface.register(name, function)
    for module, (heads, head_dim) in recorder.heads.items():
        if function.replaces(module):
            add_parameters(module, function.attention, heads, head_dim)
    return model


def _register(function: AttentionFunction, name: str) -> str:
    """Register an attention function and a mask function in transformers; return the name."""
    transformers = _transformers()
    if meant := [part for part in RESERVED if part in name.lower()]:
        raise ValueError(
            f"name must contain none of {', '.join(map(repr, RESERVED))}, which have a meaning in "
            f"transformers; got {name!r}, which contains {meant[0]!r}"
        )
    registered = transformers.AttentionInterface().get(name, function)
    if registered != function:
        raise ValueError(f"name {name!r} is already in use for {registered}; pass another name")
    transformers.AttentionInterface.register(name, function)
    # For a name without a mask function, a model passes no mask at all.
    transformers.AttentionMaskInterface.register(name, make_mask)
    return name


def _transformers() -> Any:
    try:
        import transformers
        from transformers import AttentionInterface, AttentionMaskInterface  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "attention of pretrained models needs transformers of at least version 4.56, which is "
            "not installed; run: pip install 'transformers>=4.56'"
        ) from error
    return transformers


def _name(function: AttentionFunction) -> str:
    """Return a name such as `sliding_window(window_size=256)`. An implementation is written as its
    number, because the names of some implementations have another meaning in transformers."""
    attention = function.attention
    settings = attention.hyperparameters.split()
    if attention.implementation != "auto":
        known = (*attention.info.implementations, *added_names(attention.info.name))
        settings.append(f"implementation={known.index(attention.implementation)}")
    if function.layers is not None:
        settings.append(f"layers={'+'.join(map(str, sorted(function.layers)))}")
    return f"{attention.info.name}({', '.join(settings)})"


@dataclass
class _CallRecorder:
    """An attention function that records the modules that call it, with heads and head_dim."""

    function: AttentionFunction
    heads: dict[nn.Module, tuple[int, int]] = field(default_factory=dict)
    failed: bool = False

    def __call__(
        self, module: nn.Module, query: Tensor, *arguments: Any, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        self.heads[module] = query.shape[1], query.shape[3]
        self.failed = True
        result = self.function(module, query, *arguments, **options)
        self.failed = False
        return result


def _example(model: Any) -> dict[str, Tensor]:
    if model.main_input_name != "input_ids":
        raise ValueError(
            f"{type(model).__name__} reads {model.main_input_name}: pass example, the arguments of "
            "a forward pass that checks its attention"
        )
    tokens = torch.ones(1, 4, dtype=torch.int64, device=model.device)
    names = ["input_ids", "attention_mask"]
    if model.config.is_encoder_decoder:
        names.append("decoder_input_ids")
    return dict.fromkeys(names, tokens)


def _configs(model: Any) -> Iterator[Any]:
    """Yield the configurations in a model, also nested ones; some of them more than once."""
    waiting = [part.config for part in model.modules() if hasattr(part, "set_attn_implementation")]
    while waiting:
        config = waiting.pop()
        yield config
        parts = (getattr(config, name, None) for name in config.sub_configs)
        waiting.extend(part for part in parts if part is not None)


def _run(model: Any, example: Mapping[str, Any], recorder: _CallRecorder) -> None:
    """Run a forward pass without dropout, and leave the model unchanged."""
    training = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad():
            model.eval()(**example)
    except UnsupportedError:
        raise
    except Exception as error:
        if recorder.failed:
            raise
        raise ValueError(
            f"{type(model).__name__} could not run on the example, so its attention cannot be "
            f"checked; pass another example. {type(error).__name__}: {error}"
        ) from error
    finally:
        for module, was in training:
            module.training = was


def _check_all_replaced(model: Any, recorder: _CallRecorder) -> None:
    modules = dict(model.named_modules())
    replaced = {name for name, module in modules.items() if module in recorder.heads}
    called = {
        name for name, module in modules.items() if "attention" in type(module).__name__.lower()
    }

    def within(name: str, other: str) -> bool:
        return name == other or name.startswith(f"{other}.")

    others = [
        name
        for name in sorted(called)
        if not any(within(name, one) or within(one, name) for one in replaced)
    ]
    if others or not replaced:
        which = f"{len(replaced)} of its modules use it"
        if others:
            which += f", {len(others)} do not, or not with this example: {', '.join(others[:3])}"
        raise UnsupportedError(
            f"{type(model).__name__}: expected attention through transformers' AttentionInterface; "
            f"{which}; the model is unchanged"
        )


def _check_layers(model: Any, recorder: _CallRecorder) -> None:
    known: set[Any] = {getattr(module, "layer_idx", None) for module in recorder.heads}
    if (wanted := recorder.function.layers) is None or (wanted and wanted <= known):
        return
    if None in known:
        raise UnsupportedError(
            f"{type(model).__name__}: expected attention modules with a layer_idx, to replace "
            "some of them; these have none, so replace all (layers=None)"
        )
    raise ValueError(
        f"{type(model).__name__}: layers must be at least one of "
        f"{', '.join(map(str, sorted(known)))}; got {sorted(wanted)}"
    )


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """Silence the warnings of transformers: the check finds the same problems."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
