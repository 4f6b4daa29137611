"""What became of every request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MOST_NAMED = 20


@dataclass
class Ledger:
    """Sent, and how each ended: answered (right or wrong), refused, cancelled by its caller, failed, or lost."""

    tell: Callable[[str], None]
    sent: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    by_kind: dict[str, Counter[str]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def note_sent(self, kind: str) -> None:
        self.sent[kind] += 1

    def note(self, kind: str, end: str, *, seconds: float | None = None, remark: str | None = None) -> None:
        self.ends[end] += 1
        self.by_kind.setdefault(kind, Counter())[end] += 1
        if seconds is not None:
            self.seconds.setdefault(kind, []).append(seconds)
        if remark and len(self.remarks) < MOST_NAMED:
            self.remarks.append(f"{end}: {remark}")
            self.tell(self.remarks[-1])

    @property
    def unaccounted(self) -> int:
        return self.sent.total() - self.ends.total()

    @property
    def well(self) -> bool:
        return not (self.unaccounted or self.ends["wrong"] or self.ends["failed"] or self.ends["lost"])

    def document(self) -> dict[str, Any]:
        return {
            "sent": self.sent.total(),
            **{end: self.ends[end] for end in ("answered", "refused", "cancelled", "wrong", "failed", "lost")},
            "unaccounted": self.unaccounted,
            "by_kind": self.by_kind,
            "seconds": {kind: _spread(values) for kind, values in self.seconds.items()},
            "remarks": self.remarks,
        }


def _spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[min(int(share * len(ordered)), len(ordered) - 1)], 3) for name, share in shares.items()}
