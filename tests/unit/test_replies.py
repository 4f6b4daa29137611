"""What of an error crosses from model to model and to a caller, and how many requests a face holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from songstarter import draining
from songstarter.errors import Cancelled, CheckpointError, InvalidRequest, SongstarterError, TakeFailed, Unavailable
from songstarter.faces.admission import Admission
from songstarter.faces.replies import from_inner_wire, to_inner_wire, to_wire


@pytest.mark.parametrize("error", [Unavailable("full: try again"), Cancelled("gone"), TakeFailed("no numbers")])
def test_an_error_between_models_arrives_as_what_it_was(error: SongstarterError) -> None:
    _, message = to_inner_wire(error)  # a call between models keeps the message alone
    arrived = from_inner_wire(message)
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)


@pytest.mark.parametrize("message", ["INVALID_ARG: prefix: found NaN", "onnxruntime: out of bounds", ""])
def test_a_stage_that_refuses_our_own_call_is_our_failure(message: str) -> None:
    assert to_wire(from_inner_wire(message)) == ("INTERNAL", f"a stage failed: {message}")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequest("top_k", -1, "0 to 2048"), "INVALID_ARG"),
        (Unavailable("full"), "UNAVAILABLE"),
        (Cancelled("gone"), "CANCELLED"),
        (TakeFailed("no numbers"), "INTERNAL"),
        (CheckpointError("no manifest"), "INTERNAL"),
    ],
)
def test_our_own_errors_reach_a_caller_whole(error: SongstarterError, code: str) -> None:
    assert to_wire(error) == (code, str(error))


def test_of_anybody_else_s_error_a_caller_learns_the_kind_alone() -> None:
    code, message = to_wire(FileNotFoundError(2, "No such file", "/srv/secret"))
    assert (code, message) == ("INTERNAL", "the server failed (FileNotFoundError); its log says more")


def test_a_place_is_free_again_when_its_request_has_left_in_whatever_way() -> None:
    admission = Admission(2)
    admission.enter()
    admission.enter()
    with pytest.raises(Unavailable, match="2 requests are under way"):
        admission.enter()
    with pytest.raises(ZeroDivisionError), admission.leaving():
        raise ZeroDivisionError
    admission.enter()
    with pytest.raises(Unavailable):
        admission.enter()


def test_a_server_that_is_about_to_end_takes_nothing_new_and_loses_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "draining"
    monkeypatch.setenv(draining.VARIABLE, str(file))
    admission = Admission(1)
    admission.enter()
    admission.leave()
    draining.begin(file)
    for _ in range(2):
        with pytest.raises(Unavailable, match="the server is stopping"):
            admission.enter()
    file.unlink()
    admission.enter()


def test_a_process_of_no_server_is_not_about_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(draining.VARIABLE, raising=False)
    draining.check()


def test_a_stop_that_can_leave_no_file_is_a_stop_nevertheless(tmp_path: Path) -> None:
    draining.begin(tmp_path / "missing" / "draining")
