"""Every alert fires when it should and is silent otherwise, by Prometheus itself."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def test_alerts_fire_when_they_should() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        is_required = "promtool" in os.environ.get("NTK_DIST_REQUIRE", "").split(",")
        missing = "promtool is not installed here (apt-get install prometheus)"
        (pytest.fail if is_required else pytest.skip)(missing)
    scenarios = Path(__file__).with_name("alerts.test.yaml")
    told = subprocess.run(
        [promtool, "test", "rules", str(scenarios)], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stdout + told.stderr
