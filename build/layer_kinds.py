"""Which layers have a sliding window and which a rotary embedding, by each family's own rule."""

from __future__ import annotations

from build.build_errors import CheckpointError
from build.family import Family, Settings
from build.model_config import wrong

_KINDS = {
    "sliding_attention": True,
    "full_attention": False,
    "attention": False,  # its former name
}


def layer_windows(family: Family, settings: Settings) -> tuple[int, ...]:
    """How many keys each layer's queries see, 0 for all.

    Raises:
        CheckpointError: ``layer_types`` names another kind of layer, or a window that isn't there.
    """
    window = settings.sliding_window
    if family.windows == "Qwen" and not settings.use_sliding_window:
        window = None
    slides = _slides(family, settings, window)
    if any(slides) and not window:
        wrong("sliding_window", window, "the width of the window that its layers have")
    return tuple(window if each and window else 0 for each in slides)


def _slides(family: Family, settings: Settings, window: int | None) -> list[bool]:
    layers = range(settings.num_hidden_layers)
    if settings.layer_types is not None:  # of families that don't read it it is None
        if len(settings.layer_types) != len(layers):
            wrong("layer_types", list(settings.layer_types), "one a layer")
        for kind in settings.layer_types:
            if kind not in _KINDS:
                raise CheckpointError(f"the attention {kind!r} is not supported")
        return [_KINDS[kind] for kind in settings.layer_types]
    match family.windows:
        case "none":
            return [False for _ in layers]
        case "every layer":
            return [window is not None for _ in layers]
        case "Qwen":
            first = settings.max_window_layers
            return [window is not None and index >= first for index in layers]
        case "Gemma-2":
            return [index % 2 == 0 for index in layers]
        case "SmolLM3":
            has_window = settings.use_sliding_window and window is not None
            unrotated = unrotated_layers(settings)
            return [has_window and index in unrotated for index in layers]


def unrotated_layers(settings: Settings) -> tuple[int, ...]:
    """The layers whose queries and keys are not turned.

    Raises:
        CheckpointError: ``no_rope_layers`` is too short.
    """
    layers, rotates = range(settings.num_hidden_layers), settings.no_rope_layers
    if rotates is not None:  # 1 where a layer has a rotary embedding
        if len(rotates) < len(layers):
            wrong("no_rope_layers", list(rotates), "one a layer")
        return tuple(index for index in layers if not rotates[index])
    if settings.no_rope_layer_interval is None:
        return ()
    interval = settings.no_rope_layer_interval
    return tuple(layers[interval - 1 :: interval])
