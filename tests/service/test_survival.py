"""The service as a process that is killed, started again and ended; and two of them at once."""

import ipaddress
import json
import os
import signal
import ssl
import threading
import time
from collections import Counter
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import httpx
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from ntk_dist import cli, stax
from ntk_dist.database import open_database
from ntk_dist.jobs.launch import AbstractLauncher
from ntk_dist.service import service as service_module
from ntk_dist.wire import JobState


def wait_for(condition, seconds=90.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


@pytest.fixture
def slow_job(tmp_path, rng):
    """55 blocks of images."""
    folder = tmp_path / "data"
    folder.mkdir()
    images = rng.normal(size=(150, 8, 8, 1))
    np.savez(folder / "images.npz", x=images, y=images.sum(axis=(1, 2, 3)))
    conv = stax.Conv(1, (3, 3), padding="SAME")
    net = stax.serial(conv, stax.Relu(), conv, stax.Relu(), stax.GlobalAvgPool(), stax.Dense(1))
    place = folder / "images.npz"
    return {
        "name": "slow",
        "task": "regression",
        "data": {"x": f"{place}:x", "y": f"{place}:y"},
        "architecture": json.loads(net.to_json()),
        "gram": {"block_rows": 15},
    }


@pytest.fixture
def certificate(tmp_path):
    """Files of a certificate for this machine, and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(here, critical=False)
        .sign(key, hashes.SHA256())
    )
    files = tmp_path / "cert.pem", tmp_path / "key.pem"
    files[0].write_bytes(made.public_bytes(Encoding.PEM))
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files


@pytest.mark.slow
def test_a_job_outlives_the_service_and_goes_on_after_its_own_end(
    tmp_path, start_server, slow_job, certificate, capsys
):
    workspace = tmp_path / "ws"
    roots = json.dumps([str(tmp_path / "data")])
    assert cli.run(["token", "create", "--scope", "admin", "--workspace", str(workspace)]) == 0
    headers = {"Authorization": f"Bearer {capsys.readouterr().out.strip()}"}

    first = start_server(NTK_DIST_SERVICE__DATA_ROOTS=roots)
    made = httpx.post(f"{first.url}/v1/jobs", json=slow_job, headers=headers)
    assert made.status_code == 202, made.text
    job_id = made.json()["id"]
    wait_for(lambda: len(list(workspace.glob("grams/*/ntk/c/*/*"))) >= 3)
    database = f"sqlite:///{workspace}/service/state.db"
    with open_database(database) as opened:
        driver = wait_for(lambda: opened.jobs.get(job_id).handle.get("pid"))
    os.kill(driver, signal.SIGSTOP)  # so that it is still at work when the next service looks
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    stored = len(list(workspace.glob("grams/*/ntk/c/*/*")))
    assert 3 <= stored < 55

    tls = ("--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1]))
    second = start_server(*tls, NTK_DIST_SERVICE__DATA_ROOTS=roots)
    assert second.url.startswith("https://")
    verified = {
        "headers": headers,
        "timeout": 60,
        "verify": ssl.create_default_context(cafile=certificate[0]),
    }
    with httpx.Client(base_url=second.url, **verified) as client:
        assert client.head("/v1/jobs").status_code == 200
        (listed,) = client.get("/v1/jobs").json()["items"]
        assert (listed["id"], listed["state"], listed["attempt"]) == (job_id, "running", 1)
        assert listed["progress"]["updated"] is not None
        assert client.get(f"/v1/jobs/{job_id}/blocks").json()["n_stored"] == stored
        assert (
            f'ntk_dist_job_tasks_done{{job_id="{job_id}",name="slow"' in client.get("/metrics").text
        )
        told = []

        def listen():
            with httpx.stream("GET", f"{second.url}/v1/jobs/{job_id}/events", **verified) as stream:
                told.extend(line for line in stream.iter_lines() if line.startswith("event: "))

        listener = threading.Thread(target=listen)
        listener.start()
        wait_for(lambda: told)
        os.kill(driver, signal.SIGKILL)

        def over():
            found = client.get(f"/v1/jobs/{job_id}").json()
            return found if JobState(found["state"]).is_over else None

        job = wait_for(over)
        assert (job["state"], job["attempt"], job["model_version"]) == ("succeeded", 2, 1)
        assert job["report"]["gram"]["n_computed"] <= 55 - stored
        assert client.get(f"/v1/jobs/{job_id}/blocks").json()["n_stored"] == 55
        assert "done" in client.get(f"/v1/jobs/{job_id}/logs").text
        listener.join(30)
        assert told[-1] == "event: end"
    assert second.end(signal.SIGTERM) == 0
    assert "Traceback" not in second.log.read_text()


class CountingLauncher(AbstractLauncher):
    """Starts nothing, and says that it runs."""

    def __init__(self):
        self.launched = Counter()

    def check(self):
        pass

    def launch(self, record):
        self.launched[record.id] += 1
        return {"launched": True}

    def look(self, record):
        return "alive"

    def stop(self, record):
        pass

    def logs(self, record, start=0):
        return b""


def test_two_replicas_on_one_database_start_every_job_once(
    make_callers, database_url, data_root, job, monkeypatch
):
    launcher = CountingLauncher()
    monkeypatch.setattr(
        service_module, "launchers_of", lambda place, settings: {"process": launcher}
    )
    replicas = [
        make_callers(database_url=database_url, data_roots=(str(data_root),), max_running_jobs=12)
        for _ in range(2)
    ]
    clients = [replica.may("admin") for replica in replicas]
    with ExitStack() as running:
        for replica in replicas:
            running.enter_context(replica.service.supervisor.run_in_thread(every_s=0.005))
        made = [clients[k % 2].post("/v1/jobs", json=job).json()["id"] for k in range(12)]
        wait_for(lambda: replicas[0].service.queue.counts()[JobState.RUNNING] == 12)
    assert launcher.launched == Counter(made)
    seen = [client.get("/v1/jobs?state=running").json()["items"] for client in clients]
    assert seen[0] == seen[1]
    assert {each["attempt"] for each in seen[0]} == {1}
