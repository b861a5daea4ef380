"""Draw the dimuon spectrum and the limit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hist
import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import mplhep
from matplotlib.axes import Axes
from matplotlib.ticker import MultipleLocator
from uhi.io.json import object_hook

MASS = r"Dimuon mass $\mathit{m}_{\mu\mu}$ [GeV]"
SIGNAL = "#e76300"
BACKGROUND = "#3f90da"

STYLE = {
    **mplhep.style.CMS,
    "font.size": 13,
    "axes.labelsize": 14,
    "axes.labelpad": 5,
    "axes.linewidth": 1.2,
    "xtick.labelsize": 12,
    "ytick.labelsize": 12,
    "xtick.major.size": 7,
    "xtick.minor.size": 3.5,
    "ytick.major.size": 7,
    "ytick.minor.size": 3.5,
    "legend.fontsize": 11.5,
    "figure.figsize": (11.5, 5.2),
    "figure.constrained_layout.use": True,
}


def draw_spectrum(axes: Axes, spectrum: hist.Hist, regions: dict[str, Any]) -> None:
    """The whole range, with the regions that are counted."""
    mplhep.histplot(spectrum, ax=axes, histtype="fill", color="#d9dce1", flow="none")
    mplhep.histplot(
        spectrum,
        ax=axes,
        histtype="errorbar",
        color="black",
        markersize=4,
        elinewidth=0.9,
        flow="none",
        label="Selected events",
    )
    band = {"ymax": 0.62, "alpha": 0.3, "linewidth": 0, "zorder": 0}
    for number, edges in enumerate(regions["sidebands"]["ranges_gev"]):
        label = "Sidebands" if number == 0 else None
        axes.axvspan(*edges, color=BACKGROUND, label=label, **band)
    axes.axvspan(*regions["window"]["ranges_gev"][0], color=SIGNAL, label="Search window", **band)
    axes.set(
        xlim=(10, 150),
        ylim=(0.5, 1500),
        yscale="log",
        xlabel=MASS,
        ylabel="Events / 2 GeV",
    )
    axes.annotate("Z", (91.2, 450), ha="center", fontsize=16)
    axes.legend(loc="upper left")
    axes.text(
        0.96,
        0.94,
        "Two isolated muons\nof opposite charge",
        transform=axes.transAxes,
        ha="right",
        va="top",
        fontsize=11.5,
    )


def draw_search(
    axes: Axes, spectrum: hist.Hist, regions: dict[str, Any], limit: dict[str, Any]
) -> None:
    """The neighbourhood of the window: what was counted, and what the limit allows."""
    ((low, high),) = regions["window"]["ranges_gev"]
    background = limit["background_in_window"]
    relative = regions["sidebands"]["events"] ** -0.5
    observed = limit["observed_limit_events"]
    outer = [edge for edges in regions["sidebands"]["ranges_gev"] for edge in edges]

    axes.fill_between(
        [min(outer), max(outer)],
        background * (1 - relative),
        background * (1 + relative),
        color=BACKGROUND,
        alpha=0.35,
        linewidth=0,
    )
    axes.hlines(
        background, min(outer), max(outer), color=BACKGROUND, label="Background from sidebands"
    )
    axes.plot(
        [low, low, high, high],
        [background, background + observed, background + observed, background],
        color=SIGNAL,
        linestyle="--",
        label="Background + signal at the limit",
    )
    mplhep.histplot(
        spectrum[20j : 70j : hist.rebin(5)],
        ax=axes,
        histtype="errorbar",
        color="black",
        markersize=6,
        elinewidth=1.2,
        xerr=True,
        flow="none",
        label="Selected events",
    )
    axes.set(
        xlim=(20, 70),
        ylim=(0, 1.9 * (background + observed)),
        xlabel=MASS,
        ylabel="Events / 10 GeV",
    )
    axes.xaxis.set_major_locator(MultipleLocator(10))
    axes.legend(loc="upper left")
    expected = limit["expected_limit_events"]
    axes.text(
        0.04,
        0.70,
        f"95% CL upper limit on the signal ({limit['method']}):\n"
        f"{observed:.1f} events, expected "
        f"${expected[2]:.1f}^{{+{expected[3] - expected[2]:.1f}}}"
        f"_{{-{expected[2] - expected[1]:.1f}}}$",
        transform=axes.transAxes,
        va="top",
        fontsize=11.5,
    )


def draw(spectrum: str, counts: str, limit: str, targets: list[str]) -> dict[str, object]:
    """Draw both and write the picture.

    Args:
        spectrum: JSON file with the histogram.
        counts: JSON file with the regions.
        limit: JSON file with the limit.
        targets: Files to write; their endings say in which format.
    """
    histogram = hist.Hist(json.loads(Path(spectrum).read_text(), object_hook=object_hook))
    regions = json.loads(Path(counts).read_text())
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, width_ratios=(1.55, 1))
        draw_spectrum(left, histogram, regions)
        draw_search(right, histogram, regions, json.loads(Path(limit).read_text()))
        left.set_title("CMS HEP tutorial, simulated events", loc="left", fontsize=13)
        selected = int(histogram.sum(flow=True))
        right.set_title(f"{selected} selected events", loc="right", fontsize=13)
        for target in targets:
            figure.savefig(target, dpi=110)
        plt.close(figure)
    return {"pictures": targets}
