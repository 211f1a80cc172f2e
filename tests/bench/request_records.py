# SPDX-License-Identifier: Apache-2.0
"""Two accounts of the same requests, put side by side: the client program's and the kernel's.

Both are JSON objects, one per line, keyed by the cookie of the client's socket and the number of
the request on it: weir-ttfb-client writes {"cookie","seq","ttfb_us"}, `weir events --json` writes
{"event":"request","cookie","seq","ttfb_us",...} among other events.

Thread-safe: pure functions.
"""
import json
import math


def quantile(ordered, q):
    """The least value that a share `q` of the sorted values does not exceed; None of nothing."""
    return ordered[max(math.ceil(q * len(ordered)), 1) - 1] if ordered else None


def client_account(lines):
    """({(cookie, seq): ttfb_us}, requests made, requests without an answer)."""
    *records, total = [json.loads(line) for line in lines if line.startswith("{")]
    return (keyed(records, "the client"), total["requests"], total["errors"])


def kernel_account(lines):
    """({(cookie, seq): ttfb_us}, records that the reader says it lost)."""
    events = [json.loads(line) for line in lines if line.startswith("{")]
    lost = sum(event["records"] for event in events if event["event"] == "lost")
    return keyed([event for event in events if event["event"] == "request"], "the kernel"), lost


def keyed(records, whose):
    found = {}
    for record in records:
        key = (record["cookie"], record["seq"])
        if key in found:
            raise ValueError(f"{whose} tells of request {key[1]} on socket {key[0]} twice")
        found[key] = record["ttfb_us"]
    return found


def compare(own, kernel):
    """How far the kernel's time to first byte is from the client's own, request by request.

    {"matched", "unmatched": requests of which the kernel has no record or no time,
     "invented": records for requests that these sockets never made,
     "error_p50_us", "error_p99_us", "error_max_us": of the absolute error,
     "bias_us": median of the signed one, kernel minus client; "own_p50_us"}
    The figures are None when nothing matched.
    """
    errors = [kernel[key] - ttfb_us for key, ttfb_us in own.items()
              if kernel.get(key) is not None]
    cookies = {cookie for cookie, _ in own}
    sizes = sorted(map(abs, errors))
    return {
        "matched": len(errors),
        "unmatched": len(own) - len(errors),
        "invented": sum(1 for key in kernel if key[0] in cookies and key not in own),
        "error_p50_us": quantile(sizes, 0.5),
        "error_p99_us": quantile(sizes, 0.99),
        "error_max_us": quantile(sizes, 1.0),
        "bias_us": quantile(sorted(errors), 0.5),
        "own_p50_us": quantile(sorted(own.values()), 0.5),
    }
