"""The monitor's numbers for Prometheus, by its own Python library (prometheus-client 0.26)."""

from __future__ import annotations

from typing import Any

from .stages import Stage

GAUGES = {
    "allocated": "The most that tensors held in the last call, in bytes.",
    "reserved": "The most that PyTorch had from the driver in the last call, in bytes.",
    "driver": "What the driver counts as used, by everyone, at the end of the stage, in bytes.",
    "total": "Memory of the device in bytes.",
    "left": "What could still have been allocated at the peak of the last call, in bytes.",
    "weights": "Weights of the pipeline on the device, in bytes.",
    "seconds": "Seconds of the stage in the last call.",
}


def registry(stages: list[Stage], calls: int, failures: int) -> Any:
    """A `CollectorRegistry` with a gauge for each amount of `GAUGES`, labelled by stage and device.

    Args:
        stages: of all calls that are kept; the last of each counts.
        calls: finished so far.
        failures: calls that ended with an exception.

    Raises:
        ImportError: prometheus-client is not installed.

    Chapter 13.
    """
    try:
        from prometheus_client import CollectorRegistry, Counter, Gauge
    except ImportError:
        raise ImportError("numbers for Prometheus need its library: pip install prometheus-client") from None
    found = CollectorRegistry()
    last = {(one.stage, one.device): one for one in stages}
    for name, help in GAUGES.items():
        unit = "seconds" if name == "seconds" else f"{name}_bytes"
        gauge = Gauge(f"sana_stage_{unit}", help, ["stage", "device"], registry=found)
        for (stage, device), one in last.items():
            gauge.labels(stage, device).set(getattr(one, name))
    Counter("sana_calls", "Calls of the pipeline.", registry=found).inc(calls)
    Counter("sana_calls_failed", "Calls that ended with an exception.", registry=found).inc(failures)
    return found


def text(stages: list[Stage], calls: int, failures: int) -> str:
    """The same as the text that Prometheus reads.

    Raises:
        ImportError: prometheus-client is not installed.
    """
    found = registry(stages, calls, failures)
    from prometheus_client import generate_latest

    return generate_latest(found).decode()
