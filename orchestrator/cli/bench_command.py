"""The command bench: open-loop load against what serves, until its real capacity is known."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import control, render
from orchestrator.cli.app import OutputOption, app
from orchestrator.cli.boundary import INTERRUPTED, NO
from orchestrator.cli.endpoint import CaOption, CertOption, KeyOption, Papers, TokenFileOption
from orchestrator.cli.light import LightCommand
from orchestrator.cli.render import Output
from orchestrator.errors import OrchError

if TYPE_CHECKING:
    from orchestrator.cli.bench_options import Wishes
    from orchestrator.cli.bench_subject import Request, Subject
    from orchestrator.planner.bench import Ask, BenchQuestion, Tried
    from orchestrator.planner.bench_result import Bench, Planned
    from orchestrator.planner.bench_tally import Tally
    from orchestrator.runner.bench import Tell

TOLD_EACH_S = 0.25  # on a terminal
OTHERS_S = 1.0  # in which it is counted what others send, before there is any load


@app.command(cls=LightCommand)
def bench(
    name: Annotated[str, typer.Argument(metavar="NAME[/MODEL]", help="Deployment; the model where it has several.")],
    budget: Annotated[str | None, typer.Option(help="Time for the whole search, 60s by default.")] = None,
    rate: Annotated[str | None, typer.Option(metavar="RATE", help="Try this rate only, such as 60/s.")] = None,
    callers: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Closed loop of callers that each wait, at first so many.")
    ] = None,
    length: Annotated[
        str | None, typer.Option("--duration", help="Of --rate (20s by default), or to try --callers only.")
    ] = None,
    latency: Annotated[str | None, typer.Option(help="Instead of the SLO's, such as 40ms.")] = None,
    percentile: Annotated[float | None, typer.Option(min=1, max=99.99, help="Instead of the SLO's.")] = None,
    arrivals: Annotated[
        str | None, typer.Option(metavar="KIND", help="poisson, constant, bursty or closed, not as the manifest says.")
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("-i", "--input", metavar="[INPUT=]VALUE", help="As in orch infer; zeros are made up without."),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Any server of the protocol, without an agent; NAME is then the model's.")
    ] = None,
    token_file: TokenFileOption = None,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
    seed: Annotated[int, typer.Option(min=0, max=10**6, help="Of the arrivals: same seed, same schedule.")] = 1,
    report: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write a page: latency and answers in time against load.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Find the real capacity of what serves, and compare it with the plan.

    Sends requests on a schedule, with latency counted from when each was due, and searches for the largest rate at
    which the SLO's percentile holds; then shows what is answered in time at 1.5 and 2 times that. Without an SLO and
    without --latency there is a curve only. This loads a LIVE deployment: it competes with the real traffic, and says
    how much of that there was. The load comes from a process of its own, which says when it was itself the limit.

    \b
    held         so few requests missed that the SLO holds
    missed       late, refused (503), expired (504), failed, or given up by
                 the bench when unanswered for long: too many, even without
                 those that were late for the load generator's sake
    not sure     too few requests to prove it, or misses in clumps: the share
                 that missed decides
    not decided  too many missed, but without those for which the load
                 generator was late, or had no free core, it might have held
    IN TIME      answers within the SLO, a second

    In a pipe the rows go to standard output, the sentences to standard error.

    \b
    Exit codes: 0 the declared rate (or --rate) holds, or none is declared;
    1 it does not, no load holds, or nothing answers; 130 Ctrl-C, after
    showing what was found until then.

    \b
    Example: orch bench shop-vision/detector --report bench.html
    """
    # The planner, numpy and http.client: only this command needs them.
    from orchestrator.cli import bench_options, bench_subject, plan_report
    from orchestrator.planner.bench_result import holds

    wishes = bench_options.Wishes(budget, rate, callers, length, latency, percentile, arrivals, seed)
    bench_options.check(wishes)
    if report is not None:
        plan_report.check(Path(report), "bench.html")
    papers = Papers(token_file, ca, cert, key)
    subject = bench_subject.by_address(url, name, papers) if url else bench_subject.deployed(name, papers)
    question = bench_options.question(subject, wishes)
    request = bench_subject.the_request(subject, inputs or [], sys.stdin.buffer.read)
    _warn(subject, question)
    found = _run(subject, question, bench_options.planned(subject, wishes), request)
    _show(found, output)
    _tell_worker(subject, wishes, found)
    if report is not None:
        _write(found, Path(report))
    raise typer.Exit(INTERRUPTED if found.interrupted else 0 if holds(found) else NO)


def _warn(subject: Subject, question: BenchQuestion) -> None:
    """Say what is about to happen to whom, and what cannot be found."""
    from orchestrator.cli.bench_subject import Watch, arriving_per_s  # as above
    from orchestrator.planner.explain import rate

    lately = (subject.model.get("observed") or {}).get("rate_per_s")
    now = arriving_per_s(Watch(subject).arrived, _a_second) if lately else None
    others = f"; others send it {rate(now)} now" if now else ""
    render.talk(f"{subject.called}: loading what serves, for about {question.budget_s:.0f} s{others}")
    if question.latency_s is None:
        render.talk(f"{subject.called}: no SLO, so there is a curve but no capacity; --latency 40ms sets one")


def _a_second() -> float:
    began = time.monotonic()
    time.sleep(OTHERS_S)
    return time.monotonic() - began


def _run(subject: Subject, question: BenchQuestion, planned: Planned, request: Request) -> Bench:
    """Load it until all is found, or until Ctrl-C; what was found until then is kept."""
    from orchestrator.cli.bench_subject import Watch  # as above
    from orchestrator.planner.bench_result import Bench
    from orchestrator.runner.bench import Served, tries

    watch = Watch(subject)
    done: list[Tried] = []
    began, date, interrupted = time.monotonic(), datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), False
    with tempfile.TemporaryDirectory(prefix="orch-bench-") as folder:
        body = Path(folder) / "body"
        body.write_bytes(request.body)
        served = Served(
            *(request.host, request.port, request.path, request.headers),
            body,
            subject.pid,
            watch.arrived,
            subject.target.trust,
        )
        try:
            with _telling(subject, question) as (tell, ended):
                for tried in tries(question, served, tell):
                    done.append(tried)
                    ended(tried)
        except KeyboardInterrupt:
            interrupted = True
    return Bench(
        deployment=subject.deployment,
        model=subject.target.model,
        url=subject.target.url,
        question=question,
        tried=tuple(done),
        planned=planned,
        inputs=request.inputs,
        service_s=watch.service_s,
        seconds=time.monotonic() - began,
        date=date,
        interrupted=interrupted,
        remarks=tuple(watch.remarks),
    )


@contextlib.contextmanager
def _telling(subject: Subject, question: BenchQuestion) -> Iterator[tuple[Tell, Callable[[Tried], None]]]:
    """Yield what shows a try while it runs, on a terminal, and what shows its end, in a pipe."""
    from orchestrator.cli.progress import progress  # as above
    from orchestrator.planner.bench_result import load_text
    from orchestrator.planner.bench_text import try_line

    live = sys.stderr.isatty()
    told_s = 0.0
    with progress() as show:

        def tell(ask: Ask, tally: Tally) -> None:
            nonlocal told_s
            if live and time.monotonic() - told_s >= TOLD_EACH_S:
                told_s = time.monotonic()
                missed = f", {tally.misses} missed" if question.latency_s is not None else ""
                message = f"{tally.sent} sent{missed}"
                phase = f"trying {load_text(ask.load, closed=ask.closed)}"
                show(
                    {"deployment": subject.deployment, "model": subject.target.model, "phase": phase}
                    | {"message": message}
                )

        def ended(tried: Tried) -> None:
            if not live:
                render.talk(f"{subject.called}: {try_line(tried, question.percentile)}")

        yield tell, ended


def _show(found: Bench, output: Output) -> None:
    """Write it: on a terminal sentences, picture and table; in a pipe the table, and the sentences to people."""
    from orchestrator.cli.bench_table import bench_table, bench_text  # as above
    from orchestrator.planner.bench_result import sentences, to_json

    if output in {Output.JSON, Output.YAML}:
        render.emit(to_json(found), output, str)
        return
    where, wide = render.screen(sys.stdout, os.environ), output is Output.WIDE
    if where.width is not None:
        render.out(bench_text(found, where, wide=wide))
        return
    render.out(render.table(bench_table(found), where, wide=wide))
    for each in sentences(found):
        render.talk(each)


def _tell_worker(subject: Subject, wishes: Wishes, found: Bench) -> None:
    """Have status count the headroom from what was found, where it is the capacity for what the manifest asks."""
    from orchestrator.cli.bench_options import capacity_to_tell  # as above

    capacity_per_s = capacity_to_tell(found, wishes)
    if subject.deployment is None or capacity_per_s is None:
        return
    told = {"name": subject.deployment, "model": subject.target.model, "capacity_per_s": capacity_per_s}
    with contextlib.suppress(OrchError):  # the bench stands, whether or not the worker takes its figure
        control.ask("benched", told)
        render.talk(f"{subject.called}: orch status counts the headroom from this until the model is replaced")


def _write(found: Bench, path: Path) -> None:
    from orchestrator.planner.bench_report import bench_html  # as above
    from orchestrator.runner.staging import write_whole

    write_whole(path, bench_html(found, _machine()))
    render.talk(f"wrote {path}")


def _machine() -> tuple[tuple[str, str], ...]:
    """Return what is told of the machine that sent the load."""
    from orchestrator.inventory.host import read_host  # as above

    host = read_host()
    return (("Host", host.name), ("Processor", host.cpu), ("Cores that may be used", str(host.effective_cpus)))
