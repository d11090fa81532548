"""`python -m brainvis COMMAND`: everything around the notebooks."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from dataclasses import fields
from pathlib import Path

from brainvis.data import DATASETS
from brainvis.evaluation.needs import as_text, can_start, check, command
from brainvis.files import ROOT, BrainvisError, figures_folder
from brainvis.generation.captioners import CAPTIONER, SMALL_CAPTIONER
from brainvis.graph import Choice


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m brainvis", description=__doc__.split(": ", 1)[1])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("check", help="list data and weights: found or missing, and their sources")
    command.add_argument("--dataset", choices=DATASETS, default="phantom", help="data set of the planned run")
    command.add_argument("--backbone", default="phantom", help="its backbone: phantom, sd15, or a path")
    command.add_argument("--deep", action="store_true", help="verify the checksums of everything made or downloaded")
    command.set_defaults(run=_check)

    command = commands.add_parser("caption", help="write captions for the pictures of a data set to captions.json")
    command.add_argument("--dataset", choices=DATASETS, default="eegcvpr40")
    command.add_argument(
        "--model", default=CAPTIONER, help=f"image-to-text model: {CAPTIONER} (default), {SMALL_CAPTIONER}, or a folder"
    )
    command.add_argument("--batch-size", type=int, default=8, help="pictures per batch (default 8)")
    command.set_defaults(run=_caption)

    command = commands.add_parser("original", help="load the authors' checkpoints into a study")
    command.add_argument(
        "files", nargs="+", metavar="FILE", type=Path, help="the authors' files; see docs/real_data.md"
    )
    _add_choice(command, dataset="eegcvpr40", subject=None, preset="paper", protocol="paper", backbone="sd15")
    command.set_defaults(run=_original)

    command = commands.add_parser("accept", help="keep the runs of a study even though the code has changed")
    command.add_argument("--reason", required=True, help="why the results stay the same; recorded in each results.json")
    _add_choice(command)
    command.set_defaults(run=_accept)

    command = commands.add_parser("trace", help="show where each number or picture in a figure or table comes from")
    command.add_argument("file", type=Path, metavar="FILE", help="for example figures/classification.png")
    command.set_defaults(run=_trace)

    command = commands.add_parser("pages", help="write every executed notebook as a page, with an index of the runs")
    command.add_argument("folder", type=Path, metavar="FOLDER")
    command.add_argument("--markdown", action="store_true", help="write the notebooks of one study only, as Markdown")
    _add_choice(command)
    command.set_defaults(run=_pages)

    command = commands.add_parser("readme", help="put the results of the default study into the README")
    command.set_defaults(run=_readme)

    command = commands.add_parser("run", help="run one notebook as snakemake does: one process at a time per folder")
    command.add_argument("notebook", type=Path, metavar="NOTEBOOK")
    command.add_argument("executed", type=Path, metavar="EXECUTED", help="path for the notebook with its outputs")
    command.add_argument("mark", type=Path, metavar="MARK", help="the empty file that marks a complete run")
    command.add_argument(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="as for papermill",
    )
    command.set_defaults(run=_run)

    chosen = parser.parse_args(arguments)
    try:
        return chosen.run(chosen)
    except (BrainvisError, ValueError) as error:
        print(f"brainvis: {error}", file=sys.stderr)
        return 1


def _add_choice(command: argparse.ArgumentParser, **defaults: object) -> None:
    """Adds one option per study parameter; a default of None makes it required."""
    for field in fields(Choice):
        default = defaults.get(field.name, field.default)
        option, kind = f"--{field.name}", type(field.default)
        command.add_argument(option, type=kind, default=default, required=default is None, help=f"default {default}")


def _study(chosen: argparse.Namespace):
    from brainvis.study import Study  # imports torch, which `check` must not wait for

    return Study(**{field.name: getattr(chosen, field.name) for field in fields(Choice)})


def _check(chosen: argparse.Namespace) -> int:
    if chosen.deep:
        from brainvis.evaluation.deep_check import deep_check

        count, wrong = deep_check(chosen.dataset, chosen.backbone)
        print("\n".join(wrong) or f"All {count} runs, data files and weight files are intact.")
        return int(bool(wrong))
    items = check(chosen.dataset, chosen.backbone, opened=True)
    print(f"What dataset={chosen.dataset} backbone={chosen.backbone} needs (change these with --dataset, --backbone)\n")
    print(as_text(items), end="\n\n")
    lacking = {need: [i.what for i in items if i.need == need and i.state != "found"] for need in ("needed", "useful")}
    if lacking["useful"]:
        print(f"Useful items missing: {len(lacking['useful'])}. The run leaves out what needs them, and says so.")
    if can_start(items):
        print(f"This run can start: {command(chosen.dataset, chosen.backbone)}")
        return 0
    print(f"This run cannot start without {' and '.join(lacking['needed'])}.")
    return 1


def _caption(chosen: argparse.Namespace) -> int:
    from brainvis.generation.captions import caption_dataset

    print(caption_dataset(chosen.dataset, chosen.model, batch_size=chosen.batch_size))
    return 0


def _original(chosen: argparse.Namespace) -> int:
    from brainvis.models.original import install

    print("\n".join(install(_study(chosen), chosen.files)))
    return 0


def _accept(chosen: argparse.Namespace) -> int:
    print("\n".join(_study(chosen).accept(chosen.reason)))
    return 0


def _trace(chosen: argparse.Namespace) -> int:
    from brainvis.evaluation.publication import trace

    print("\n".join(trace(chosen.file)))
    return 0


def _pages(chosen: argparse.Namespace) -> int:
    from brainvis.evaluation.pages import write_markdown, write_pages

    if chosen.markdown:
        print("\n".join(write_markdown(_study(chosen), chosen.folder)))
    else:
        print(f"{write_pages(chosen.folder)} notebooks written. Open {chosen.folder / 'index.html'}")
    return 0


def _readme(chosen: argparse.Namespace) -> int:
    from brainvis.evaluation.headlines import write_into

    write_into(ROOT / "README.md", figures_folder())
    return 0


def _run(chosen: argparse.Namespace) -> int:
    from brainvis.files.running import Stopped, run_notebook

    try:
        print(run_notebook(chosen.notebook, chosen.executed, chosen.mark, chosen.parameters))
    except OSError as error:
        raise BrainvisError(f"{chosen.executed} cannot be run: {error}") from error
    except Stopped as stopped:
        print(f"brainvis: {stopped}", file=sys.stderr, flush=True)
        os._exit(1)  # at once: papermill's thread would still wait for the ended kernel
    return 0


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` closes the pipe, which is not an error
    sys.exit(main())
