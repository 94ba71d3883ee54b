"""Manifests hold the fields that Kubernetes documents, and start a launcher on each node.

A table of fields stands in for the clusters: kubeflow.org/v1 (training-operator's API reference), jobset.x-k8s.io/
v1alpha2 (JobSet's), batch/v1 and v1 (Kubernetes' own). A field that is not in it would be dropped or refused there.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from ruamel.yaml import YAML

from firstlight.base.errors import InputError
from firstlight.launch.kubernetes import Pods, manifest

Fields = Mapping[str, Any]
"""By field: its own fields, a list of one for each item, a set of the values that it may have, or a type."""

METADATA: Fields = {"name": str, "namespace": str, "labels": dict, "annotations": dict}
POD: Fields = {
    "restartPolicy": {"Always", "OnFailure", "Never"},
    "terminationGracePeriodSeconds": int,
    "containers": [
        {
            "name": str,
            "image": str,
            "command": [str],
            "args": [str],
            "workingDir": str,
            "env": [{"name": str, "value": str, "valueFrom": {"fieldRef": {"apiVersion": str, "fieldPath": str}}}],
            "ports": [{"name": str, "containerPort": int}],
            "resources": {"requests": dict, "limits": dict},
            "volumeMounts": [{"name": str, "mountPath": str, "readOnly": bool}],
        }
    ],
    "volumes": [
        {
            "name": str,
            "configMap": {"name": str},
            "emptyDir": {"medium": {"", "Memory"}},
            "persistentVolumeClaim": {"claimName": str, "readOnly": bool},
        }
    ],
}
REPLICAS: Fields = {
    "replicas": int,
    "restartPolicy": {"Always", "OnFailure", "Never", "ExitCode"},
    "template": {"metadata": METADATA, "spec": POD},
}
JOB: Fields = {
    "parallelism": int,
    "completions": int,
    "completionMode": {"Indexed", "NonIndexed"},
    "backoffLimit": int,
    "podFailurePolicy": {
        "rules": [
            {
                "action": {"FailJob", "FailIndex", "Ignore", "Count"},
                "onExitCodes": {"containerName": str, "operator": {"In", "NotIn"}, "values": [int]},
            }
        ]
    },
    "template": {"metadata": METADATA, "spec": POD},
}
CONFIG_MAP: Fields = {"apiVersion": {"v1"}, "kind": {"ConfigMap"}, "metadata": METADATA, "data": dict}
PYTORCH_JOB: Fields = {
    "apiVersion": {"kubeflow.org/v1"},
    "kind": {"PyTorchJob"},
    "metadata": METADATA,
    "spec": {
        "runPolicy": {
            "activeDeadlineSeconds": int,
            "backoffLimit": int,
            "cleanPodPolicy": {"None", "Running", "All"},
            "ttlSecondsAfterFinished": int,
        },
        "pytorchReplicaSpecs": {"Master": REPLICAS, "Worker": REPLICAS},
    },
}
JOB_SET: Fields = {
    "apiVersion": {"jobset.x-k8s.io/v1alpha2"},
    "kind": {"JobSet"},
    "metadata": METADATA,
    "spec": {
        "network": {"enableDNSHostnames": bool, "subdomain": str, "publishNotReadyAddresses": bool},
        "failurePolicy": {
            "maxRestarts": int,
            "rules": [
                {
                    "name": str,
                    "action": {"FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"},
                    "onJobFailureReasons": [
                        {
                            "BackoffLimitExceeded",
                            "DeadlineExceeded",
                            "FailedIndexes",
                            "MaxFailedIndexesExceeded",
                            "PodFailurePolicy",
                        }
                    ],
                }
            ],
        },
        "replicatedJobs": [{"name": str, "replicas": int, "template": {"metadata": METADATA, "spec": JOB}}],
    },
}

PODS = Pods(
    kind="pytorchjob",
    name="small-run",
    image="registry.example/firstlight:1",
    num_nodes=4,
    num_processes=8,
    config_text="model: {family: llama}\n",
    arguments=("--set", "training.steps=10"),
    namespace="lab",
    claims={"runs": "/runs", "texts": "/texts"},
    resources={"nvidia.com/gpu": "8"},
)


def faults(value: Any, allowed: Any, where: str = "") -> Iterator[str]:
    """Where `value` is not what `allowed` says."""
    if isinstance(allowed, Mapping):
        for key, inner in value.items():
            yield from faults(inner, allowed[key], f"{where}.{key}") if key in allowed else [f"{where}.{key}"]
    elif isinstance(allowed, list):
        for number, inner in enumerate(value):
            yield from faults(inner, allowed[0], f"{where}[{number}]")
    elif isinstance(allowed, set):
        if value not in allowed:
            yield f"{where} = {value}"
    elif not isinstance(value, allowed):
        yield f"{where} = {value!r} is no {allowed.__name__}"


def read(pods: Pods) -> tuple[dict[str, Any], dict[str, Any]]:
    """The ConfigMap and the job, as another program reads them."""
    config, job = YAML(typ="safe").load_all(manifest(pods))
    return config, job


def pod_of(pods: Pods, role: str = "Worker") -> dict[str, Any]:
    spec = read(pods)[1]["spec"]
    if pods.kind == "jobset":
        return dict(spec["replicatedJobs"][0]["template"]["spec"]["template"]["spec"])
    return dict(spec["pytorchReplicaSpecs"][role]["template"]["spec"])


@pytest.mark.parametrize(("kind", "fields"), [("pytorchjob", PYTORCH_JOB), ("jobset", JOB_SET)])
def test_fields_are_those_that_are_documented(kind: Any, fields: Fields) -> None:
    config, job = read(replace(PODS, kind=kind))
    assert list(faults(config, CONFIG_MAP)) == []
    assert list(faults(job, fields)) == []
    assert config["data"] == {"run.yaml": "model: {family: llama}\n"}
    assert config["metadata"] == job["metadata"] == {"name": "small-run", "namespace": "lab"}


@pytest.mark.parametrize(
    "text", ["a: 1", "a: 1\n\n\n", "a: |\n  b \n\tc\n# é 漢: 'x' \"y\" $(Z)\n", "\n\na: {b: [1]}\n"]
)
def test_the_runs_file_comes_out_as_it_went_in(text: str) -> None:
    assert read(replace(PODS, config_text=text))[0]["data"] == {"run.yaml": text}


def test_a_field_that_is_not_documented_is_seen() -> None:
    assert list(faults({"spec": {"runPolicy": {"backofLimit": 1}}}, PYTORCH_JOB)) == [".spec.runPolicy.backofLimit"]
    assert list(faults({"spec": {"network": {"subdomain": 1}}}, JOB_SET)) == [".spec.network.subdomain = 1 is no str"]


def test_a_pytorch_job_has_a_master_and_workers() -> None:
    replicas = read(PODS)[1]["spec"]["pytorchReplicaSpecs"]
    assert {role: one["replicas"] for role, one in replicas.items()} == {"Master": 1, "Worker": 3}
    assert set(read(replace(PODS, num_nodes=1))[1]["spec"]["pytorchReplicaSpecs"]) == {"Master"}
    # the operator finds them by these names
    container = pod_of(PODS)["containers"][0]
    assert container["name"] == "pytorch"
    assert container["ports"][0]["name"] == "pytorchjob-port"
    assert container["args"][-4:] == ["--nproc-per-node", "8", "--set", "training.steps=10"]


def test_a_job_set_has_an_index_for_each_node() -> None:
    job = read(replace(PODS, kind="jobset"))[1]["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (job["parallelism"], job["completions"], job["completionMode"]) == (4, 4, "Indexed")
    container = pod_of(replace(PODS, kind="jobset"))["containers"][0]
    assert {"name": "NODE_RANK"}.items() <= container["env"][1].items()
    assert "small-run-node-0-0.small-run" in container["args"]


def test_every_mount_has_its_volume() -> None:
    pod = pod_of(PODS)
    container = pod["containers"][0]
    assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}
    assert container["workingDir"] == "/runs"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "8"}


@pytest.mark.parametrize("name", ["Run", "1run", "run_1", "x" * 41, "run-"])
def test_a_name_that_kubernetes_refuses_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="--name"):
        manifest(replace(PODS, name=name))


def test_a_run_needs_a_volume() -> None:
    with pytest.raises(InputError, match="--claim"):
        manifest(replace(PODS, claims={}))
