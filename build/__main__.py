"""``python -m build``: build an engine from a checkpoint, on the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from build.decoder import ARCHITECTURES
from build.engine import BuildReport, build_engine
from python_backend.engine.config import KVDtype, Precision
from python_backend.errors import TriremeError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        report = build_engine(
            options.checkpoint,
            options.output,
            options.precision,
            context_length=options.context_length,
            kv_cache_dtype=options.kv_cache_dtype,
            calibration_text=options.calibration_text,
            progress=_print_progress,
        )
    except (TriremeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(_summary(report, options.output))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m build",
        description="Build an engine for ONNX Runtime from a local Hugging Face checkpoint.",
        epilog=f"Supported architectures: {', '.join(ARCHITECTURES)}.",
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="the checkpoint's folder")
    parser.add_argument(
        "--precision",
        choices=get_args(Precision),
        default="fp32",
        help="how the weights of the matrix products are stored (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="the engine's folder; an engine that is there is replaced when the new one is ready",
    )
    parser.add_argument(
        "--context-length",
        type=int,
        metavar="TOKENS",
        help="limit the context (default: all that the checkpoint was made for)",
    )
    parser.add_argument(
        "--kv-cache-dtype",
        choices=get_args(KVDtype),
        help="how keys and values are stored (default: int8 beside quantized weights)",
    )
    parser.add_argument(
        "--calibration-text",
        type=Path,
        metavar="FILE",
        help="text that resembles what will be read, for an int8 cache (default: one of ours)",
    )
    return parser


def _print_progress(done: int, layers: int) -> None:
    in_place = sys.stderr.isatty() and done < layers
    print(f"layer {done}/{layers}", end="\r" if in_place else "\n", file=sys.stderr, flush=True)


def _summary(report: BuildReport, output: Path) -> str:
    spec = report.spec
    return (
        f"{output}: {spec.architecture}, {report.parameters / 1e6:,.1f} M parameters, "
        f"{report.precision}\n"
        f"context {spec.context_length:,} tokens; {report.size_bytes / 1e6:,.1f} MB, "
        f"built in {report.duration_s:.1f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
