"""Where kernels are computed in this process."""

from __future__ import annotations

import jax

__all__ = ["describe_devices", "device_kind"]


def device_kind(_: object = None) -> str:
    """``cpu``, ``gpu`` or ``tpu``: bytes repeat on one kind only.

    Takes and ignores an item, so that it can be run as a task on a worker.
    """
    return jax.default_backend()


def describe_devices() -> list[str]:
    """Kind and name of every device JAX found, such as ``gpu NVIDIA H100``."""
    return [" ".join(dict.fromkeys((d.platform, d.device_kind))) for d in jax.devices()]
