"""The ``tensorrt_llm`` model on the ONNX engine: all that serving knows of this engine."""

from __future__ import annotations

from contract.model_settings import OnnxEngineSettings, from_model_config
from python_backend.artifact import load_public_key, verify_artifact
from python_backend.engine.cuda_device import choose_device
from python_backend.engine.engine_config import EngineConfig
from python_backend.engine.onnx_engine import OnnxEngine
from python_backend.guidance.grammars import Grammars
from python_backend.serving.engine_model import EngineModel
from python_backend.serving.triton_api import model_config, resolve


class TritonPythonModel(EngineModel):
    """Serves the engine folder that the settings name."""

    def load(self, args: dict[str, str]) -> tuple[OnnxEngine, OnnxEngineSettings]:
        """Load it, if it is what was built and signed."""
        settings = from_model_config(OnnxEngineSettings, model_config(args))
        folder = resolve(args, settings.engine_dir)
        if settings.trusted_key:
            verify_artifact(folder, load_public_key(resolve(args, settings.trusted_key)))
        config = EngineConfig.load(folder)
        engine = OnnxEngine(
            folder,
            max_sequences=settings.max_num_sequences,
            max_num_tokens=settings.max_num_tokens,
            kv_cache_bytes=settings.kv_cache_bytes,
            kv_cache_dtype=settings.kv_cache_dtype,
            num_threads=settings.num_threads,
            device=choose_device(config, settings.execution_provider, settings.device_id),
        )
        self.grammars = Grammars(folder / "tokenizer.json", config.vocab_size, config.end_token_ids)
        return engine, settings
