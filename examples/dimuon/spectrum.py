"""Count the selected events: in bins of the dimuon mass, and in the regions of the search."""

from __future__ import annotations

import json
from pathlib import Path

import hist
import uproot
from uhi.io.json import default


def fill(
    source: str,
    target: str,
    counts: str,
    window: list[float],
    sidebands: list[list[float]],
) -> dict[str, int]:
    """Fill the mass spectrum and count in the regions, every event once.

    Args:
        source: ROOT file with the tree ``dimuons``.
        target: JSON file to write: the histogram, in the format that hist reads and writes.
        counts: JSON file to write: edges of the regions and the events in them.
        window: Where a resonance is looked for: lower and upper edge in GeV.
        sidebands: Where there would be background alone: edges in GeV.
    """
    with uproot.open(source) as file:
        mass = file["dimuons"]["mass"].array(library="np")
    spectrum = hist.Hist.new.Reg(70, 10, 150, name="mass", label="Dimuon mass [GeV]").Int64()
    spectrum.fill(mass)
    Path(target).write_text(json.dumps(spectrum, default=default) + "\n", encoding="utf-8")

    regions = {
        name: {
            "ranges_gev": ranges,
            "width_gev": sum(high - low for low, high in ranges),
            "events": sum(int(spectrum[low * 1j : high * 1j : sum]) for low, high in ranges),
        }
        for name, ranges in (("window", [window]), ("sidebands", sidebands))
    }
    Path(counts).write_text(json.dumps(regions, indent=2) + "\n", encoding="utf-8")

    numbers = {
        "entries": len(mass),
        "in_range": int(spectrum.sum()),
        "below_range": int(spectrum[hist.underflow]),
        "above_range": int(spectrum[hist.overflow]),
        "z_peak_60_120_gev": int(spectrum[60j:120j:sum]),
        **{name: region["events"] for name, region in regions.items()},
    }
    for name, number in numbers.items():
        print(f"{name:>18} {number:6d}")
    return numbers
