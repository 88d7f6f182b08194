"""The application as replicas of Ray Serve."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from required import require

from ntk_dist import cli
from ntk_dist.errors import InvalidInputError
from ntk_dist.service import serve_app

SCRIPT = """
import json, socket, sys, httpx, ray
from ray import serve
from ntk_dist.service import serve_app

workspace, token = sys.argv[1:]
with socket.create_server(("127.0.0.1", 0)) as one:
    port = one.getsockname()[1]
ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=80 * 2**20)
serve.start(http_options={"host": "127.0.0.1", "port": port})
try:
    serve.run(serve_app({"workspace": workspace}), route_prefix="/")
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        listed = client.get("/v1/jobs", headers=headers)
        refused = client.get("/v1/jobs")
    print(json.dumps({"listed": listed.json(), "refused": refused.json()}))
finally:
    serve.shutdown()
    ray.shutdown()
"""


@pytest.mark.ray
@pytest.mark.slow
def test_the_same_application_runs_under_ray_serve(tmp_path: Path, capsys):
    require("serve", "ray")
    require("serve")
    assert cli.run(["token", "create", "--scope", "read", "--workspace", str(tmp_path)]) == 0
    token = capsys.readouterr().out.strip()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), token],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
    )
    assert done.returncode == 0, done.stderr
    (told,) = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert told["listed"] == {"items": [], "next": None}
    assert told["refused"]["error"]["code"] == "unauthenticated"
    assert token not in done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [{}, {"workspace": "ws", "colour": "red"}])
def test_arguments_that_make_no_sense(arguments):
    with pytest.raises(InvalidInputError, match="expected the arguments workspace"):
        serve_app(arguments)
