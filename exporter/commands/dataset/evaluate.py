"""The command ``dataset evaluate``: what the labels of a release say about a candidate model's predictions."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import msgspec

from exporter.commands.common import add_csv_options, checked, set_help
from exporter.commands.dataset.candidate import Candidate, Labelled, match, read_examples
from exporter.commands.dataset.evaluation import Evaluation, guess_task
from exporter.commands.dataset.evaluation_report import text
from exporter.commands.dataset.release_file import ReleaseFile, open_release
from exporter.commands.dataset.requests import write_document
from exporter.commands.dataset.weighted import REMARK, SampledStrata, Sampling, estimate
from exporter.commands.exporter_client import add_exporter_options
from exporter.commands.ingest.input_file import TABLES, Input, open_input
from exporter.commands.ingest.table import Roles, output_types
from exporter.commands.type_option import column_type
from exporter.config import Task
from exporter.errors import ExporterError, UsageError
from exporter.features.types import INPUT_TYPES
from exporter.monitoring.binner import Binner
from exporter.monitoring.outcome import task_of
from exporter.profiles.profile_file import load
from exporter.profiles.readers.files import FileSource

FAILED = 3
"""Exit status when a condition does not hold."""
_BIASED = (
    "{corrections:,} of the examples are corrections: mistakes of the current model that users noticed. They are not a "
    "random sample of the traffic, and neither are these figures. The current model was wrong on nearly all of them by "
    "selection, so a difference in favour of the candidate is to be expected."
)


class _LineageFile(msgspec.Struct):
    """The members that are read from a file of ``dataset export --lineage``."""

    lineage: Sampling


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dataset evaluate``."""
    set_help(
        parser,
        "Compare a candidate model's predictions with the labels of a release, and with the predictions of the current "
        f"model. The exit status is {FAILED} if a condition (--at-least, --at-most, --margin) does not hold.",
        "model-exporter dataset evaluate 2026-11 candidate.csv --at-least=0.9 --margin=0.02",
        "docs/dataset.md#evaluate-a-candidate",
    )
    add = parser.add_argument
    add("release", metavar="RELEASE", help="identifier or name of a release, or a file that dataset export wrote")
    add("file", metavar="FILE", help="predictions: CSV, Parquet, NPZ or JSON lines, also as .gz; - is standard input")
    add("--format", choices=TABLES, help="format of the file; default: by its name")
    add("--id-column", default="id", metavar="NAME", help="column with the id of the example (%(default)s)")
    help_ = "column with the candidate's prediction (%(default)s)"
    add("--prediction-column", default="prediction", metavar="NAME", help=help_)
    add_csv_options(parser, INPUT_TYPES)
    add("--profile", type=Path, metavar="FILE", help="profile of the model, for the slices with most errors")
    tasks = ("classification", "regression")
    add("--task", choices=tasks, help="what the model does; default: by the profile, else by the predictions")
    number = checked(_number)
    add("--at-least", type=number, metavar="SHARE", help="condition: the accuracy is at least this share")
    add("--at-most", type=number, metavar="ERROR", help="condition: the mean absolute error is at most this")
    help_ = (
        "condition: the 95 %% interval excludes that the candidate is worse than the current model by more than this"
    )
    add("--margin", type=number, metavar="NUMBER", help=help_)
    help_ = "what dataset export --lineage wrote, where RELEASE is a file: weights of the samples"
    add("--lineage", type=Path, metavar="FILE", help=help_)
    add("-o", "--output", type=Path, metavar="FILE", help="write the evaluation to a file, as JSON")
    parser.set_defaults(step=_evaluate)
    add_exporter_options(parser)


def _evaluate(options: argparse.Namespace) -> int:
    profile = load(options.profile) if options.profile else None
    binner = Binner(profile) if profile else None
    with open_release(options.release, options) as release:
        examples = read_examples(release, binner)
        task: Task = options.task or (task_of(profile) if profile else None) or guess_task(examples)
        _check_conditions(options, task)
        with open_input(options.file, options.format, TABLES) as source:
            roles = Roles(id=options.id_column, prediction=options.prediction_column)
            candidate = match(_table(options, source, roles, examples), roles, examples)
            where = source.where
    evaluation = Evaluation(examples, candidate, task)
    if not len(evaluation.losses):
        raise ExporterError(
            f"{where}: no prediction can be compared with its label; the models' task is {task} (--task)"
        )
    conditions = _conditions(options, evaluation)
    if conditions and not (candidate.is_complete and not evaluation.incomparable):
        raise ExporterError(
            f"{where}: {_incomplete(candidate, evaluation)}: a condition needs a prediction of each example"
        )
    sampling = _sampling(options, release)
    weighted = estimate(evaluation, examples, sampling) if sampling else None
    document = {
        "release": _release(release, len(examples.indices)),
        "predictions": _counts(where, candidate, evaluation),
        **evaluation.document(binner),
        "estimated": weighted,
        "remarks": _remarks(examples) + ([REMARK] if weighted else []),
        "conditions": conditions,
    }
    print("\n".join(text(document)))
    if options.output:
        write_document(options.output, document)
    return FAILED if any(not condition["holds"] for condition in conditions) else 0


def _number(text: str) -> float:
    number = float(text)
    if not 0 <= number < math.inf:
        raise ValueError(f"expected a number of at least 0, got {text!r}")
    return number


def _check_conditions(options: argparse.Namespace, task: Task) -> None:
    flag, other = ("at_least", "--at-most") if task == "regression" else ("at_most", "--at-least")
    if getattr(options, flag) is not None:
        raise ExporterError(f"--{flag.replace('_', '-')}: cannot be used for a {task}; use {other}, or set --task")
    if options.at_least is not None and options.at_least > 1:
        raise UsageError(f"--at-least: expected a share from 0 to 1, got {options.at_least:g}")


def _table(options: argparse.Namespace, source: Input, roles: Roles, examples: Labelled) -> FileSource:
    """Return the reader of the predictions; the labels say how the cells of CSV are read."""
    labels = {type(label) for label in examples.labels}
    kind = "text" if labels == {str} else "numeric" if labels <= {int, float} else None
    return FileSource(
        source.path,
        output_types(roles)
        | ({options.prediction_column: kind} if kind else {})
        | dict(map(column_type, options.type)),
        kind=source.kind,
        where=source.where,
        delimiter=options.delimiter,
        decimal=options.decimal,
    )


def _conditions(options: argparse.Namespace, evaluation: Evaluation) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = []
    if options.at_least is not None:
        result.append(
            {"condition": "at_least", "than": options.at_least, "holds": evaluation.value >= options.at_least}
        )
    if options.at_most is not None:
        result.append({"condition": "at_most", "than": options.at_most, "holds": evaluation.value <= options.at_most})
    if options.margin is not None:
        difference = evaluation.difference()
        if difference is None:
            raise ExporterError(
                "--margin: the release has no prediction of the current model that compares with a label"
            )
        low, high = difference.interval
        worst = -high if evaluation.task == "regression" else low
        result.append({"condition": "margin", "than": options.margin, "holds": worst >= -options.margin})
    return result


def _incomplete(candidate: Candidate, evaluation: Evaluation) -> str:
    parts = {
        "examples have no prediction": candidate.missing_count,
        "rows are not valid": candidate.refused.count,
        "predictions do not compare with the label": evaluation.incomparable,
    }
    reasons = ", ".join(f"{number:,} {what}" for what, number in parts.items() if number)
    return f"{reasons} ({candidate.refused.first[0]})" if candidate.refused.first else reasons


def _sampling(options: argparse.Namespace, release: ReleaseFile) -> dict[str, SampledStrata]:
    """Return what weights the samples of the release, which a file alone does not tell."""
    if release.document:
        return msgspec.convert(release.document["lineage"], Sampling).sampling or {}
    if not options.lineage:
        return {}
    try:
        return msgspec.json.decode(options.lineage.read_bytes(), type=_LineageFile).lineage.sampling or {}
    except OSError as error:
        raise ExporterError(f"{options.lineage}: cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ExporterError(f"{options.lineage}: expected what dataset export --lineage writes: {error}") from None


def _release(release: ReleaseFile, examples: int) -> dict[str, Any]:
    known = release.document or {}
    return {key: known.get(key) for key in ("id", "model", "sha256")} | {"name": release.where, "examples": examples}


def _counts(where: str, candidate: Candidate, evaluation: Evaluation) -> dict[str, Any]:
    return {
        "file": where,
        "rows": candidate.rows,
        "missing": candidate.missing_count,
        "missing_ids": candidate.missing,
        "unknown": candidate.unknown_count,
        "unknown_ids": candidate.unknown,
        "repeated": candidate.repeated_count,
        "rejected": candidate.refused.count,
        "rejections": candidate.refused.first,
        "incomparable": evaluation.incomparable,
    }


def _remarks(examples: Labelled) -> list[str]:
    corrections = sum(source != "sample" for source in examples.sources)
    return [_BIASED.format(corrections=corrections)] if corrections else []
