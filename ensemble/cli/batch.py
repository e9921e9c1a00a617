"""``ensemble batch``: many prompts voted on as one job."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from ensemble import __version__
from ensemble.cli.decision_json import to_json
from ensemble.cli.terminal import printable, stderr_console, stdout_console
from ensemble.cli.validate import SpecPath, check_runnable
from ensemble.errors import InvalidRequestError

if TYPE_CHECKING:
    from ensemble.batch.item_source import Format, ItemSource, Scan, Shards
    from ensemble.batch.manifest import BatchManifest
    from ensemble.batch.shard_store import ShardStore
    from ensemble.cli.batch_askers import BatchOptions
    from ensemble.config import Spec
    from ensemble.router.config import EnsembleConfig

EXIT_REJECTS = 3
"""The output is whole, but lines of the input were rejected, or items have no answer."""
MAX_TOLD = 5
"""Rejects told one by one; all of them are in the file."""

_PARAGRAPHS = (
    """INPUT and OUTPUT end in .jsonl (INPUT also in .jsonl.gz) or .parquet, and are paths or URLs that fsspec knows.
    A row is {"id", "prompt", "choices"}, or {"id", "prompt"} for a text, then with any of max_tokens, temperature,
    top_p, seed and stop; other keys are ignored. Lines that cannot be used (no JSON, no id, an id that stood before,
    more than the spec's limits) go to OUTPUT.batch/rejects.jsonl with their numbers and reasons.""",
    """OUTPUT has one row an item, in INPUT's order: id, answer, degraded, agreement (not where a strategy of the
    ensemble makes it of probabilities), withheld, abstentions [{member, reason}]. The answer is null where members
    decline the item and too few are left, or the ensemble refuses it as it is; the abstentions say why, with no member
    for the ensemble. --with-confidence adds margin and confidence, and agreement in any case, --with-ballots adds
    ballots [{member, answer}]. Every member is waited for, since what an early stop leaves out depends on who came
    first: --stop-early saves their work, and then OUTPUT has id, answer and degraded alone, which it cannot change.
    """,
    """Without --endpoint and --address the spec is served on this machine meanwhile. --address serves it on a Ray
    cluster for as long as the batch takes ("auto" in a job of `ray job submit`); --endpoint asks one that runs
    already. It must have the spec's members and strategies, and tells no more of itself: its quorum, generation and
    calibration should be the spec's, too. With either, checkpoints are compared by name and not by content.""",
    """A batch that was ended, even by kill -9 or the loss of a node, goes on when the same command is given again, and
    its OUTPUT has the same bytes as if nothing had happened: answers are kept in whole shards, each item once. Where a
    member fails or is late, the item is asked again for --patience seconds before the batch gives up; what was kept
    stays. Where it always fails on an item, --accept-missing, which may be given later, too, takes the others' answer
    after three tries, and none where nobody answers for --patience seconds. Completions drawn at random get a seed made
    of the id. Outside of this promise are the last digits of what is made of probabilities (margin, confidence, such an
    agreement), which depend on what shares a forward pass; what they tip where it is nearly level: an answer near a
    tie, withheld near its threshold, a word of a completion; and an endpoint that learns from feedback.""",
    """At the end the figures are shown, and written as OUTPUT.batch/report.json: agreement, abstentions, cost,
    throughput. Exit codes: 0 done, 3 done but lines were rejected or items have no answer (0 with --accept-rejects: the
    report and the rejects file say it all the same), 1 the system failed, 2 the input or the spec is at fault.""",
)
BATCH_HELP = "\n\n".join(" ".join(paragraph.split()) for paragraph in _PARAGRAPHS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What the output has, and how much of it is kept at a time."""

    columns: tuple[str, ...]
    shard_items: int
    output_format: Format


def batch(  # noqa: PLR0913 - a command's options are its arguments
    spec: SpecPath,
    input_url: Annotated[str, typer.Argument(metavar="INPUT", help="Rows to be voted on: a path or a URL.")],
    output_url: Annotated[str, typer.Argument(metavar="OUTPUT", help="The file to write: a path or a URL.")],
    *,
    ensemble: Annotated[str, typer.Option(help="Which ensemble; left out, the only one or default.")] = "",
    endpoint: Annotated[str, typer.Option(help="Ask a running endpoint, host:port, that serves this spec.")] = "",
    address: Annotated[
        str, typer.Option(help="Serve the spec on this Ray cluster meanwhile (host:port, or auto).")
    ] = "",
    concurrency: Annotated[int, typer.Option(min=1, max=4096, help="Items under way at a time.")] = 32,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0.001, help="Seconds that an item may take.")] = 120.0,
    patience_s: Annotated[
        float, typer.Option("--patience", min=0.0, help="Seconds for which an item that fails is asked again.")
    ] = 600.0,
    shard_items: Annotated[int, typer.Option(min=1, max=1_000_000, help="Items that are kept at a time.")] = 256,
    stop_early: Annotated[
        bool, typer.Option("--stop-early", help="Do not wait for members whose votes change nothing.")
    ] = False,
    accept_missing: Annotated[
        bool,
        typer.Option("--accept-missing", help="Take answers that a failing member is missing from."),
    ] = False,
    accept_rejects: Annotated[
        bool,
        typer.Option("--accept-rejects", help="End with 0 where it would be 3, for what takes that for a failure."),
    ] = False,
    with_confidence: Annotated[bool, typer.Option("--with-confidence", help="Write margin and confidence.")] = False,
    with_ballots: Annotated[bool, typer.Option("--with-ballots", help="Write every member's answer.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> None:
    """Have every row of a file voted on, each exactly once, whatever is killed meanwhile."""
    # They bring gRPC and fsspec along.
    from ensemble.batch.answers import columns_of  # noqa: PLC0415
    from ensemble.batch.item_source import ItemSource, format_of, shards_of  # noqa: PLC0415
    from ensemble.batch.run_batch import Schedule  # noqa: PLC0415
    from ensemble.batch.shard_store import check_output, open_batch  # noqa: PLC0415
    from ensemble.cli.batch_askers import BatchOptions  # noqa: PLC0415
    from ensemble.files.location import Location  # noqa: PLC0415
    from ensemble.router.validation import pick_ensemble  # noqa: PLC0415
    from ensemble.spec_file import load_spec  # noqa: PLC0415

    checked = load_spec(spec)
    chosen = pick_ensemble(ensemble, {one.name: one for one in checked.ensembles})
    schedule = Schedule(concurrency=concurrency, patience_s=patience_s, accept_missing=accept_missing)
    options = BatchOptions(
        endpoint=endpoint, address=address, stop_early=stop_early, timeout_s=timeout_s, schedule=schedule
    )
    columns = columns_of(
        {chosen.classify_strategy, chosen.generate_strategy},
        stop_early=stop_early,
        with_confidence=with_confidence,
        with_ballots=with_ballots,
    )
    _check_options(options, chosen, adds_columns=with_confidence or with_ballots)
    _check_concurrency(concurrency, checked)
    output, source = Location.of(output_url), ItemSource(Location.of(input_url), checked.limits)
    layout = Layout(columns=columns, shard_items=shard_items, output_format=format_of(output))
    check_output(output)
    if not endpoint and not address:
        check_runnable(checked)
    with TemporaryFile() as rejects:
        found = _scan(source, rejects, shard_items=shard_items)
        with open_batch(output, _build_manifest(checked, chosen, found, options, layout)) as store:
            store.write_rejects(rejects)
            shards = shards_of(source, shard_items=shard_items, shard_digests=found.shard_digests)
            report = _complete(checked, chosen, shards, store, options)
            _tell(report, store, as_json=as_json)
    if not accept_rejects and (report["num_rejects"] or report["num_unanswered"]):
        raise typer.Exit(EXIT_REJECTS)


batch.__doc__ = f"{batch.__doc__}\n\n{BATCH_HELP}"


def _check_options(options: BatchOptions, ensemble: EnsembleConfig, *, adds_columns: bool) -> None:
    if options.endpoint and options.address:
        raise InvalidRequestError("--endpoint", "--address is given, too", "give one of them")
    if options.stop_early and adds_columns:
        raise InvalidRequestError(
            "--stop-early", "the wanted columns depend on who came first then", "leave it or the columns out"
        )
    # These two end votes in ways that may change an answer, by who came first.
    if options.stop_early and (ensemble.quorum.risk > 0.0 or not ensemble.asking.asks_all):
        raise InvalidRequestError(
            "--stop-early",
            f"{ensemble.name} stops at a risk or in stages, which may change answers from run to run",
            "leave it out: every member is waited for then",
        )


def _check_concurrency(concurrency: int, spec: Spec) -> None:
    most = spec.limits.max_concurrent * spec.router.replicas
    if concurrency > most:
        problem = f"it is {concurrency}, and the spec's routers take {most} requests at a time"
        raise InvalidRequestError("--concurrency", problem, "ask for fewer, or raise limits.max_concurrent")


def _scan(source: ItemSource, rejects: IO[bytes], *, shard_items: int) -> Scan:
    """Read the input, keep what cannot be used, and tell the first of it."""
    from ensemble.batch.item_source import Reject, scan  # noqa: PLC0415 - see the command

    told = stderr_console()
    num_told = 0

    def on_reject(reject: Reject) -> None:
        nonlocal num_told
        rejects.write(reject.to_json())
        if num_told < MAX_TOLD:
            line = printable(f"{source.location}:{reject.line}: {reject.reason}")
            told.print(line, style="yellow", markup=False, soft_wrap=True)
        num_told += 1

    told.print(f"reading {source.location}", style="dim", markup=False, soft_wrap=True)
    found = scan(source, shard_items=shard_items, on_reject=on_reject)
    if num_told > MAX_TOLD:
        told.print(f"and {num_told - MAX_TOLD} more", style="yellow")
    rejects.seek(0)
    return found


def _build_manifest(
    spec: Spec, ensemble: EnsembleConfig, found: Scan, options: BatchOptions, layout: Layout
) -> BatchManifest:
    from ensemble.batch.manifest import BatchManifest  # noqa: PLC0415 - see the command
    from ensemble.cli.evaluation_origin import member_facts  # noqa: PLC0415 - see the command

    needed = {*ensemble.members, *ensemble.assistants.model_dump(exclude_none=True).values()}
    members = [member for member in spec.members if member.name in needed]
    is_local = not options.endpoint and not options.address
    return BatchManifest(
        made_by=f"ensemble {__version__}",
        input_digest=found.digest,
        num_items=found.num_items,
        num_rejects=found.num_rejects,
        shard_items=layout.shard_items,
        ensemble=ensemble.name,
        rules_digest=_digest_rules(spec, ensemble, {member.name: member.weight for member in members}),
        members=tuple(member_facts(member, is_local=is_local) for member in members),
        by_endpoint=bool(options.endpoint),
        stop_early=options.stop_early,
        accept_missing=options.schedule.accept_missing,
        columns=layout.columns,
        output_format=layout.output_format,
    )


def _digest_rules(spec: Spec, ensemble: EnsembleConfig, weight_by_member: dict[str, float]) -> str:
    """Name how the ensemble decides; a calibration counts by its content, wherever it lies."""
    from ensemble.spec_file import load_calibrations  # noqa: PLC0415 - see the command

    calibration = load_calibrations(spec).get(ensemble.name)
    facts = {
        "ensemble": ensemble.model_dump(mode="json", exclude={"calibration", "feedback"}),
        "calibration": calibration.to_voting().digest if calibration else "",
        "weights": weight_by_member,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _complete(
    spec: Spec, ensemble: EnsembleConfig, shards: Shards, store: ShardStore, options: BatchOptions
) -> dict[str, Any]:
    """Answer what is not answered yet, write the output, and give the figures."""
    from ensemble.batch.report import BatchReport, Effort  # noqa: PLC0415 - see the command
    from ensemble.cli.batch_run import run_items  # noqa: PLC0415 - see the command

    if store.is_finished():
        stderr_console().print(f"{store.output} is done already", style="dim", markup=False)
        return store.stored_report()
    manifest = store.manifest
    num_left = manifest.num_items - sum(map(manifest.num_items_of, store.stored()))
    duration_s = run_items(spec, ensemble, shards, store, options) if num_left else 0.0
    figures = BatchReport(num_rejects=manifest.num_rejects)
    effort = Effort(num_asked=num_left, duration_s=duration_s)
    # Assistants cast no ballots.
    voters = [one for one in manifest.members if one.name in ensemble.members]
    store.finish(on_answer=figures.add, write_report=lambda: figures.to_dict(effort, voters))
    return store.stored_report()


def _tell(report: dict[str, Any], store: ShardStore, *, as_json: bool) -> None:
    from ensemble.cli.batch_view import show_batch_report  # noqa: PLC0415 - see the command

    if as_json:
        typer.echo(to_json(report))
        return
    console = stdout_console()
    show_batch_report(report, console)
    console.print(f"written: {store.output}", style="dim", markup=False, soft_wrap=True)
    if report["num_rejects"]:
        console.print(f"rejected lines: {store.rejects}", style="dim", markup=False, soft_wrap=True)
