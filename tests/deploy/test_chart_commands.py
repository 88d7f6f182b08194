"""Every command line of the chart is one that its program takes."""

from __future__ import annotations

import shlex
from typing import Any

import click
import pytest
import yaml
from charts import CASES, Object, of_kind, render, values
from commands import complaint, programs, unknown_variables, words
from environment import environment, ours
from pods import pods
from required import require

from ntk_dist.jobs.spec import load_job

require("dask")

BY_THE_OPERATOR = {"DaskCluster": ("DASK_WORKER_NAME", "DASK_SCHEDULER_ADDRESS")}
"""Variables that an operator adds to the containers of its pods."""


def rays(case: str) -> list[tuple[str, Object]]:
    """The specification of every Ray cluster."""
    return [
        (one["metadata"]["name"], one["spec"].get("rayClusterConfig", one["spec"]))
        for one in of_kind(render(case), "RayCluster", "RayService")
    ]


@pytest.mark.parametrize("case", CASES)
def test_every_command_of_ours_is_taken(case):
    objects, known, refused = render(case), programs(), []
    for pod, container in ours(objects, values(case)["image"]["repository"]):
        program, *arguments = words(container) or [""]
        if program in known:
            said = complaint(known[program], arguments)
            refused += [f"{pod}: {shlex.join(words(container))}: {said}"] if said else []
        elif program == "python":
            code = mounted(container, pod.spec, objects)[arguments[0]]
            compile(code, arguments[0], "exec")
        else:
            # KubeRay writes the command of Ray's containers, and of what submits its jobs.
            assert pod.owner["kind"] in ("RayCluster", "RayService", "RayJob"), str(pod)
            assert not program or pod.owner["kind"] == "RayJob", str(pod)
    assert refused == []


def mounted(container: Object, spec: Object, objects: list[Object]) -> dict[str, str]:
    """Files of ConfigMaps, by where the container sees them."""
    maps = {one["metadata"]["name"]: one["data"] for one in of_kind(objects, "ConfigMap")}
    volumes = {one["name"]: one for one in spec["volumes"]}
    return {
        f"{mount['mountPath']}/{key}": text
        for mount in container["volumeMounts"]
        for key, text in maps.get(
            volumes[mount["name"]].get("configMap", {}).get("name"), {}
        ).items()
    }


@pytest.mark.parametrize("case", CASES)
def test_variables_in_commands_are_there(case):
    objects = render(case)
    for pod in pods(objects):
        for container in pod.containers:
            known = {*environment(container, objects), *BY_THE_OPERATOR.get(pod.owner["kind"], ())}
            assert unknown_variables(container, known) == set(), str(pod)


@pytest.mark.parametrize("case", CASES)
def test_ray_start_knows_every_parameter(case):
    scripts = require("ray", "ray.scripts.scripts")
    known = {
        option.removeprefix("--") for parameter in scripts.start.params for option in parameter.opts
    }
    for name, spec in rays(case):
        for group in [spec["headGroupSpec"], *spec.get("workerGroupSpecs", [])]:
            assert group["rayStartParams"].keys() <= known, name
            assert all(isinstance(value, str) for value in group["rayStartParams"].values()), name


@pytest.mark.parametrize("case", CASES)
def test_what_ray_serves_is_an_application_of_ours(case):
    schema = require("serve", "ray.serve.schema")
    from ntk_dist import service

    for one in of_kind(render(case), "RayService"):
        config = schema.ServeDeploySchema.model_validate(
            yaml.safe_load(one["spec"]["serveConfigV2"])
        )
        (application,) = config.applications
        module, _, name = application.import_path.partition(":")
        assert module == "ntk_dist.service"
        assert callable(getattr(service, name))
        assert {"workspace"} <= application.args.keys() <= {"workspace", "database"}
        assert [part.name for part in application.deployments] in ([], ["ntk_dist"])


@pytest.mark.parametrize("case", CASES)
def test_ray_jobs_run_a_command_that_is_taken(case):
    for one in of_kind(render(case), "RayJob"):
        program, *arguments = shlex.split(one["spec"]["entrypoint"])
        assert complaint(programs()[program], arguments) is None


@pytest.mark.parametrize("case", CASES)
def test_job_files_are_ones_that_fit_takes(case, tmp_path):
    for one in of_kind(render(case), "ConfigMap"):
        for name, text in one["data"].items():
            if one["metadata"]["name"].endswith("-jobs"):
                (tmp_path / name).write_text(text, encoding="utf-8")
                assert load_job(tmp_path / name).workspace


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("serve --workspace w --host 0.0.0.0 --port 8080", None),
        ("serve --workspaces w", "--workspaces"),
        ("serve --workspace w --port many", "'many' is not a valid"),
        ("server --workspace w", "no command 'server'"),
        ("token create", "missing"),
        ("token create --scope everything --workspace w --name one", "everything"),
        ("serve --workspace w more", "too much"),
    ],
)
def test_a_wrong_command_is_found(line, said):
    found = complaint(programs()["ntk-dist"], shlex.split(line))
    assert found is None if said is None else said in str(found)


def test_a_variable_that_is_not_there_is_found():
    container: Any = {"command": ["serve", "$(A)/$(B)", "$$(C)"]}
    assert unknown_variables(container, {"A"}) == {"B"}


def test_groups_are_looked_into():
    inner = click.Group("inner", commands={"do": click.Command("do")})
    assert complaint(click.Group("outer", commands={"inner": inner}), ["inner", "do"]) is None
