"""Asks a service for its health: `python -m engine.probe HOST:PORT` exits 0 when SERVING.

With PEER_CA_FILE, PEER_CERTIFICATE_FILE and PEER_KEY_FILE set, as the services read them, over TLS.
"""

import argparse
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from engine.certificates import Files, read
from engine.settings import PeerSettings
from engine.tls import channel_credentials


def serving(address: str, timeout_seconds: float = 2, tls: Files | None = None) -> bool:
    """Whether the process at `address` answers SERVING in time.

    Raises StartupError when the TLS files are no use.
    """
    with (
        grpc.secure_channel(address, channel_credentials(read(tls)))
        if tls
        else grpc.insecure_channel(address)
    ) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=timeout_seconds
            )
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m engine.probe", description=__doc__)
    parser.add_argument("address", metavar="HOST:PORT", help="where it serves")
    address = parser.parse_args().address
    sys.exit(0 if serving(address, tls=PeerSettings().peer_tls) else 1)
