"""Options that several commands share: where studies lie, are tracked and run."""

from __future__ import annotations

import argparse
from pathlib import Path

OUT = Path("studies")
"""Where studies lie on this machine unless --out says otherwise."""
OUT_THERE = Path("~/studies")
"""Where they lie on the head of a cluster."""


def add_out(parser: argparse.ArgumentParser) -> None:
    """Adds --out, the folder of all studies."""
    parser.add_argument(
        "--out",
        type=Path,
        default=OUT,
        metavar="DIR",
        help="where studies live, one folder each (default: studies; on a cluster ~/studies)",
    )


def add_head(parser: argparse.ArgumentParser) -> None:
    """Adds --address of a command that only reads or asks: it runs on the head of a cluster."""
    parser.add_argument(
        "--address",
        metavar="URL",
        help="http://127.0.0.1:8265: ask on the head of that Ray cluster (default: here)",
    )


def add_places(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say where a study is kept, tracked and run."""
    add_out(parser)
    add_stores(parser)
    parser.add_argument(
        "--address", metavar="ADDR", help="Ray cluster to run on (default: one on this machine)"
    )


def add_stores(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say where a study is tracked, and its ledger and checkpoints kept."""
    add = parser.add_argument
    add(
        "--tracking-uri",
        metavar="URI",
        help="MLflow tracking store (default: $MLFLOW_TRACKING_URI, or mlflow.db here)",
    )
    add_ledger(parser)
    add(
        "--storage",
        metavar="URI",
        help="where trials keep checkpoints and weights: a folder that all nodes share, or "
        "s3://BUCKET/FOLDER (default: the study's folder)",
    )


def add_ledger(parser: argparse.ArgumentParser) -> None:
    """Adds --ledger."""
    parser.add_argument(
        "--ledger",
        metavar="URL",
        help="postgresql://USER@HOST:PORT/NAME: keep the ledger in that database, for a team or a "
        "cluster (default: a file in the study's folder)",
    )
