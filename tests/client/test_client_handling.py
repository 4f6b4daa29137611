"""What is said beside the inputs: priority, deadline and id, as they reach a model and as errors tell of them."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from triton_for_client import Addresses, received

from songstarter import contract
from songstarter_client import Client, DeadlinePassed, InvalidRequest, SongstarterError, Unavailable
from songstarter_client.outgoing import PARAMETERS, Outgoing

FRESH_SEEDS = itertools.count(2000)  # the stand-in counts the tries of each seed
COMMAND = (sys.executable, "-m", "songstarter.cli", "generate")


def parameters(echo: dict[str, Any]) -> dict[str, Any]:
    """Those of our own: Triton adds some."""
    return {name: value for name, value in echo["parameters"].items() if name in contract.PARAMETERS}


@pytest.mark.triton
class TestBesideTheInputs:
    def test_all_three_arrive(self, client: Client) -> None:
        echo = received(client.generate("x", priority=2, deadline=1.5, request_id="mine").files[0])
        assert parameters(echo) == {"songstarter_priority": 2, "deadline": 1.5}
        assert echo["id"] == "mine"

    def test_a_request_has_an_id_of_its_own_where_none_is_given(self, client: Client) -> None:
        ids = [received(client.generate("x").files[0])["id"] for _ in range(2)]
        assert len(set(ids)) == 2
        assert all(ids)

    def test_over_http_a_song_is_made_no_longer_than_it_is_waited_for(self, triton: Addresses) -> None:
        with Client(triton.http, timeout=20) as client:
            (echo,) = parameters(received(client.generate("x").files[0])).items()
            assert echo == ("deadline", pytest.approx(20, abs=1))
            (echo,) = parameters(received(client.generate("x", timeout=1e6).files[0])).items()
            assert echo == ("deadline", 86_400)
        with Client(triton.grpc, timeout=20) as client:
            assert parameters(received(client.generate("x").files[0])) == {}

    def test_what_is_left_of_the_timeout_is_the_deadline_of_a_further_try(self, triton: Addresses) -> None:
        with Client(triton.http, timeout=20, retries=2) as client:
            echo = received(client.generate("busy twice", seed=next(FRESH_SEEDS)).files[0])
        assert echo["attempts"] == 3
        assert 15 < parameters(echo)["deadline"] < 20 - 0.5

    def test_a_deadline_that_has_passed_is_not_tried_again(self, url: str) -> None:
        seed = next(FRESH_SEEDS)
        with Client(url, timeout=20, retries=3) as client:
            with pytest.raises(DeadlinePassed, match=r"^the deadline of 1.5 s has passed$") as late:
                client.generate("late", seed=seed)
            assert isinstance(late.value, Unavailable)
            assert received(client.generate("x", seed=seed).files[0])["attempts"] == 2

    def test_every_error_says_which_request_it_befell(self, client: Client) -> None:
        for prompt in ("busy", "broken", "gone", "slow"):
            with pytest.raises(SongstarterError) as caught:
                client.generate(prompt, request_id=f"the {prompt} one", timeout=1)
            assert caught.value.request_id == f"the {prompt} one"
            with pytest.raises(SongstarterError) as caught:
                client.generate(prompt, timeout=1)
            assert caught.value.request_id
        for prompt in ("refused", "breaks", "short"):
            with pytest.raises(SongstarterError) as caught:
                list(client.stream(prompt, request_id=f"the {prompt} one"))
            assert caught.value.request_id == f"the {prompt} one"

    def test_the_command_has_a_flag_for_each(self, url: str, tmp_path: Path) -> None:
        flags = ["--priority", "1", "--deadline", "9.5", "--request-id", "from the shell"]
        command = [*COMMAND, "x", *flags, "--json", "-o", str(tmp_path), "--url", url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        document = json.loads(done.stdout)
        given = {"priority": 1, "deadline": 9.5, "request_id": "from the shell"}
        assert document["request"] == {"prompt": "x", **given}
        echo = received(Path(document["files"][0]).read_bytes())
        assert parameters(echo) == {"songstarter_priority": 1, "deadline": 9.5}
        assert echo["id"] == "from the shell"


def test_parameters_go_by_names_that_the_server_knows() -> None:
    assert {wire: field.name for field, wire in PARAMETERS.items()}.items() <= contract.PARAMETERS.items()


def test_what_is_not_allowed_is_the_server_s_to_refuse() -> None:
    sent = Outgoing.of("x", {"priority": 0, "deadline": -1, "request_id": None}).parameters
    assert sent == {"songstarter_priority": 0, "deadline": -1}


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [("priority", 1.5, "a whole number"), ("deadline", "soon", "a number"), ("request_id", 7, "a text")],
)
def test_what_cannot_be_sent_is_refused_before_it_is_sent(field: str, value: object, allowed: str) -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(InvalidRequest, match=rf"^{field}: found .*{allowed}$") as why:
        client.generate(**{field: value})  # type: ignore[arg-type]
    assert why.value.request_id is None
