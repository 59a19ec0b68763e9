"""What Ray says of a failure, in the user's words."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    OutOfMemoryError,
    RayTaskError,
)

from study.mishaps import Mishap, mishap


def failed(folder: Path, error: BaseException | None, text: str = "") -> Mishap:
    """The mishap of a trial for which Tune noted this error and this text."""
    pickled, written = folder / "error.pkl", folder / "error.txt"
    if error is not None:
        pickled.write_bytes(ray.cloudpickle.dumps(error))
    written.write_text(f"Failure # 1 (occurred at noon)\n{text or error}\n")
    paths = {"pickled_error_file": str(pickled), "error_file": str(written)}
    return mishap(SimpleNamespace(**paths))


def raised(cause: Exception) -> RayTaskError:
    trace = f"Traceback (most recent call last):\n  line 1\n{type(cause).__name__}: {cause}"
    return RayTaskError("step", trace, cause)


def test_an_exception_is_told_by_its_name_and_last_line(tmp_path: Path) -> None:
    got = failed(tmp_path, raised(ValueError("first line\nwidth must be at least 1")))
    assert (got.reason, got.text) == ("ValueError", "width must be at least 1")
    assert got.trace.endswith("line 1\nValueError: first line\nwidth must be at least 1")
    assert "\x1b" not in got.trace
    assert failed(tmp_path, raised(KeyError())).text == "KeyError"


def test_memory_of_a_gpu_and_of_a_node_are_told_apart(tmp_path: Path) -> None:
    import torch

    gpu = failed(tmp_path, raised(torch.OutOfMemoryError("CUDA out of memory. Tried ...")))
    assert gpu.reason == "out of memory (GPU)"
    assert failed(tmp_path, OutOfMemoryError("killed")).reason == "out of memory"
    text = "1 worker(s) were killed due to the node running low on memory."
    assert failed(tmp_path, ActorDiedError(), text).reason == "out of memory"


def test_a_worker_that_dies_is_told_as_a_process_that_does(tmp_path: Path) -> None:
    assert failed(tmp_path, raised(ActorDiedError())).reason == "process died"
    assert failed(tmp_path, raised(OutOfMemoryError("killed"))).reason == "out of memory"
    text = "The actor died because its node has died. Node Id: 0af3"
    assert failed(tmp_path, raised(ActorDiedError()), text).reason == "node lost"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("The actor died because its node has died. Node Id: 0af3", "node lost"),
        ("the actor's node was terminated expectedly: drained", "node lost"),
        ("killed by the OOM killer due to high memory usage, or SIGSEGV", "process died"),
    ],
)
def test_a_process_that_died_is_told_by_what_took_it(
    tmp_path: Path, text: str, reason: str
) -> None:
    assert failed(tmp_path, ActorDiedError(), text).reason == reason


def test_a_node_that_went_away_without_a_word_is_out_of_reach(tmp_path: Path) -> None:
    error = ActorUnavailableError("RpcError: RPC error: Socket closed rpc_code: 14", b"0" * 16)
    assert failed(tmp_path, error).reason == "out of reach"


def test_an_error_that_cannot_be_read_here_is_told_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "error.pkl").write_bytes(pickle.dumps(1)[:-1])
    got = failed(tmp_path, None, "something odd")
    assert (got.reason, got.text) == ("unknown", "something odd")
    nothing = mishap(SimpleNamespace(pickled_error_file=None, error_file=None))
    assert nothing == Mishap("unknown", "", "")
