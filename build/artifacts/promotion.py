"""Which version a model repository serves.

A promoted version is one folder of the model, ``tensorrt_llm/<number>``, beside Triton's
``model.py``. There is only one at a time, so Triton's own policy (the latest version) serves it,
forwards and backwards alike. A running Triton goes on with the version that it has loaded until it
is told to load anew, and requests in flight end on the version that they began with.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from build.artifacts.artifact_store import Artifact, Store, link_or_copy
from build.artifacts.manifest import MANIFEST_FILE, Manifest
from build.build_errors import BuildError
from contract.errors import ArtifactError
from contract.names import TENSORRT_LLM
from python_backend.artifact import file_digest, load_public_key, public_pem, verify_artifact
from python_backend.engine.engine_config import ENGINE_FILE, EngineConfig, served_version

TRUSTED_KEY_FILE = "trusted.pem"
_HISTORY_FILE = ".promoted.json"
_MODEL_FILE = "model.py"
_TEXT_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
_FIRST = "1"
"""The version folder whose ``model.py`` is in git; those of other versions are links to it."""
_SERVED_ENGINE = "onnx"
"""How manifests call the engine that is served from a model repository."""
_FORMER_ENGINE = "onnxruntime"
"""How they called it when it had a format that is no longer read."""


class Repository:
    """The model repository, as far as the served version goes.

    Attributes:
        root: What ``tritonserver --model-repository`` reads.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._model = root / TENSORRT_LLM

    @property
    def served(self) -> int | None:
        """The version that Triton would load."""
        folder = served_version(self._model)
        return None if folder is None else int(folder.name)

    def promote(self, artifact: Artifact, restart: bool = False) -> None:
        """Serve an artifact from now on.

        Args:
            artifact: The version.
            restart: Whether Triton is started anew before it serves the version. Otherwise the
                tokenizer must stay the same: a running Triton exchanges its models one by one, so
                some requests would be tokenized for one version and answered by the other.

        Raises:
            ArtifactError: Its signature or digests don't hold, or another key is trusted.
            BuildError: It has another tokenizer, and Triton is not started anew; it is not for
                ONNX Runtime; or it is of a former format.
            OSError: The disk is full, or a folder cannot be written.
        """
        engine = artifact.manifest.recipe["target"]["engine"]
        if engine == _FORMER_ENGINE:
            raise BuildError(
                f"version {artifact.version} is of a format that Triton would no longer load: "
                "build it again"
            )
        if engine != _SERVED_ENGINE:
            raise BuildError(
                f"version {artifact.version} is for {engine}, which is served from where it lies: "
                "see what its build printed"
            )
        verify_artifact(artifact.folder, load_public_key(self.root / TRUSTED_KEY_FILE))
        before = self.served
        if before is not None and not restart:
            served = _text_files(self._model / str(before))
            if served != _text_files(artifact.folder):
                raise BuildError(
                    f"version {artifact.version} has another tokenizer than version {before}, "
                    "which is served: stop Triton, promote with ARGS=--restart, start Triton"
                )
        self._place(artifact)
        for path in self._model.glob("[0-9]*"):
            if path.name != artifact.folder.name:
                self._retire(path)
        history = self._history()
        promoted = [each for each in history.promoted if each != artifact.version]
        identity = file_digest(artifact.folder / MANIFEST_FILE)
        rolled_back = [each for each in history.rolled_back if each != identity]
        self._save_history(_History([*promoted, artifact.version], rolled_back))

    def check(self) -> None:
        """See that Triton will load what is served, but for the contents of its files.

        Those it reads itself, and they may be large.

        Raises:
            BuildError: It is not signed, or files are missing or were added.
        """
        folder = served_version(self._model)
        if folder is None:
            return
        try:
            trusted = load_public_key(self.root / TRUSTED_KEY_FILE)
            verify_artifact(folder, trusted, contents=False)
        except ArtifactError as error:
            raise BuildError(
                f"Triton would not load version {folder.name}. {error}. `make promote VERSION=… "
                "ARGS=--restart` puts a signed version in its place (`make versions` lists them)"
            ) from None

    def roll_back(self, store: Store, restart: bool = False) -> tuple[int, int]:
        """Serve the version that was promoted before the present one.

        Args:
            store: Where the versions are.
            restart: As in :meth:`promote`.

        Returns:
            The version that was left, and the one that is served from now on.

        Raises:
            BuildError: There was none, or it has another tokenizer.
            ArtifactError: Its signature or digests don't hold.
        """
        left = self.served
        identity = self._identity(left)
        earlier = [each for each in self._history().promoted if each != left]
        if left is None or not earlier:
            raise BuildError("there is no version to roll back to")
        self.promote(store.get(earlier[-1]), restart)
        history = self._history()
        promoted = [each for each in history.promoted if each != left]
        self._save_history(_History(promoted, [*history.rolled_back, identity]))
        return left, earlier[-1]

    def serves(self, artifact: Artifact) -> bool:
        """Whether an artifact is served: this very one, whatever a store's numbers were before."""
        return self._identity(self.served) == file_digest(artifact.folder / MANIFEST_FILE)

    def was_rolled_back(self, artifact: Artifact) -> bool:
        """Whether an artifact was left by a roll-back and not promoted again since."""
        return file_digest(artifact.folder / MANIFEST_FILE) in self._history().rolled_back

    def kept_from(self, recipe: str, store: Store) -> int | None:
        """The served version, where a build that nobody asked for must not take its place.

        It may take the place of its own recipe's newest version, and of one that this checkout
        can't read.

        Args:
            recipe: The digest of the recipe of that build.
            store: Where the versions are.
        """
        served = self.served
        if served is None:
            return None
        folder = self._model / str(served)
        try:
            EngineConfig.load(folder)
            of_recipe = Manifest.read(folder).inputs.recipe == recipe
        except (ArtifactError, BuildError):
            return None
        return None if of_recipe and served == store.newest_of(recipe) else served

    def name_of(self, version: int) -> str:
        """What a version that was promoted is called.

        Raises:
            BuildError: Its manifest is missing or not a manifest.
        """
        return Manifest.read(self._model / str(version)).name

    def keeps(self, version: int) -> bool:
        """Whether a version is served, or is where a roll-back would go."""
        return version == self.served or version in self._history().promoted[-2:]

    def trust(self, key: ec.EllipticCurvePublicKey) -> None:
        """Trust a key, where the repository trusts none yet."""
        path = self.root / TRUSTED_KEY_FILE
        if not path.exists():
            self.root.mkdir(parents=True, exist_ok=True)
            path.write_bytes(public_pem(key))

    def _place(self, artifact: Artifact) -> None:
        """Put an artifact's files into its version folder, which appears in one step."""
        self._model.mkdir(parents=True, exist_ok=True)
        staging = self._model / f".{artifact.version}.promoting"
        target = self._model / artifact.folder.name
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        try:
            for path in artifact.folder.iterdir():
                link_or_copy(path, staging / path.name)
            if artifact.folder.name != _FIRST:
                (staging / _MODEL_FILE).symlink_to(f"../{_FIRST}/{_MODEL_FILE}")
            elif (target / _MODEL_FILE).exists() or (target / _MODEL_FILE).is_symlink():
                shutil.copy2(target / _MODEL_FILE, staging, follow_symlinks=False)
            if target.exists():
                former = self._model / f".{artifact.version}.former"
                shutil.rmtree(former, ignore_errors=True)
                target.rename(former)
                staging.rename(target)
                shutil.rmtree(former)
            else:
                staging.rename(target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _retire(self, folder: Path) -> None:
        """Take a version's files away; what Triton has loaded of them stays loaded."""
        # Without this one the folder is no engine, so it goes first.
        (folder / ENGINE_FILE).unlink(missing_ok=True)
        for path in folder.iterdir():
            if path.name == "__pycache__":
                shutil.rmtree(path)
            elif folder.name != _FIRST or path.name != _MODEL_FILE:
                path.unlink()
        if folder.name != _FIRST:
            folder.rmdir()

    def _identity(self, version: int | None) -> str:
        """The digest of the manifest in a version folder; empty where there is none."""
        manifest = self._model / str(version) / MANIFEST_FILE
        return file_digest(manifest) if manifest.is_file() else ""

    def _history(self) -> _History:
        path = self._model / _HISTORY_FILE
        return _History(**json.loads(path.read_bytes())) if path.exists() else _History([], [])

    def _save_history(self, history: _History) -> None:
        path = self._model / _HISTORY_FILE
        temporary = path.with_name(f"{path.name}.new")
        temporary.write_text(json.dumps(asdict(history)), encoding="utf-8")
        temporary.replace(path)


@dataclass(frozen=True)
class _History:
    """What was served.

    Attributes:
        promoted: Versions in the order in which they were promoted, each once.
        rolled_back: Digests of the manifests of those that a roll-back left.
    """

    promoted: list[int]
    rolled_back: list[str]


def _text_files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in _TEXT_FILES if (folder / name).exists()}
