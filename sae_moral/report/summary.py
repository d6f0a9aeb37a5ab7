"""The table a diagnosis prints in a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sae_moral.report.control_words import names_words
from sae_moral.report.judged import Judged, about_length, judged, names_run
from sae_moral.report.palette import OVERALL
from sae_moral.report.scale import interval_of
from sae_moral.report.series import Best, best_layer, headline_of, tracks_by_group
from sae_moral.report.words import MISSING, interval, listed, number, p_value

if TYPE_CHECKING:
    import pandas as pd

    from sae_moral.report.version1 import Version1

WIDTH = 120


def summary_table(diagnosis: Version1) -> str:
    """Per metric: the headline at its best layer, with interval, p and verdict; why; its groups there; warnings."""
    provenance, frame = diagnosis.provenance, diagnosis.frame
    controls = provenance.get("controls") or {}
    model, data, protocol = (provenance[key] for key in ("model", "data", "protocol"))
    metrics = {name: _Found.of(frame, name, about, controls) for name, about in provenance["metrics"].items()}
    first = max(len(name) for name in ("metric", *metrics))
    second = max(len(name) for name in ("headline", *(found.statistic for found in metrics.values())))
    lines = [
        f"{model['name']} · {data.get('source', 'data')} (n = {data['n']}, {data['n_texts']} texts) · "
        f"protocol {protocol['name']} · {len(provenance['layers'])} layers",
        "",
        f"{'metric':<{first}}  {'headline':<{second}}  {'chance':>6} {'best':>8} {'layer':>5}  "
        f"{_level(controls):<16} {'p':>6}  verdict".rstrip(),
        *(f"{name:<{first}}  {found.statistic:<{second}}  {found.numbers()}".rstrip()
          for name, found in metrics.items()),
    ]  # fmt: skip
    if reasons := {name: reason for name, found in metrics.items() if (reason := found.reason())}:
        lines += ["", *(line for name, reason in reasons.items() for line in _wrapped(f"{name}: ", reason))]
    groups = {name: found.groups for name, found in metrics.items() if found.groups}
    if groups:
        lines += ["", "By group at that layer:"]
        lines += [line for name, words in groups.items() for line in _wrapped(f"{name}: ", ", ".join(words))]
    return "\n".join([*lines, "", *_notes(provenance, controls)])


class _Found:
    """A metric's headline at its best layer."""

    def __init__(self, statistic: str, chance: Any, best: Best | None, verdict: Judged | None, groups: list[str]):
        self.statistic, self.chance, self.best, self.verdict, self.groups = statistic, chance, best, verdict, groups

    @classmethod
    def of(cls, frame: pd.DataFrame, name: str, about: Mapping[str, Any], controls: Mapping[str, Any]) -> _Found:
        statistic = headline_of(frame, name, about)
        tracks = tracks_by_group(frame, name, statistic) if statistic else {}
        best = best_layer(tracks, about)
        groups = [
            f"{group} {value:.2f}".replace(" -", " −")
            for group, track in tracks.items()
            if group != OVERALL and best is not None
            for layer, value in zip(track.layers, track["value"], strict=True)
            if layer == best.layer and value == value
        ]
        return cls(str(statistic or about.get("headline")), about.get("chance"), best, judged(controls, name), groups)

    def numbers(self) -> str:
        """Chance, value, layer, interval, p and verdict."""
        chance = "" if self.chance is None else f"{self.chance:g}"
        if self.best is None:
            return f"{chance:>6} could not be computed on these scenarios"
        ends = interval_of(self.best, self.verdict)
        words = MISSING if ends is None else interval(*ends)
        row = self.best.row if self.verdict is None else self.verdict.peak
        p = MISSING if row.get("p_value") is None else p_value(row["p_value"])
        word = MISSING if self.verdict is None else self.verdict.word
        return f"{chance:>6} {number(self.best.value):>8} {self.best.layer:>5}  {words:<16} {p:>6}  {word}"

    def reason(self) -> str:
        """Why the verdict is what it is."""
        if self.best is None or self.verdict is None:
            return ""
        missing = self.verdict.untested if self.verdict.word == "found" else []
        return self.verdict.sentence + (f" Not tested: {listed(missing)}." if missing else "")


def _notes(provenance: Mapping[str, Any], controls: Mapping[str, Any]) -> list[str]:
    """What holds for all of it, and the warnings."""
    lines: list[str] = []
    if names := about_length(controls):
        lines += _wrapped("!! ", f"What {listed(names)} {'sees' if len(names) == 1 else 'see'} under protocol "
                          f"{provenance['protocol']['name']} is sentence length, not morality.")  # fmt: skip
    if "permuted labels" in names_run(controls):
        lines.append("p is corrected for the choice of the best layer; the interval is not.")
    else:
        lines.append("The best layer is chosen after the fact: without a null it flatters.")
    lines += _wrapped("", names_words(controls))
    return lines + [line for warning in provenance["warnings"] for line in _wrapped("! ", str(warning))]


def _level(controls: Mapping[str, Any]) -> str:
    return f"{100 * controls['level']:g} % interval" if controls.get("level") else "interval"


def _wrapped(start: str, text: str) -> list[str]:
    """Nothing for an empty text."""
    if not text:
        return []
    return textwrap.wrap(start + text, WIDTH, subsequent_indent=" " * min(len(start), 4), break_on_hyphens=False)
