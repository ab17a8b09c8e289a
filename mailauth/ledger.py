"""What was used, sent and refused since it was last written down, by credential. Nothing of it is lost when the database is away."""

import asyncio
from collections.abc import Mapping

from mailauth.policy import PolicyRequest
from storage import logins
from storage.database import Database
from storage.logins import Known, Sent, Tried, Use

MOST = 100_000


class Ledger:
    """What one process has counted.

    Args:
        most: credentials that are kept in mind; what others do while the database is away is not counted.
    """

    def __init__(self, db: Database, most: int = MOST) -> None:
        self._db = db
        self._most = most
        self._uses: dict[str, Use] = {}
        self._sent: dict[str, Sent] = {}
        self._tried: dict[str, Tried] = {}
        self._last: Mapping[str, Sent] = {}
        """What was written down last, or is just now: a look at the store may have seen it, or not."""
        self._one_at_a_time = asyncio.Lock()

    def logged_in(self, known: Known, remote: str | None, service: str, previous: bool) -> None:
        """`previous`: with the password from before the rotation."""
        use = self._uses.get(known.id)
        if use is not None and use.previous == previous:
            use.at, use.remote, use.service, use.count = known.now, remote, service, use.count + 1
        elif len(self._uses) < self._most:
            self._uses[known.id] = Use(known.now, remote, service, previous, use.count + 1 if use else 1)

    def refused(self, known: Known) -> None:
        """Somebody tried to log in with a stopped credential."""
        tried = self._tried.get(known.id)
        if tried is None:
            if len(self._tried) >= self._most:
                return
            tried = self._tried[known.id] = Tried(known.now)
        tried.at = known.now
        tried.refused += 1

    def sent(self, known: Known, request: PolicyRequest) -> None:
        """A message was handed in."""
        counts = self._of(known)
        if counts is not None:
            counts.messages += 1
            counts.recipients += max(request.recipients, 1)
            counts.bytes += request.size

    def take_back(self, known: Known, request: PolicyRequest) -> None:
        """What `sent` counted was refused after all."""
        counts = self._of(known)
        if counts is not None:
            counts.messages -= 1
            counts.recipients -= max(request.recipients, 1)
            counts.bytes -= request.size

    def over(self, known: Known, limit: str) -> None:
        """Something was refused because of this limit, one of `logins.LIMITS`."""
        counts = self._of(known)
        if counts is not None:
            counts.over = counts.over or limit

    def _of(self, known: Known) -> Sent | None:
        counts = self._sent.get(known.id)
        if counts is not None:
            counts.at = known.now
        elif len(self._sent) < self._most:
            counts = self._sent[known.id] = Sent(known.now)
        return counts

    def unwritten(self, credential_id: str, exactly: bool = False) -> tuple[int, int]:
        """Messages and recipients that are not in the store yet: not fewer, or, `between_writes`, exactly."""
        messages = recipients = 0
        for counts in (self._sent.get(credential_id), None if exactly else self._last.get(credential_id)):
            if counts is not None:
                messages += counts.messages
                recipients += counts.recipients
        return messages, recipients

    def between_writes(self) -> asyncio.Lock:
        """While it is held nothing is being written down."""
        return self._one_at_a_time

    async def write(self, wait: bool = False) -> None:
        """Writes all down. What fails, and what somebody else is changing just now, is kept for the next time. Raises Unavailable.

        Args:
            wait: for what somebody else is changing.
        """
        async with self._one_at_a_time:
            uses, self._uses = self._uses, {}
            sent, self._sent = self._sent, {}
            tried, self._tried = self._tried, {}
            kept = uses.keys() | sent.keys() | tried.keys()
            if not kept:
                return
            self._last = sent
            try:
                kept = set(await self._db.note(logins.record, uses, sent, tried, wait))
            finally:
                self._last = {key: counts for key, counts in sent.items() if key not in kept}
                self._keep(
                    {key: uses[key] for key in kept if key in uses},
                    {key: sent[key] for key in kept if key in sent},
                    {key: tried[key] for key in kept if key in tried},
                )

    def _keep(self, uses: dict[str, Use], sent: dict[str, Sent], tried: dict[str, Tried]) -> None:
        """With what came meanwhile."""
        for key, use in uses.items():
            later = self._uses.setdefault(key, use)
            if later is not use:
                later.count += use.count
        for key, counts in sent.items():
            fresh = self._sent.setdefault(key, counts)
            if fresh is not counts:
                fresh.messages += counts.messages
                fresh.recipients += counts.recipients
                fresh.bytes += counts.bytes
                fresh.over = fresh.over or counts.over
        for key, refusals in tried.items():
            new = self._tried.setdefault(key, refusals)
            if new is not refusals:
                new.refused += refusals.refused
