"""Every alert fires when it should and is silent otherwise, by Prometheus itself."""

import shutil
import subprocess
from pathlib import Path

from required import leave_out


def test_alerts_fire_when_they_should() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        leave_out("promtool", "promtool is not installed here (apt-get install prometheus)")
    scenarios = Path(__file__).with_name("alerts.test.yaml")
    told = subprocess.run(
        [promtool, "test", "rules", str(scenarios)], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stdout + told.stderr
