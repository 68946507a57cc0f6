"""Writes engine/v1 from protos/engine/v1; the one place that knows protoc's flags."""

import sys
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).parent


def generate(target: Path) -> None:
    """Write the typed Python modules of every proto below `target`; raise SystemExit on errors."""
    code = protoc.main(
        [
            "protoc",
            f"-I{PROTOS}",
            f"-I{files('grpc_tools') / '_proto'}",
            f"--python_out={target}",
            f"--grpc_python_out={target}",
            f"--mypy_out={target}",
            f"--mypy_grpc_out={target}",
            *(str(path) for path in sorted(PROTOS.glob("engine/v1/*.proto"))),
        ]
    )
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else PROTOS.parent)
