"""Everything about this machine that can change a bit of the outputs, for the manifest."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

_PACKAGES = ("harness", "onnxruntime", "onnx", "numpy", "pyarrow", "protobuf", "mlflow")
_FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")


def _cpu() -> dict[str, str]:
    """Vendor, family, model, stepping and the instruction sets that numeric kernels choose by."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return {"machine": platform.machine(), "detail": "no /proc/cpuinfo on this system"}
    first = info.read_text().split("\n\n", 1)[0]
    fields: dict[str, str] = {}
    for line in first.splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    return {
        "machine": platform.machine(),
        "vendor": fields.get("vendor_id", ""),
        "family": fields.get("cpu family", ""),
        "model": fields.get("model", ""),
        "name": fields.get("model name", ""),
        "stepping": fields.get("stepping", ""),
        "instruction_sets": " ".join(f for f in _FLAGS if f in flags),
        "cores": str(os.cpu_count() or 0),
    }


def package_version() -> str:
    """This package's own version."""
    return metadata.version("harness")


def environment() -> dict[str, object]:
    """Python, packages, kernel, libc and processor of the parent process."""
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "python": platform.python_version(),
        "packages": packages,
        "kernel": f"{platform.system()} {platform.release()}",
        "libc": " ".join(platform.libc_ver()),
        "cpu": _cpu(),
    }
