"""A client of the Open Inference Protocol that obeys the server's hints: `Client("http://127.0.0.1:8000")`."""

from __future__ import annotations

from orchestrator.client.failures import (
    ClientError,
    DeadlineExceeded,
    Failed,
    Invalid,
    NotFound,
    Overloaded,
    Unreachable,
)
from orchestrator.client.http_client import Client
from orchestrator.client.retries import GRPC_SERVICE_CONFIG
from orchestrator.client.retrying import Retrying

__all__ = [
    "GRPC_SERVICE_CONFIG",
    "Client",
    "ClientError",
    "DeadlineExceeded",
    "Failed",
    "Invalid",
    "NotFound",
    "Overloaded",
    "Retrying",
    "Unreachable",
]
