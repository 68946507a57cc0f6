"""A plan of faults to begin with: with the same seed, the same run."""

from __future__ import annotations

from pathlib import Path

from google.protobuf import json_format

from dex_sim.chain import Chain
from dex_sim.control_service import inject
from engine.errors import InvalidRequest, StartupError
from engine.v1 import sim_pb2 as pb


def inject_plan(chain: Chain, path: Path) -> None:
    """Inject the faults of a file; StartupError when one of them makes no sense."""
    try:
        for fault in json_format.Parse(path.read_bytes(), pb.FaultPlan()).faults:
            inject(chain, fault)
    except (OSError, ValueError, json_format.ParseError, InvalidRequest) as error:
        raise StartupError(
            f"FAULTS_FILE {path} cannot be used: {error}; it must hold an engine.v1.FaultPlan "
            'as JSON, for example {"faults": [{"percent": 5, "drop": {}}]}'
        ) from None
