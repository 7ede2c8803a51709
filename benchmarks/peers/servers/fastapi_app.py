"""A plain FastAPI service: raw bytes in, raw bytes out; run by uvicorn with uvloop and httptools."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from async_infer import from_environment
from fastapi import FastAPI, Request, Response


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Compile on the loop that will serve."""
    app.state.inferences = from_environment()
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/infer")
async def infer(request: Request) -> Response:
    """Infer, or refuse before the body is read."""
    inferences = request.app.state.inferences
    if inferences.full:
        return Response(status_code=503, headers={"Retry-After": "1"})
    inferences.in_flight += 1
    try:
        return Response(await inferences.infer(await request.body()), media_type="application/octet-stream")
    finally:
        inferences.in_flight -= 1
