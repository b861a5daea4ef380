"""Choose events with two good muons of opposite charge."""

from __future__ import annotations

import os

import awkward as ak
import uproot
import vector

vector.register_awkward()


def select(source: str, target: str) -> dict[str, float]:
    """Keep triggered events with exactly two good muons whose charges cancel.

    A good muon passes ``MIN_MUON_PT`` (GeV) and ``MAX_RELATIVE_ISOLATION``, which are read
    from the environment.

    Args:
        source: ROOT file with the tree ``events``.
        target: ROOT file to write: one entry of the tree ``dimuons`` for every kept event.

    Returns:
        How many events are left after each cut.
    """
    min_pt = float(os.environ["MIN_MUON_PT"])
    max_isolation = float(os.environ["MAX_RELATIVE_ISOLATION"])

    with uproot.open(source) as file:
        events = file["events"].arrays(filter_name=["triggerIsoMu24", "EventWeight", "Muon_*"])
    muons = ak.zip(
        {
            "px": events.Muon_Px,
            "py": events.Muon_Py,
            "pz": events.Muon_Pz,
            "E": events.Muon_E,
            "charge": events.Muon_Charge,
            "isolation": events.Muon_Iso,
        },
        with_name="Momentum4D",
    )
    good = muons[(muons.pt > min_pt) & (muons.isolation / muons.pt < max_isolation)]

    triggered = events.triggerIsoMu24
    pair = triggered & (ak.num(good) == 2)  # noqa: PLR2004
    opposite = pair & (ak.sum(good.charge, axis=1) == 0)
    first, second = ak.unzip(ak.combinations(good[opposite], 2))
    dimuon = ak.flatten(first + second)

    with uproot.recreate(target) as file:
        file["dimuons"] = {
            "mass": ak.to_numpy(dimuon.mass),
            "pt": ak.to_numpy(dimuon.pt),
            "weight": ak.to_numpy(events.EventWeight[opposite]),
        }
    counts = {
        "events": len(events),
        "triggered": int(ak.sum(triggered)),
        "two_muons": int(ak.sum(pair)),
        "opposite_charge": int(ak.sum(opposite)),
    }
    for cut, number in counts.items():
        print(f"{cut:>16} {number:6d}")
    return {**counts, "mean_mass_gev": round(float(ak.mean(dimuon.mass)), 4)}
