"""Benchmarks: the whole engine as processes, what it does in a second and what that costs."""

import oee  # noqa: F401 - what it sets is read by gRPC as that is loaded, which is next
