"""An NVIDIA GPU through ONNX Runtime's CUDA provider, and the keys and values that lie on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as state

from contract.errors import EngineError
from python_backend.engine.engine_config import EngineConfig, ExecutionProvider, KVDtype

_PROVIDER = "CUDAExecutionProvider"


class Device(Protocol):
    """Where a graph runs and its memory lies.

    Attributes:
        name: What it is, for a log.
        kind: What ONNX Runtime calls memory there: ``cuda`` or ``cpu``.
        index: Which of its kind.
    """

    name: str
    kind: str
    index: int

    def allocate(self, shape: tuple[int, ...], dtype: type) -> ort.OrtValue:
        """Memory on the device, with anything in it.

        Raises:
            EngineError: There is not so much.
        """

    def load(self, path: Path) -> ort.InferenceSession:
        """A session that runs a graph on the device.

        Raises:
            EngineError: The graph is damaged, or the device can't run it.
        """


class CudaDevice:
    """A GPU that ONNX Runtime can use."""

    kind = "cuda"

    def __init__(self, index: int) -> None:
        """Open a GPU.

        Args:
            index: Which one, as CUDA counts them.

        Raises:
            EngineError: There is none, or this onnxruntime is not the one for GPUs.
        """
        if _PROVIDER not in ort.get_available_providers():
            raise EngineError(
                f"CUDA is asked for, but onnxruntime {ort.__version__} as it is installed here "
                "computes on the CPU only: install requirements/cuda.txt (make venv-cuda)"
            )
        self.index = index
        self.name = f"ONNX Runtime on CUDA device {index}"
        # CUDA's libraries where they are installed as Python packages beside onnxruntime.
        ort.preload_dlls()
        _allocate_as_requested()
        try:
            ort.OrtValue.ortvalue_from_shape_and_type((1,), np.uint8, self.kind, index)
        except Exception as error:  # onnxruntime raises classes of its own, without a common base
            raise EngineError(
                f"CUDA device {index} can't be used: it needs an NVIDIA GPU, its driver, CUDA 13 "
                f"and cuDNN 9 (make venv-cuda installs the last two): {str(error).strip()}"
            ) from error

    def allocate(self, shape: tuple[int, ...], dtype: type) -> ort.OrtValue:
        try:
            return ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype, self.kind, self.index)
        except Exception as error:  # onnxruntime raises classes of its own, without a common base
            size_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
            raise EngineError(f"{size_bytes} bytes can't be had on {self.name}: {error}") from error

    def load(self, path: Path) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        # What the GPU can't run is an error, not a round trip to the CPU in every step.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        # int4 weights go into the products as they are, for any number of rows; otherwise only
        # for few rows, and are written out in fp16 first for more.
        options.add_session_config_entry("ep.cuda.fpa_intb_gemm", "1")
        provider: dict[str, Any] = {
            "device_id": self.index,
            "arena_extend_strategy": "kSameAsRequested",
        }
        try:
            return ort.InferenceSession(str(path), options, providers=[(_PROVIDER, provider)])
        except Exception as error:  # onnxruntime raises classes of its own, without a common base
            raise EngineError(f"{path} can't be loaded: {error}") from error


def _allocate_as_requested() -> None:
    """Have the KV cache take what it asks for.

    The arena that memory outside sessions comes from takes the next power of two instead, up to
    twice as much. The provider's option of this name is for sessions alone.
    """
    if hasattr(state, "set_arena_extend_strategy"):  # onnxruntime means to remove it some day
        state.set_arena_extend_strategy(state.ArenaExtendStrategy.kSameAsRequested)


def choose_device(
    config: EngineConfig, provider: ExecutionProvider, index: int
) -> CudaDevice | None:
    """The GPU that an engine is to run on, or None for a CPU.

    Args:
        config: The engine's description.
        provider: What the settings say that it runs on.
        index: Which GPU.

    Raises:
        EngineError: The engine was built for something else, or the GPU can't be used.
    """
    built_for = config.execution_provider
    if provider != built_for:
        raise EngineError(
            f"execution_provider is {provider}, but the engine was built for {built_for}: set "
            f"onnx.execution_provider={built_for}, or serve an engine for {provider}"
        )
    return CudaDevice(index) if provider == "cuda" else None


@dataclass(frozen=True)
class CudaLayout:
    """How keys and values lie on the device: an array of each a layer, blocks of whole tokens.

    ``[blocks, block_tokens, num_kv_heads, head_dim]`` in float16, what the operator
    ``com.microsoft.PagedAttention`` reads and writes.

    Attributes:
        num_layers: Decoder layers.
        num_kv_heads: Key and value heads a layer.
        head_dim: Width of one head.
    """

    num_layers: int
    num_kv_heads: int
    head_dim: int
    kv_dtype: KVDtype = "float16"

    @classmethod
    def of(cls, config: EngineConfig) -> CudaLayout:
        """The layout of an engine's keys and values."""
        return cls(config.num_layers, config.num_kv_heads, config.head_dim)

    @property
    def block_tokens(self) -> int:
        """Tokens of a block: as few as FlashAttention takes for this head.

        Its paged kernel reads tiles of so many keys, which must not straddle two blocks
        (``flash_fwd_launch_template.h`` of ONNX Runtime, ``run_mha_fwd_splitkv_dispatch``). With
        smaller blocks the operator takes a slower kernel.
        """
        if self.head_dim <= 64:
            return 256
        return 128 if self.head_dim <= 128 else 64

    @property
    def block_bytes(self) -> int:
        """Bytes of one block, keys and values of all layers."""
        elements = self.block_tokens * self.num_kv_heads * self.head_dim
        return 2 * self.num_layers * elements * np.dtype(np.float16).itemsize


class DeviceKVMemory:
    """The blocks themselves, allocated as a whole.

    Attributes:
        caches: By their names in the graph, ``key_cache.0`` and so on.
        resident_bytes: Memory that they take.
    """

    def __init__(self, device: Device, layout: CudaLayout, num_blocks: int) -> None:
        """Allocate the memory.

        Raises:
            EngineError: The device has not so much.
        """
        shape = (num_blocks, layout.block_tokens, layout.num_kv_heads, layout.head_dim)
        self.resident_bytes = num_blocks * layout.block_bytes
        try:
            self.caches = {
                f"{part}_cache.{layer}": device.allocate(shape, np.float16)
                for layer in range(layout.num_layers)
                for part in ("key", "value")
            }
        except EngineError as error:
            raise EngineError(
                f"a KV cache of {self.resident_bytes / 2**30:.1f} GiB finds no room: lower "
                f"kv_cache_bytes. {error}"
            ) from error

    def give_back(self, blocks: list[int]) -> None:
        """Keep them: they are allocated as a whole."""
