"""Where a number comes from: machine, versions, revision, date and command, as every result file stores them."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perceptkd.atomic import write_text

VERSIONED = (
    "torch",
    "numpy",
    "numba",
    "onedl-mmengine",
    "onedl-mmcv",
    "onedl-mmdetection",
    "mmdet3d",
    "nuscenes-devkit",
    "spconv",
    "triton",
)
ROOT = Path(__file__).resolve().parents[2]


def provenance() -> dict[str, Any]:
    """Returns ``machine``, ``device``, ``versions``, ``revision``, ``date`` and ``command`` of this process."""
    return {
        **environment(),
        "revision": revision(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": shlex.join(["python", *(os.path.relpath(sys.argv[0], ROOT), *sys.argv[1:])]),
    }


def environment() -> dict[str, Any]:
    """What a result depends on beside source, configuration and data: ``machine``, ``device`` and ``versions``."""
    import torch

    return {
        "machine": machine(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "versions": versions(),
    }


def machine() -> str:
    """One line: processor, what it computes bf16 with, cores, memory."""
    information = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next((line.split(":")[1].strip() for line in information.splitlines() if line.startswith("model name")), "")
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    units = {"amx_bf16": " with AMX", "avx512_bf16": " with AVX512-BF16"}
    unit = next((name for flag, name in units.items() if flag in information), "")
    return f"{model or platform.processor()}{unit}, {os.cpu_count()} cores, {memory_gib:.0f} GiB"


def versions() -> dict[str, str]:
    """Python and the packages that decide results; a package that is not installed is left out."""
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def revision(checkout: Path | None = None) -> str:
    """The commit of a checkout (default: this), ``+changes`` when tracked files differ; the version outside of one."""
    command = [
        "git",
        "-C",
        str(checkout or ROOT),
        "describe",
        "--always",
        "--abbrev=12",
        "--exclude=*",
        "--dirty=+changes",
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode == 0:
        return result.stdout.strip()
    return importlib.metadata.version("perceptkd")


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Writes a result file whole or not at all."""
    write_text(path, json.dumps(content, indent=1) + "\n")
