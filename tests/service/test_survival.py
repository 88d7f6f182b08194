"""The service as a process that is killed, started again and ended; and two of them at once."""

import asyncio
import ipaddress
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from ntk_dist import AsyncClient, Client, NTKRegressor, cli, stax
from ntk_dist.database import open_database
from ntk_dist.errors import ServiceUnreachableError
from ntk_dist.model.artifact import write_artifact
from ntk_dist.model.portable import pack
from ntk_dist.store.workspace import Workspace
from ntk_dist.wire import JobState


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
    tmp_path, start_server, slow_job, certificate, capsys, wait_for
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


ROWS = 2000
IN_BATCHES = {"NTK_DIST_SERVICE__BATCH_ROWS": "64"}  # so that both of two requests are at work


@pytest.mark.slow
def test_a_prediction_that_was_cut_off_is_told_or_made_again(
    tmp_path, start_server, slow_job, rng, wait_for
):
    """It is a POST, and yet nothing is changed by it: asking again is safe."""
    images = rng.normal(size=(60, 8, 8, 1))
    model = NTKRegressor(stax.from_json(json.dumps(slow_job["architecture"])))
    model.fit(images, images.sum(axis=(1, 2, 3)))
    with Workspace(tmp_path / "ws").new_model("sum") as draft:
        write_artifact(draft.place, pack(model))
    x = rng.normal(size=(ROWS, 8, 8, 1)).astype(np.float32)

    first = start_server("--insecure", **IN_BATCHES)
    port = first.url.rpartition(":")[2]

    def ask_once():
        with Client(first.url, retries=0) as client:
            return client.model("sum").predict(x, rows_per_request=ROWS)

    def ask_until_it_is_answered():
        async def ask():
            async with AsyncClient(first.url, retries=50) as client:
                found = await client.model("sum")
                return await found.predict(x, rows_per_request=ROWS // 4)

        return asyncio.run(ask())

    def waiting_rows():
        told = httpx.get(f"{first.url}/metrics", timeout=60).text
        return float(re.search(r"^ntk_dist_waiting_rows (\S+)$", told, re.MULTILINE)[1])

    with Client(first.url) as client:
        (before,) = client.models()
    with ThreadPoolExecutor() as asking:
        cut, repeated = asking.submit(ask_once), asking.submit(ask_until_it_is_answered)
        wait_for(lambda: waiting_rows() > ROWS)  # more than either asks for
        assert first.end(signal.SIGKILL) == -signal.SIGKILL
        with pytest.raises(ServiceUnreachableError) as caught:
            cut.result(60)
        told = str(caught.value)
        assert told.startswith(f"POST {first.url}/v1/models/sum/versions/1:predict: the connection")
        assert "broke before all of the answer was there" in told
        assert told.endswith("check that the service runs, and ask again")
        assert not repeated.done()
        second = start_server("--insecure", "--port", port)
        assert second.url == first.url
        with Client(second.url) as client:
            (after,) = client.models()
            assert replace(after.info, is_loaded=False) == before.info
        found = repeated.result(120)
    assert found.shape == (ROWS,)
    np.testing.assert_allclose(found[::200], model.predict(x[::200]), rtol=1e-5, atol=1e-6)


KILLED_WHILE_IT_PUBLISHES = """
import os, signal, sys
from pathlib import Path
from ntk_dist import cli

rename = Path.rename

def die(self, target):
    if Path(target).parent == Path(sys.argv[2]):  # all of the model is written, and has no number
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)

Path.rename = die
cli.run(["fit", sys.argv[1]])
"""


@pytest.mark.slow
def test_a_model_whose_writer_was_killed_is_never_listed(
    make_callers, tmp_path, job, data_root, error_of
):
    client = make_callers().may("admin")
    models, place = tmp_path / "ws" / "models" / "waves", tmp_path / "job.json"
    place.write_text(json.dumps({**job, "workspace": str(tmp_path / "ws")}))
    command = [sys.executable, "-c", KILLED_WHILE_IT_PUBLISHES, str(place), str(models)]
    assert subprocess.run(command, timeout=120, check=False).returncode == -signal.SIGKILL
    (draft,) = models.iterdir()
    assert len(list(draft.rglob("*"))) > 1  # there would be something to list
    assert client.get("/v1/models").json() == {"items": []}
    assert error_of(client.get("/v1/models/waves"))[:2] == (404, "model_not_found")
    assert client.get("/v2/models/waves/ready").status_code == 404
    done = subprocess.run([sys.executable, "-m", "ntk_dist", "fit", str(place)], check=False)
    assert done.returncode == 0
    (listed,) = client.get("/v1/models").json()["items"]
    assert (listed["name"], listed["version"], listed["versions"]) == ("waves", 1, [1])
    asked = client.post("/v1/models/waves:predict", json={"rows": [[0.0] * 4]})
    assert len(asked.json()["y"]) == 1


def test_two_replicas_on_one_database_start_every_job_once(
    make_callers, database_url, data_root, job, pretended_drivers, wait_for
):
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
    assert pretended_drivers.launched == Counter(made)
    seen = [client.get("/v1/jobs?state=running").json()["items"] for client in clients]
    assert seen[0] == seen[1]
    assert {each["attempt"] for each in seen[0]} == {1}
