"""Manifests for Kubernetes: a pod on each node, with one launcher in it, as a PyTorchJob or a JobSet.

Fields: kubeflow.org/v1 PyTorchJob (training-operator), jobset.x-k8s.io/v1alpha2 JobSet, batch/v1 Job, v1 Pod.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import LiteralScalarString

from firstlight.base.errors import FolderInUseError, InputError, NoCheckpointError

Kind = Literal["pytorchjob", "jobset"]

_CONFIG_FOLDER = "/etc/firstlight"
_CONFIG_FILE = "run.yaml"
_PORT = 29400
_SAVE_SECONDS = 600
"""A pod that is told to end finishes its step and saves."""
_MAX_RESTARTS = 10
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LONGEST_NAME = 40
"""Names of pods are made of it, and hold 63 letters."""


@dataclass(frozen=True, kw_only=True)
class Pods:
    """What is to run in the cluster."""

    kind: Kind
    name: str
    image: str
    num_nodes: int
    num_processes: int
    """On each node."""
    config_text: str
    """Of the run's YAML file."""
    arguments: Sequence[str] = ()
    """Of the launcher, beyond the file and the place of the node."""
    namespace: str | None = None
    claims: Mapping[str, str] = field(default_factory=dict)
    """Folders by the name of the volume claim that is mounted there. Relative paths of the run begin at the first."""
    resources: Mapping[str, str] = field(default_factory=dict)
    """Of a pod, as requests and limits."""


def manifest(pods: Pods) -> str:
    """A ConfigMap with the run's YAML file, and the job. Raises InputError for what Kubernetes would refuse."""
    if not _NAME.fullmatch(pods.name) or len(pods.name) > _LONGEST_NAME:
        raise InputError(
            f"--name {pods.name} cannot name a job in Kubernetes: small letters, digits and dashes, a letter first, "
            f"{_LONGEST_NAME} at most"
        )
    if not pods.claims:
        raise InputError("--claim is needed: the data, and the run's folder, which all nodes write to, lie on a volume")
    made = _pytorch_job(pods) if pods.kind == "pytorchjob" else _job_set(pods)
    text = io.StringIO()
    writer = YAML()
    writer.default_flow_style = False
    writer.dump_all([_config_map(pods), made], text)
    return text.getvalue()


def _config_map(pods: Pods) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(pods),
        "data": {_CONFIG_FILE: LiteralScalarString(pods.config_text)},
    }


def _metadata(pods: Pods) -> dict[str, Any]:
    return {"name": pods.name} | ({"namespace": pods.namespace} if pods.namespace else {})


def _pytorch_job(pods: Pods) -> dict[str, Any]:
    """The operator gives each pod its RANK, and the address of the first. That one listens at its own: its name may
    not be known yet when it starts."""
    replicas = {"Master": (1, "$(POD_IP)"), "Worker": (pods.num_nodes - 1, "$(MASTER_ADDR)")}
    specs = {
        role: {
            "replicas": count,
            "restartPolicy": "OnFailure",
            "template": {"spec": _pod(pods, node_rank="$(RANK)", address=address)},
        }
        for role, (count, address) in replicas.items()
        if count
    }
    policy = {"backoffLimit": _MAX_RESTARTS, "cleanPodPolicy": "Running"}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": _metadata(pods),
        "spec": {"runPolicy": policy, "pytorchReplicaSpecs": specs},
    }


def _job_set(pods: Pods) -> dict[str, Any]:
    """All pods start again together. What is wrong with the input would be wrong again, and ends the set."""
    final = [InputError.exit_code, NoCheckpointError.exit_code, FolderInUseError.exit_code]
    job = {
        "parallelism": pods.num_nodes,
        "completions": pods.num_nodes,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": final}}]},
        "template": {
            "spec": {
                "restartPolicy": "Never",
                **_pod(pods, node_rank="$(NODE_RANK)", address=f"{pods.name}-node-0-0.{pods.name}"),
            }
        },
    }
    rule = {"name": "wrongInput", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": _metadata(pods),
        "spec": {
            "network": {"enableDNSHostnames": True, "subdomain": pods.name},
            "failurePolicy": {"maxRestarts": _MAX_RESTARTS, "rules": [rule]},
            "replicatedJobs": [{"name": "node", "replicas": 1, "template": {"spec": job}}],
        },
    }


def _pod(pods: Pods, *, node_rank: str, address: str) -> dict[str, Any]:
    """The container's name and its port's are those that the operator looks for."""
    place = ["--nodes", str(pods.num_nodes), "--node-rank", node_rank, "--master-addr", address]
    place += ["--master-port", str(_PORT), "--nproc-per-node", str(pods.num_processes)]
    mounts = [{"name": f"claim-{name}", "mountPath": folder} for name, folder in pods.claims.items()]
    container: dict[str, Any] = {
        "name": "pytorch",
        "image": pods.image,
        "command": ["firstlight"],
        "args": ["launch", "nodes", f"{_CONFIG_FOLDER}/{_CONFIG_FILE}", *place, *pods.arguments],
        "workingDir": next(iter(pods.claims.values())),
        "env": [
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            *(_COMPLETION_INDEX if pods.kind == "jobset" else ()),
        ],
        "ports": [{"name": "pytorchjob-port", "containerPort": _PORT}],
        "volumeMounts": [
            {"name": "config", "mountPath": _CONFIG_FOLDER, "readOnly": True},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
            *mounts,
        ],
    }
    if pods.resources:
        container["resources"] = {"requests": dict(pods.resources), "limits": dict(pods.resources)}
    claims = [{"name": f"claim-{name}", "persistentVolumeClaim": {"claimName": name}} for name in pods.claims]
    return {
        "terminationGracePeriodSeconds": _SAVE_SECONDS,
        "containers": [container],
        "volumes": [
            {"name": "config", "configMap": {"name": pods.name}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
            *claims,
        ],
    }


_COMPLETION_INDEX = (
    {
        "name": "NODE_RANK",
        "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}},
    },
)
