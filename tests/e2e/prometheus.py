# SPDX-License-Identifier: Apache-2.0
"""A strict reader of the Prometheus text format 0.0.4: what it does not know, it refuses.

Beyond the grammar it insists on what scrapers rely on: HELP and TYPE before the samples of a
family, each once; the lines of a family together; no sample twice; counters named *_total and not
negative; histograms cumulative, ending in +Inf, which equals their count.
"""
import math
import re

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(,|$)')
SAMPLE = re.compile(rf"({NAME})(?:\{{(.*)\}})? (\S+)$")
TYPES = {"counter", "gauge", "histogram", "summary", "untyped"}


class Malformed(ValueError):
    pass


def _labels(text, line):
    labels, at = {}, 0
    while at < len(text):
        match = LABEL.match(text, at)
        if not match or (match.group(3) == "," and match.end() == len(text)):
            raise Malformed(f"labels: {line}")
        if match.group(1) in labels:
            raise Malformed(f"label twice: {line}")
        labels[match.group(1)] = match.group(2)
        at = match.end()
    return labels


def _family(sample, types):
    for suffix in ("_bucket", "_sum", "_count"):
        base = sample.removesuffix(suffix)
        if base != sample and types.get(base) in ("histogram", "summary"):
            return base
    return sample


def parse(text):
    """{family: {"type", "help", "samples": {(name, frozenset of labels): value}}}"""
    if not text.endswith("\n"):
        raise Malformed("no newline at the end")
    families, types, current = {}, {}, None
    for line in text.split("\n")[:-1]:
        if line.startswith("#"):
            match = re.match(rf"# (HELP|TYPE) ({NAME}) (.+)$", line)
            if not match:
                raise Malformed(f"comment: {line}")
            kind, name, rest = match.groups()
            family = families.setdefault(name, {"samples": {}})
            key = kind.lower()
            if key in family or family["samples"]:
                raise Malformed(f"{kind} twice or after its samples: {line}")
            if key == "type":
                if rest not in TYPES:
                    raise Malformed(f"type: {line}")
                types[name] = rest
            family[key] = rest
            current = name
            continue
        match = SAMPLE.match(line)
        if not match:
            raise Malformed(f"sample: {line!r}")
        name, labels, value = match.groups()
        base = _family(name, types)
        if base != current or {"help", "type"} - set(families[base]):
            raise Malformed(f"sample away from its HELP and TYPE: {line}")
        key = (name, frozenset(_labels(labels or "", line).items()))
        if key in families[base]["samples"]:
            raise Malformed(f"sample twice: {line}")
        families[base]["samples"][key] = float(value.replace("Inf", "inf"))
    for name, family in families.items():
        _check(name, family)
    return families


def _check(name, family):
    if not family["samples"] and family.get("type") != "histogram":
        return  # a family that has no member at the moment
    if family["type"] == "counter":
        if not name.endswith("_total"):
            raise Malformed(f"counter not named _total: {name}")
        if any(not v >= 0 for v in family["samples"].values()):
            raise Malformed(f"negative counter: {name}")
    if family["type"] == "histogram":
        _check_histogram(name, family["samples"])


def _check_histogram(name, samples):
    series = {}
    for (sample, labels), value in samples.items():
        rest = frozenset(l for l in labels if l[0] != "le")
        entry = series.setdefault(rest, {"buckets": []})
        if sample == f"{name}_bucket":
            bound = dict(labels)["le"]
            entry["buckets"].append((float(bound.replace("Inf", "inf")), value))
        else:
            entry[sample] = value
    for labels, entry in series.items():
        buckets = entry["buckets"]
        counts = [count for _, count in buckets]
        if (buckets != sorted(buckets) or counts != sorted(counts) or not buckets
                or not math.isinf(buckets[-1][0]) or counts[-1] != entry.get(f"{name}_count")
                or f"{name}_sum" not in entry):
            raise Malformed(f"histogram {name} {sorted(labels)}: {entry}")


def value(families, name, **labels):
    """The one sample of that name with at least these labels."""
    wanted = set(labels.items())
    found = [v for f in families.values() for (n, l), v in f["samples"].items()
             if n == name and wanted <= l]
    if len(found) != 1:
        raise Malformed(f"{len(found)} samples of {name} {labels}")
    return found[0]
