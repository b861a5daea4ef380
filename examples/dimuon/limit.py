"""Ask how large a narrow resonance could hide in the dimuon spectrum."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyhf
from pyhf.infer.intervals.upper_limits import toms748_scan

LEVEL = 0.05
"""One minus the confidence level."""


def build(window: dict[str, float], sidebands: dict[str, float]) -> pyhf.Workspace:
    """A counting experiment: the sidebands fix the background under the window.

    The signal has one event for every unit of ``signal_events``, all in the window. The
    background is flat: ``background_per_gev`` events for every GeV, the same in both.

    Args:
        window: ``events`` and ``width_gev`` of the window.
        sidebands: The same of the sidebands.
    """
    signal = {
        "name": "signal",
        "data": [1.0],
        "modifiers": [{"name": "signal_events", "type": "normfactor", "data": None}],
    }
    background = {
        "name": "background",
        "modifiers": [{"name": "background_per_gev", "type": "normfactor", "data": None}],
    }
    rate = sidebands["events"] / sidebands["width_gev"]
    parameters = [
        {
            "name": "signal_events",
            "inits": [1.0],
            "bounds": [[0.0, 10.0 * (window["events"] + 5)]],
        },
        {"name": "background_per_gev", "inits": [rate], "bounds": [[0.01 * rate, 10.0 * rate]]},
    ]
    return pyhf.Workspace(
        {
            "version": "1.0.0",
            "channels": [
                {
                    "name": "window",
                    "samples": [signal, {**background, "data": [window["width_gev"]]}],
                },
                {
                    "name": "sidebands",
                    "samples": [{**background, "data": [sidebands["width_gev"]]}],
                },
            ],
            "observations": [
                {"name": "window", "data": [window["events"]]},
                {"name": "sidebands", "data": [sidebands["events"]]},
            ],
            "measurements": [
                {
                    "name": "resonance",
                    "config": {"poi": "signal_events", "parameters": parameters},
                }
            ],
        }
    )


def set_limit(counts: str, workspace: str, target: str) -> dict[str, object]:
    """An upper limit at 95% confidence level on the number of signal events.

    The method is read from ``STATS_METHOD``; this example knows ``CLS``.

    Args:
        counts: JSON file with the events in the window and in the sidebands.
        workspace: JSON file to write: the statistical model, as pyhf's own command reads it.
        target: JSON file to write: what this function returns.

    Raises:
        ValueError: The method is unknown, or the sidebands are empty.
    """
    method = os.environ["STATS_METHOD"]
    if method.upper() != "CLS":
        raise ValueError(f"STATS_METHOD is {method!r}; this example knows CLS")
    regions = json.loads(Path(counts).read_text(encoding="utf-8"))
    window, sidebands = regions["window"], regions["sidebands"]
    if not sidebands["events"]:
        raise ValueError("no events in the sidebands: nothing to fix the background by")
    statement = build(window, sidebands)
    model = statement.model()
    data = statement.data(model)

    fitted = dict(zip(model.config.par_names, pyhf.infer.mle.fit(data, model), strict=True))
    largest = model.config.suggested_bounds()[model.config.poi_index][1]
    # Not from 0: there both hypotheses are the same, and CLs may be 0 / 0.
    observed, expected = toms748_scan(data, model, 0.05, largest, level=LEVEL)

    background = sidebands["events"] * window["width_gev"] / sidebands["width_gev"]
    result = {
        "method": "CLs",
        "confidence_level": 1 - LEVEL,
        "events_in_window": window["events"],
        "background_in_window": round(background, 4),
        "best_fit_signal_events": round(float(fitted["signal_events"]), 3),
        "observed_limit_events": round(float(observed), 3),
        "expected_limit_events": [round(float(value), 3) for value in expected],
    }
    Path(workspace).write_text(json.dumps(statement, indent=2) + "\n", encoding="utf-8")
    Path(target).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"observed limit {observed:.1f} events, expected {expected[2]:.1f}")
    return result
