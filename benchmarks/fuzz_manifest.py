"""Mutates manifests: each must load or be refused in words with a place in the file; no traceback, no hang."""

from __future__ import annotations

import argparse
import collections
import random
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from orchestrator.errors import Kind, OrchError
from orchestrator.manifest import source
from orchestrator.manifest.load import load_text

HANG_S = 2.0
EXAMPLES = Path(__file__).resolve().parent.parent / "deployments"

EVERYTHING = """\
apiVersion: orch/v1
kind: Deployment
metadata: {name: everything, labels: {site: berlin-03, "a/b": "2"}}
spec:
  endpoint: {http: 127.0.0.1:8000, grpc: "[::1]:8001", token_file: token, insecure: false}
  resources: {cpus: 2, memory: 2GiB}
  planning: {mode: measure, budget: 60s}
  models:
    - name: a
      source: &file models/a.onnx
      version: "3"
      device: AUTO:GPU,-CPU
      fallback: [CPU, "GPU.1"]
      slo: {latency: 40ms, percentile: 99.9, rate: 60/s}
      traffic: {arrivals: closed, concurrency: 16}
      priority: critical
      compile: {streams: AUTO, threads: 2, batch: 4, requests: 2}
      properties: {ENABLE_CPU_PINNING: false, KEY: 1.5, OTHER: text}
      shapes: {image: [1, -1, "?", 1..512]}
      queue: {limit: 3, timeout: 1.5s, memory: 64MiB}
    - name: b
      source: *file
      device: BATCH:GPU(16)
      compile: {hint: THROUGHPUT, requests: 8}
---
apiVersion: orch/v1
kind: Deployment
metadata: {name: second}
spec: {endpoint: {http: null, grpc: "localhost:0"}, models: [{name: a, source: 'b'}]}
"""

TOKENS = """
: ; - ? , [ ] { } & * ! | > ' " % @ ` # \\ ~ << = --- ... &a *a !!str !!python/object:os.system !x on off yes no y n
true false null Null 010 0x1F 0o17 1:30 1_000 1e3 .inf -.inf .nan 2024-01-01 -0 +5 0 -1 99999999999999999999 1.5 1..2
40ms 40 -40ms 0s 1e9s 2GiB 60/s CPU gpu GUP AUTO: AUTO:CPU,CPU MULTI BATCH:GPU(0) HETERO:AUTO 0.0.0.0:80 :80 [::1]:1
%YAML %TAG latencey Deployment orch/v1 Pod ../x / ~/x %s {} [] "" '' "\\0" "\\uD800" "\\e[31m" "\\x85"
{{x}} é \U0001f600 \ufeff
""".split()  # noqa: SIM905 - reads better
RAW = (
    "\u2028",
    "\t",
    "\n",
    "\r\n",
    " ",
    "  ",
    "\0",
    "\x1b",
    "\x85",
    "\x7f",
    "\n\n---\n",
    "\n...\n",
    "[" * 50,
    "{a: " * 40,
    "- " * 40,
    "x" * 5000,
)


def seeds() -> list[str]:
    """Return the manifests that mutation starts from."""
    return [EVERYTHING, *(path.read_text(encoding="utf-8") for path in sorted(EXAMPLES.glob("*.yaml")))]


def mutate(text: str, other: str, rng: random.Random) -> bytes:
    """Return the text after one to six random edits, now and then no longer UTF-8."""
    for _ in range(rng.randint(1, 6)):
        text = rng.choice(_EDITS)(text, other, rng)
    data = text.encode("utf-8", "surrogatepass")
    if data and rng.random() < 0.15:
        at = rng.randrange(len(data))
        data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    return data


def _insert(text: str, _: str, rng: random.Random) -> str:
    at = rng.randint(0, len(text))
    return text[:at] + rng.choice((*TOKENS, *RAW)) + text[at:]


def _delete(text: str, _: str, rng: random.Random) -> str:
    at = rng.randint(0, len(text))
    return text[:at] + text[at + rng.choice((1, 1, 2, 5, 40)) :]


def _value(text: str, _: str, rng: random.Random) -> str:
    """Replace one word: this reaches the spec where random characters end at the YAML parser."""
    words = list(re.finditer(r"[A-Za-z0-9_./:-]+", text))
    if not words:
        return text
    word = rng.choice(words)
    return text[: word.start()] + rng.choice(TOKENS) + text[word.end() :]


def _swap_words(text: str, other: str, rng: random.Random) -> str:
    words, others = list(re.finditer(r"[^\s{}\[\],]+", text)), re.findall(r"[^\s{}\[\],]+", other)
    if not words or not others:
        return text
    word = rng.choice(words)
    return text[: word.start()] + rng.choice(others) + text[word.end() :]


def _lines(text: str, other: str, rng: random.Random) -> str:
    lines = text.split("\n")
    at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(5):
        case 0:
            lines.insert(to, lines[at])
        case 1:
            del lines[at]
        case 2:
            lines[at], lines[to] = lines[to], lines[at]
        case 3:
            lines[at] = rng.choice(("  ", "\t", " ")) + lines[at]
        case _:
            lines.insert(at, rng.choice(other.split("\n")))
    return "\n".join(lines)


def _cut(text: str, _: str, rng: random.Random) -> str:
    return text[: rng.randint(0, len(text))]


def _repeat(text: str, _: str, rng: random.Random) -> str:
    at = rng.randint(0, len(text))
    piece = text[at : at + rng.randint(1, 60)]
    return text[:at] + piece * rng.choice((2, 3, 50)) + text[at:]


_EDITS: tuple[Callable[[str, str, random.Random], str], ...] = (
    _insert, _delete, _value, _value, _value, _swap_words, _swap_words, _lines, _lines, _cut, _repeat,
)  # fmt: skip


def attempt(data: bytes) -> str:
    """Load the bytes as the command line would; return `loaded` or `refused`; raise for anything that is no answer."""
    try:
        text = source.decode(data, "f.yaml")
        load_text(text, name="f.yaml", base=Path("/"))
    except OrchError as error:
        lines = data.count(b"\n") + data.count(b"\r") + data.count("\x85".encode()) + 3 * data.count(b"\xe2\x80") + 1
        _check(error, lines)
        return "refused"
    return "loaded"


def _check(error: OrchError, lines: int) -> None:
    assert error.kind is Kind.INVALID, error.kind
    assert error.problems
    for problem in error.problems:
        if problem.what.startswith("and ") and problem.where is None:
            continue
        match = re.fullmatch(r"f\.yaml:([0-9]+):([0-9]+)", problem.where or "")
        assert match is not None, f"no place: {problem!r}"
        assert 1 <= int(match[1]) <= lines, f"a place outside the file: {problem!r}"
        assert problem.what, "no words"
        assert len(problem.what) < 1000, "far too many words"
        assert "Traceback" not in problem.what
        assert "Input should" not in problem.what, f"pydantic's words: {problem!r}"


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block when it takes longer."""

    def expire(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def main() -> int:
    """Run the mutations and print the counts; return 1 if any of them got no proper answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng, texts = random.Random(options.seed), seeds()
    counts: collections.Counter[str] = collections.Counter()
    slowest_s, start = 0.0, time.perf_counter()
    for number in range(options.count):
        data = mutate(rng.choice(texts), rng.choice(texts), rng)
        begun = time.perf_counter()
        try:
            with deadline(HANG_S):
                counts[attempt(data)] += 1
        except Exception as error:  # noqa: BLE001 - finding any of them is what this is for
            counts["hang" if isinstance(error, TimeoutError) else "traceback"] += 1
            sys.stderr.write(f"mutation {number} of seed {options.seed}: {data!r}\n{traceback.format_exc()}\n")
        slowest_s = max(slowest_s, time.perf_counter() - begun)
    print(f"{options.count} manifests in {time.perf_counter() - start:.1f} s, the slowest {slowest_s * 1000:.0f} ms")
    print(", ".join(f"{name} {counts[name]}" for name in ("loaded", "refused", "traceback", "hang")))
    return 1 if counts["traceback"] or counts["hang"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
