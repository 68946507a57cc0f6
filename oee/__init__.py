"""The command line: the whole stack kept running, and a client of its gRPC API."""

import os

# We start processes and never use gRPC in a forked one; its fork handlers would only complain
# on stderr. Read by gRPC when it is first loaded.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
