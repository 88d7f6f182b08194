"""Examples for Ray, Kubernetes and SLURM: whoever reads them would take them as they are."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml
from command_lines import parse_command
from environment import SETTINGS
from images import DEPLOY, DOCKERFILE, ROOT, parse_dockerfile
from pods import pods
from policies import RULES
from required import require
from schemas import CRDS, NO_CRDS, problems, versions

from ntk_dist.executors import dask_cluster
from ntk_dist.executors.environment import _THREAD_VARIABLES
from ntk_dist.jobs.spec import JobSpec, load_job
from ntk_dist.settings import Settings
from ntk_dist.stax import from_json

LAUNCHER = sorted((DEPLOY / "ray").glob("*.yaml"))
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
BATCH = DEPLOY / "dask" / "slurm.sbatch"


def names(files: list[Path]) -> list[str]:
    return [file.name for file in files]


# `ray up`


@pytest.mark.parametrize("file", LAUNCHER, ids=names(LAUNCHER))
def test_ray_would_launch_it(file: Path):
    ray = require("ray", "ray.autoscaler")
    util = importlib.import_module("ray.autoscaler._private.util")
    schema = json.loads((Path(ray.__file__).parent / "ray-schema.json").read_text())
    config = yaml.safe_load(file.read_text())
    jsonschema.validate(config, schema)
    with pytest.raises(jsonschema.ValidationError, match="dokcer"):
        jsonschema.validate({**config, "dokcer": {}}, schema)
    whole = util.prepare_config(config)  # with Ray's defaults
    util.validate_config(whole)
    assert whole["max_workers"] == sum(
        each["min_workers"] for each in whole["available_node_types"].values()
    ), "all from the start"
    if config["provider"]["type"] == "local":
        assert len(config["provider"]["worker_ips"]) == config["max_workers"]


@pytest.mark.parametrize("file", LAUNCHER, ids=names(LAUNCHER))
def test_its_machines_find_each_other_and_ask_for_a_token(file: Path):
    require("ray")
    config = yaml.safe_load(file.read_text())
    head, worker = (
        parse_command(config[f"{kind}_start_ray_commands"][-1].split())
        for kind in ("head", "worker")
    )
    assert head["head"]
    assert head["num_cpus"] == 0, "drivers are there"
    assert worker["address"] == f"$RAY_HEAD_IP:{head['port']}"
    assert head["autoscaling_config"] == "~/ray_bootstrap_config.yaml"
    assert "--env=RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    home = parse_dockerfile(DOCKERFILE.read_text()).environment("cpu")["HOME"]
    assert config["file_mounts"] == {f"{home}/.ray/auth_token": "~/.ray/auth_token"}


# Kubernetes


def documents(file: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(file.read_text()))


OBJECTS = {file.name: documents(file) for file in MANIFESTS}
RAY_OBJECTS = [one for made in OBJECTS.values() for one in made if "ray.io" in one["apiVersion"]]


@pytest.mark.skipif(not CRDS.is_dir(), reason=NO_CRDS)
@pytest.mark.parametrize("thing", RAY_OBJECTS, ids=lambda thing: thing["kind"])
def test_kuberay_would_take_it(thing: dict[str, Any]):
    assert problems(thing, "") == []
    cluster = thing["spec"].get("rayClusterSpec") or thing["spec"]["rayClusterConfig"]
    cluster["headGroupSpec"]["rayStartParam"] = {}
    (problem,) = problems(thing, "")
    assert "rayStartParam" in problem
    del cluster["headGroupSpec"]["rayStartParam"]


@pytest.mark.parametrize("file", OBJECTS)
def test_kubernetes_would_take_the_rest(file: str):
    require("helm")
    for thing in OBJECTS[file]:
        if thing not in RAY_OBJECTS:
            assert [one for version in versions()[-3:] for one in problems(thing, version)] == []


@pytest.mark.parametrize("thing", RAY_OBJECTS, ids=lambda thing: thing["kind"])
def test_its_pods_keep_to_the_rules(thing: dict[str, Any]):
    made = pods([thing])
    assert len(made) == {"RayJob": 3, "RayService": 2}[thing["kind"]]
    found = [f"{pod}: {problem}" for pod in made for rule in RULES for problem in rule(pod)]
    assert found == []
    user = parse_dockerfile(DOCKERFILE.read_text()).last("cpu", "USER")
    assert user is not None
    for pod in made:
        context = pod.spec["securityContext"]
        assert f"{context['runAsUser']}:{context['runAsGroup']}" == user.text


@pytest.mark.parametrize("thing", RAY_OBJECTS, ids=lambda thing: thing["kind"])
def test_what_it_refers_to_is_made_or_explained(thing: dict[str, Any]):
    made = {(one["kind"], one["metadata"]["name"]) for all_ in OBJECTS.values() for one in all_}
    text = "".join(file.read_text() for file in MANIFESTS)
    made |= {("Secret", name) for name in re.findall(r"kubectl create secret generic (\S+)", text)}
    used = set()
    for pod in pods([thing]):
        for volume in pod.spec.get("volumes", []):
            if "persistentVolumeClaim" in volume:
                used.add(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
            if "configMap" in volume:
                used.add(("ConfigMap", volume["configMap"]["name"]))
        for container in pod.containers:
            for each in container.get("env", []):
                if "secretKeyRef" in each.get("valueFrom", {}):
                    used.add(("Secret", each["valueFrom"]["secretKeyRef"]["name"]))
    cluster = thing["spec"].get("rayClusterSpec") or thing["spec"]["rayClusterConfig"]
    assert cluster["authOptions"]["mode"] == "token"
    used.add(("Secret", cluster["authOptions"]["secretName"]))
    assert used <= made
    assert len(used) >= 2


@pytest.mark.parametrize("thing", RAY_OBJECTS, ids=lambda thing: thing["kind"])
def test_its_ray_is_the_pinned_one_and_can_be_started(thing: dict[str, Any]):
    require("ray")
    cluster = thing["spec"].get("rayClusterSpec") or thing["spec"]["rayClusterConfig"]
    assert f"ray=={cluster['rayVersion']}" in (ROOT / "constraints.txt").read_text().split()
    groups = [(True, cluster["headGroupSpec"]), *((False, g) for g in cluster["workerGroupSpecs"])]
    for is_head, group in groups:
        # As KubeRay writes it; flags without a value are given as "true".
        options = [
            f"--{name}" if value == "true" else f"--{name}={value}"
            for name, value in group["rayStartParams"].items()
        ]
        where = ["--head"] if is_head else ["--address=head:6379"]
        given = parse_command(["ray", "start", *where, "--block", *options])
        assert (given["num_cpus"] == 0) is is_head
        assert group.get("minReplicas") == group.get("replicas") == group.get("maxReplicas")


@pytest.mark.parametrize("thing", RAY_OBJECTS, ids=lambda thing: thing["kind"])
def test_variables_are_settings(thing: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    for pod in pods([thing]):
        for each in (each for one in pod.containers for each in one.get("env", [])):
            assert each["name"] in SETTINGS
            if "value" in each:
                monkeypatch.setenv(each["name"], each["value"])
    Settings()


def test_the_job_of_the_ray_job_is_a_job(tmp_path: Path):
    settings, job = OBJECTS["rayjob.yaml"]
    given = parse_command(job["spec"]["entrypoint"].split())
    (pod, *_) = pods([job])
    (mount,) = (m["mountPath"] for m in pod.containers[0]["volumeMounts"] if m["name"] == "job")
    folder, _, file = given["job"].rpartition("/")
    assert folder == mount
    assert given["executor"] == "ray:auto"
    (tmp_path / file).write_text(settings["data"][file])
    spec = load_job(tmp_path / file)
    assert spec.workspace == "/workspace"
    assert spec.name == job["metadata"]["name"]
    assert from_json(spec.architecture).fingerprint


def test_the_application_of_the_ray_service_is_ours(tmp_path: Path):
    schema = require("serve", "ray.serve.schema")
    (service,) = OBJECTS["rayservice.yaml"]
    config = schema.ServeDeploySchema.model_validate(
        yaml.safe_load(service["spec"]["serveConfigV2"])
    )
    (application,) = config.applications
    module, _, name = application.import_path.partition(":")
    build = getattr(importlib.import_module(module), name)
    bound = build({**application.args, "workspace": str(tmp_path)})
    (deployment,) = application.deployments
    assert bound._bound_deployment.name == deployment.name
    ports = [p for pod in pods([service]) for c in pod.containers for p in c["ports"]]
    assert {p["containerPort"] for p in ports if p["name"] == "serve"} == {config.http_options.port}
    head = service["metadata"]["name"] + "-head-svc"
    assert f"http://{head}:8265" in json.dumps(service)


# SLURM

SRUN = 'while [[ $1 == --* ]]; do shift; done\nexec "$@"'
SCONTROL = 'echo "$@" > requeued'
JOB = {
    "name": "blobs",
    "task": "classification",
    "data": {"x": "data.npz:x", "y": "data.npz:y"},
    "architecture": ["serial", ["Dense", {"W_std": 1.5}], ["Relu"], ["Dense"]],
    "gram": {"block_rows": 32},
    "workspace": "ws",
}


def test_the_batch_script_is_a_script_with_options_of_sbatch():
    subprocess.run(["bash", "-n", str(BATCH)], check=True)
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", BATCH.read_text(), re.MULTILINE))
    assert set(options) == {
        *("job-name", "nodes", "ntasks-per-node", "cpus-per-task", "mem", "time"),
        *("signal", "requeue", "open-mode"),
    }
    assert options["ntasks-per-node"] == "1"
    assert options["signal"].startswith("B:TERM@"), "to the script, not to its steps"
    assert os.access(BATCH, os.X_OK)


def test_its_workers_get_what_those_that_we_start_get():
    text = BATCH.read_text()
    exported = dict(re.findall(r"^export (\w+)=(.*)$", text, re.MULTILINE))
    ours = dask_cluster.WORKER_VARIABLES
    assert ours.items() <= exported.items()
    assert f"for name in {' '.join(_THREAD_VARIABLES)}; do" in text


@pytest.fixture
def batch(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the script as SLURM would, with stand-ins for some programs."""
    started = []

    def start(**stand_ins: str) -> subprocess.Popen[str]:
        folder = tmp_path / "bin"
        folder.mkdir()
        for name, text in {"srun": SRUN, "scontrol": SCONTROL, **stand_ins}.items():
            program = folder / name.replace("_", "-")
            program.write_text(f"#!/usr/bin/env bash\n{text}\n")
            program.chmod(0o755)
        slurm = {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "2", "SLURM_MEM_PER_NODE": "4096"}
        path = f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        process = subprocess.Popen(
            [str(BATCH), "job.yaml"],
            cwd=tmp_path,
            env={**os.environ, **slurm, "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.dask
@pytest.mark.slow
def test_the_batch_script_runs_a_job(batch, tmp_path: Path):
    """For real, but for `srun`, which starts its command here."""
    require("dask")
    rng = np.random.default_rng(0)
    y = np.arange(96) % 3
    np.savez(tmp_path / "data.npz", x=rng.standard_normal((96, 8)) + y[:, None], y=y)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB))
    process = batch()
    told, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors
    assert "model blobs version 1" in told
    assert not list(tmp_path.glob(".ntk-dist-*")), "its own folder is gone"
    assert not (tmp_path / "requeued").exists()
    assert "Registered to" in errors, "a worker came"


def test_the_batch_script_is_queued_again_when_its_time_is_over(batch, tmp_path: Path):
    scheduler = (
        "while [[ $1 != --scheduler-file ]]; do [[ $1 != worker ]] || exec sleep 60; shift; done\n"
        """echo '{"address": "tcp://127.0.0.1:1"}' > "$2"; exec sleep 60"""
    )
    driver = "trap 'sleep 0.5; exit 130' TERM; echo \"$@\" > asked\nwhile :; do sleep 0.1; done"
    process = batch(dask=scheduler, ntk_dist=driver)
    deadline = time.monotonic() + 60
    while not ((tmp_path / "asked").exists() and (tmp_path / "asked").read_text()):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert (tmp_path / "asked").read_text().split()[:2] == ["fit", "job.yaml"]
    assert (tmp_path / "requeued").read_text().split() == ["requeue", "7"]
    assert not list(tmp_path.glob(".ntk-dist-*"))


def test_the_batch_script_wants_a_job_and_sbatch():
    for words, variables in (([], {}), (["job.yaml"], {"SLURM_JOB_ID": "7"})):
        clean = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
        done = subprocess.run(
            [str(BATCH), *words],
            env={**clean, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode != 0
        assert "expected" in done.stderr


def test_jobs_of_examples_know_all_keys():
    assert set(JOB) <= set(JobSpec.model_fields)
