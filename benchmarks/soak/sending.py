"""Sends requests one after the other from each place, gives some up, and notes how each ended."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from random import Random

from benchmarks.soak.catalogue import Asked, Kind, draw
from benchmarks.soak.ledger import Ledger
from songstarter.errors import SongstarterError
from songstarter_client import AsyncClient, Cancelled, NoServer, RefusedRequest, TimedOut, Unavailable

GIVEN_UP = 0.15  # of all requests
LONGEST_WAIT = 3.0  # seconds until one is given up, at most
PAUSE = 0.5  # seconds after a full service said so

Digests = tuple[str, ...]


async def songs_alone(client: AsyncClient, requests: Mapping[Kind, Sequence[Asked]]) -> dict[str, Digests]:
    """What each request sounds like with nobody else there; bad ones have no sound."""
    right = [asked for kind, found in requests.items() if kind != "bad" for asked in found]
    return {asked.name: await heard(client, asked) for asked in right}


async def heard(client: AsyncClient, asked: Asked) -> Digests:
    """A digest of each variation's file, however it comes."""
    if asked.kind != "streamed":
        song = await client.generate(asked.prompt, **asked.fields)
        return tuple(hashlib.sha256(file).hexdigest() for file in song.files)
    digest = hashlib.sha256()
    async with aclosing(client.stream(asked.prompt, **asked.fields)) as chunks:
        async for chunk in chunks:
            digest.update(chunk.audio)
    return (digest.hexdigest(),)


class Sender:
    """One load; ``work`` is one place of it."""

    def __init__(
        self,
        clients: Sequence[AsyncClient],
        requests: Mapping[Kind, list[Asked]],
        alone: Mapping[str, Digests],
        ledger: Ledger,
        until: float,
        most: int,
        timeout: float,
    ) -> None:
        self._clients = clients
        self._requests = requests
        self._alone = alone
        self._ledger = ledger
        self._until = until
        self._most = most
        self._timeout = timeout

    async def work(self, random: Random) -> None:
        while time.monotonic() < self._until and self._ledger.sent.total() < self._most:
            asked = draw(random, self._requests)
            give_up = random.uniform(0, LONGEST_WAIT) if random.random() < GIVEN_UP else None
            self._ledger.note_sent(asked.kind)
            await self._send(random.choice(self._clients), asked, give_up)

    async def _send(self, client: AsyncClient, asked: Asked, give_up: float | None) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(give_up or self._timeout):
                found = await heard(client, asked)
        except (RefusedRequest, Unavailable) as refusal:
            await self._refused(asked, refusal)
        except TimedOut as silence:
            self._ledger.note(asked.kind, "lost", remark=f"{asked.name}: {silence}")
        except TimeoutError:
            end = "cancelled" if give_up else "lost"
            self._ledger.note(asked.kind, end, remark=None if give_up else f"{asked.name}: no answer")
        except SongstarterError as error:
            given_up = give_up is not None and isinstance(error, Cancelled)  # gRPC's own word for it
            remark = None if given_up else f"{asked.name}: {error}"
            self._ledger.note(asked.kind, "cancelled" if given_up else "failed", remark=remark)
        else:
            self._answered(asked, found, time.monotonic() - began)

    async def _refused(self, asked: Asked, refusal: SongstarterError) -> None:
        """A bad request must be, a full service may say so, and is quoted; all else is a failure."""
        full = isinstance(refusal, Unavailable) and not isinstance(refusal, NoServer)
        due = full or (isinstance(refusal, RefusedRequest) and asked.kind == "bad")
        remark = f"{asked.name}: {refusal}" if full or not due else None
        self._ledger.note(asked.kind, "refused" if due else "failed", remark=remark)
        if full:
            await asyncio.sleep(PAUSE)

    def _answered(self, asked: Asked, found: Digests, seconds: float) -> None:
        right = found == self._alone.get(asked.name)
        self._ledger.note(
            asked.kind,
            "answered" if right else "wrong",
            seconds=seconds,
            remark=None if right else f"{asked.name}: another sound than alone",
        )
