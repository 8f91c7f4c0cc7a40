"""What several tests of the models share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tests.python_backend.serving.fake_triton import initialize_args
from tests.python_backend.serving.preprocessing_model import (
    CONFIG,
    POLICIES,
    TOKENIZER,
    engine_config,
)

from python_backend.serving.preprocessing import TritonPythonModel  # isort: skip


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Callable[..., TritonPythonModel]]:
    """Makes the model with a tokenizer and, if wanted, a chat template."""
    models: list[TritonPythonModel] = []

    def load(
        template: str | None = None,
        tokenizer: Tokenizer = TOKENIZER,
        context: int | None = None,
        **parameters: str,
    ) -> TritonPythonModel:
        folder = tmp_path / "tensorrt_llm" / "1"
        folder.mkdir(parents=True)
        tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(CONFIG, encoding="utf-8")
        if context is not None:
            engine_config(context).save(folder)
        if template is not None:
            (folder / "chat_template.jinja").write_text(template)
        (tmp_path / "policies.yaml").write_text(POLICIES)
        parameters.setdefault("policy_file", str(tmp_path / "policies.yaml"))
        model = TritonPythonModel()
        model.initialize(initialize_args(tmp_path / "preprocessing", **parameters))
        models.append(model)
        return model

    yield load
    for model in models:
        model.finalize()
