"""A running server under load: what it holds, how long callers wait, and how near it comes to the bare engine.

cli ── plan ── run ─┬─ knee (which rate next, and whether one is held)
                    ├─ load (closed and open loop) ── asking (one request) ── the client
                    ├─ bare (the same work without Triton, in a process of its own)
                    ├─ triton (its statistics, before and after)
                    └─ findings ── figures ── report (table, document), page (HTML) ── files
"""
