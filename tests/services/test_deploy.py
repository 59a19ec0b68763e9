"""What deploy/ says of versions, ports, secrets and the study, against itself and the project."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import NullPool, create_engine, text

from study import resolve, run
from tests.services import postgres
from tests.services.postgres import PASSWORD, Postgres

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
FILES = sorted(path for path in DEPLOY.iterdir() if path.is_file())
SCRIPTS = [path for path in FILES if path.suffix == ".sh"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED = dict(
    line.split("==")
    for line in (DEPLOY / "constraints.txt").read_text().splitlines()
    if not line.startswith("#")
)
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()

LITERALS = re.compile(
    r"""
    \b(?:AKIA|ASIA)[0-9A-Z]{16}\b                               # a key of AWS
    | -----BEGIN\ [A-Z ]*PRIVATE\ KEY-----
    | (?<![\w.=/:])(?!127\.0\.0\.1\b)\d{1,3}(?:\.\d{1,3}){3}\b  # an address
    | \b\w*(?:PASSWORD|SECRET_KEY|TOKEN)\b["']?\s*[=:]\s*["']?\w
    | ://[^\s/@:]+:[^\s/@$]+@                                   # a password in a URL
    | \bami-[0-9a-f]{8,}\b | \b\d{12}\b                         # an image, an account
    """,
    re.VERBOSE | re.IGNORECASE,
)


def rayjob() -> tuple[dict[str, Any], dict[str, Any]]:
    """The volume and the job of the manifest."""
    volume, job = yaml.safe_load_all((DEPLOY / "kuberay-rayjob.yaml").read_text())
    return volume, job


def containers() -> list[dict[str, Any]]:
    """Those of head and workers in the manifest."""
    cluster = rayjob()[1]["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    found = [group["template"]["spec"]["containers"] for group in groups]
    assert all(len(each) == 1 for each in found)
    return [container for [container] in found]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_host_and_no_secret_stands_in_a_file(path: Path) -> None:
    assert [found.group() for found in LITERALS.finditer(path.read_text())] == []


@pytest.mark.parametrize(
    "line",
    [
        "aws_access_key_id: AKIAIOSFODNN7EXAMPLE",
        "-----BEGIN RSA PRIVATE KEY-----",
        "host: 10.0.0.7",
        "ray start --dashboard-host 0.0.0.0",
        "PGPASSWORD=sesame",
        'MLFLOW_AUTH_ADMIN_PASSWORD: "sesame"',
        "password=sesame",
        "RAY_AUTH_TOKEN=0123",
        "MLFLOW_FLASK_SERVER_SECRET_KEY='abc'",
        "--ledger postgresql://study:sesame@postgres/ledgers",
        "ImageId: ami-0a2b85e15b7c0ac34",
        "arn:aws:iam::123456789012:role/head",
    ],
)
def test_such_a_line_would_be_found(line: str) -> None:
    assert LITERALS.search(line)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_bash_can_read_and_run_the_script(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert os.access(path, os.X_OK)
    assert "\nset -euo pipefail\n" in path.read_text()


def test_what_the_scripts_listen_on_is_the_loopback_interface() -> None:
    said = "\n".join(path.read_text() for path in (*SCRIPTS, DEPLOY / "ray-cluster.yaml"))
    hosts = re.findall(r"(?:--(?:dashboard-)?host[= ]|listen_addresses = ')([\w.*]+)", said)
    assert hosts == ["127.0.0.1"] * 3


def test_the_versions_are_those_that_the_tests_run_with() -> None:
    installed = {name: metadata.version(name).partition("+")[0] for name in PINNED}
    assert installed == PINNED


def test_every_package_that_is_declared_has_its_version() -> None:
    extras = PROJECT["optional-dependencies"]
    declared = PROJECT["dependencies"] + extras["server"] + extras["cluster"]
    names = {re.split(r"[\[>=]", requirement)[0] for requirement in declared}
    assert names == set(PINNED)


def test_the_machines_and_the_images_have_one_python() -> None:
    [image] = re.findall(r"^FROM python:([\d.]+)-", DOCKERFILE, re.MULTILINE)
    [machine] = re.findall(r"--python ([\d.]+) ", (DEPLOY / "node.sh").read_text())
    assert image == machine
    assert PROJECT["requires-python"] == ">=3.11"
    assert [int(part) for part in image.split(".")][:2] >= [3, 11]


def test_the_images_hold_what_is_installed_and_the_studies() -> None:
    copies = re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE)
    sources = {source for copy in copies for source in copy.split()}
    allowed = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    assert sources == {line[1:] for line in allowed if line.startswith("!")}
    assert all((ROOT / source).exists() for source in sources)
    assert set(re.findall(r"^FROM base AS (\w+)", DOCKERFILE, re.MULTILINE)) == {"cpu", "gpu"}
    installs = re.findall(r"pip install(?:\\\n|.)*", DOCKERFILE)
    assert len(installs) == 2
    assert all("--constraint deploy/constraints.txt" in install for install in installs)


def test_the_job_on_kubernetes_runs_the_image_that_the_dockerfile_makes() -> None:
    built = re.findall(r"docker build -f (\S+) --target (\w+) -t (\S+) \.", DOCKERFILE)
    tags = {target: tag for path, target, tag in built if path == "deploy/Dockerfile"}
    assert tags == {kind: f"sam-study:{PROJECT['version']}-{kind}" for kind in ("gpu", "cpu")}
    assert [each["image"] for each in containers()] == [tags["gpu"]] * 2
    assert {each["workingDir"] for each in containers()} == {"/sam-study"}
    assert "\nWORKDIR /sam-study\n" in DOCKERFILE
    assert rayjob()[1]["spec"]["rayClusterSpec"]["rayVersion"] == PINNED["ray"]


def test_the_job_on_kubernetes_is_the_study() -> None:
    volume, job = rayjob()
    python, module, program, *words = shlex.split(job["spec"]["entrypoint"])
    assert (python, module, program) == ("python", "-m", "study.run")
    options = run._parser().parse_args(words)
    [path] = options.spec
    spec = resolve.load(ROOT / path, options.set)
    assert job["metadata"]["name"] == spec.study.replace("_", "-")
    assert options.address == "auto"
    head, worker = containers()
    [mount] = head["volumeMounts"]
    assert str(options.out) == mount["mountPath"]
    [disk] = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"]
    assert disk["name"] == mount["name"]
    assert disk["persistentVolumeClaim"]["claimName"] == volume["metadata"]["name"]
    assert options.storage.startswith("s3://")
    assert spec.resources.cpu <= int(worker["resources"]["limits"]["cpu"])


def test_the_job_on_kubernetes_keeps_its_head_free_and_its_doors_shut() -> None:
    cluster = rayjob()[1]["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}
    [workers] = cluster["workerGroupSpecs"]
    assert (workers["replicas"], workers["minReplicas"]) == (0, 0)
    assert all("env" not in each for each in containers())
    assert "envFrom" in containers()[0]


def test_the_head_gives_mlflow_all_that_its_script_asks_for() -> None:
    script = (DEPLOY / "mlflow-server.sh").read_text()
    [required] = re.findall(r"^for name in ((?:.|\\\n)*?); do", script, re.MULTILINE)
    [given] = re.findall(r'mlflow\.env" <<ENV\n(.*?)\nENV', (DEPLOY / "head.sh").read_text(), re.S)
    names = {line.partition("=")[0] for line in given.splitlines()}
    assert set(required.replace("\\", "").split()) <= names


def test_the_databases_are_made_once_and_take_the_new_password(server: Postgres) -> None:
    psql = shutil.which("psql", path=f"{postgres.programs()}{os.pathsep}{os.environ['PATH']}")
    assert psql is not None
    script = str(DEPLOY / "databases.sh")
    for password in ("first1", "second2"):
        made = subprocess.run(
            [script],
            env={**os.environ, "PGPASSWORD": password},
            check=True,
            capture_output=True,
            text=True,
        )
        said = subprocess.run(
            [psql, "-q", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", str(server.port)],
            env={**os.environ, "PGPASSWORD": PASSWORD, "PGUSER": "postgres"},
            input=made.stdout,
            capture_output=True,
            text=True,
        )
        assert (said.returncode, said.stderr) == (0, "")
    for name in ("ledgers", "mlflow"):
        engine = create_engine(server.url(name, "second2", "study"), poolclass=NullPool)
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE mine (number int)"))


def test_a_password_that_could_end_the_sql_is_refused() -> None:
    done = subprocess.run(
        [str(DEPLOY / "databases.sh")],
        env={**os.environ, "PGPASSWORD": "'; DROP ROLE study; --"},
        capture_output=True,
        text=True,
    )
    said = "databases.sh: PGPASSWORD is not set, or holds more than letters and digits\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)
