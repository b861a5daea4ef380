"""Real engines where they answer, and tests that touch nothing they did not declare."""

import contextlib
import functools
import http.client
import os
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import pynvml  # type: ignore[import-untyped]
import pytest

ENGINES = ("podman", "docker")
RUNTIMES = (*ENGINES, "apptainer", "charliecloud")
BATCH_SYSTEMS = ("slurm", "htcondor")
# The marker that a test carries which starts one of these.
PROGRAMS = {
    "podman": "podman",
    "docker": "docker",
    "apptainer": "apptainer",
    "ch-run": "charliecloud",
    "ch-convert": "charliecloud",
    "ch-image": "charliecloud",
}
REGISTRY = "127.0.0.1:5000"
PRIVATE_REGISTRY = "127.0.0.1:5001"
IMAGE_FIXTURES = frozenset(
    {
        "busybox_image",
        "foreign_image",
        "multi_image",
        "noshell_image",
        "oras_image",
        "physics_images",
        "private_image",
        "python_image",
        "pythononly_image",
        "unpulled_image",
    }
)
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
TESTS = Path(__file__).parent
TESTBED = TESTS / "testbed"
# Where tests that run beside one another start.
LONGEST = ("farms", "faults", "orchestrators", "fuzz", "execution", "workflows", "examples")
STATE = Path(os.environ.get("FASTHEP_TESTBED_STATE") or "/var/lib/fasthep-flow-testbed")
# A developer without an engine sees skips; where all of them should stand, a skip would hide
# that nothing was tested.
_DEFAULT = "required" if os.environ.get("CI") == "true" else "optional"
REQUIRED = (os.environ.get("FASTHEP_TEST_ENGINES") or _DEFAULT) == "required"

# No test depends on the settings of whoever runs it, nor do the processes that it starts.
os.environ["FASTHEP_FLOW_CONFIG"] = ""
os.environ["XDG_CONFIG_DIRS"] = str(Path(__file__).parent / "testbed" / "no-settings")


class _Watch:
    """What the running test may start, and what it started all the same."""

    def __init__(self) -> None:
        self.forbidden: frozenset[str] = frozenset()
        self.started: list[str] = []

    def __call__(self, event: str, args: tuple[object, ...]) -> None:
        if not self.forbidden or event not in {"subprocess.Popen", "os.posix_spawn", "os.exec"}:
            return
        executable = os.fsdecode(args[0])  # type: ignore[arg-type]
        if (name := os.path.basename(executable)) not in self.forbidden:  # noqa: PTH119
            return
        environment = args[-1] if isinstance(args[-1], Mapping) else os.environ
        # A test may well put a script of its own by that name on its PATH.
        if shutil.which(executable, path=environment.get("PATH")) in _on_path(name):
            self.started.append(name)
            message = f"a test without the marker '{PROGRAMS[name]}' starts {name}"
            raise AssertionError(message)


_watch = _Watch()


@functools.cache
def _on_path(name: str) -> frozenset[str]:
    folders = os.environ.get("PATH", "").split(os.pathsep)
    return frozenset(found for folder in folders if (found := shutil.which(name, path=folder)))


@functools.cache
def _why_not(marker: str) -> str:
    """Why what the marker names cannot be used here; empty where it can."""
    if marker == "gpu":
        return _why_no_gpu()
    if marker == "registry":
        return _why_no_registry()
    if marker in BATCH_SYSTEMS:
        return _why_no_batch_system(marker)
    return _why_no_engine(marker)


def _why_no_gpu() -> str:
    try:
        pynvml.nvmlInit()
        return "" if pynvml.nvmlDeviceGetCount() else "NVML finds no GPU"
    except pynvml.NVMLError as error:
        return f"NVML finds no GPU: {error}"


def _why_no_registry() -> str:
    host, port = REGISTRY.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        return f"the registry on {REGISTRY} does not answer: {error}"
    return ""


def _why_no_engine(name: str) -> str:
    program = "ch-run" if name == "charliecloud" else name
    if shutil.which(program) is None:
        return f"{program} is not installed"
    argv = {
        "podman": ["podman", "info", "--format", "{{.Version.Version}}"],
        "docker": ["docker", "version", "--format", "{{.Server.Version}}"],
        # These two say their version also where the kernel denies them what they live on.
        "apptainer": ["sh", "-c", "unshare --user --mount true && apptainer --version"],
        "charliecloud": [
            "sh",
            "-c",
            "unshare --user --mount true && USER=${USER:-root} ch-run --version 2>&1",
        ],
    }[name]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return f"{name} does not answer within a minute"
    if done.returncode or not done.stdout.strip():
        return f"{name} does not answer: {done.stderr.strip() or done.stdout.strip()}"
    return ""


def _why_no_batch_system(name: str) -> str:
    # The testbed's own alone: a farm that others use is no place for tests.
    program, argv, expected = {
        "slurm": ("sinfo", ["scontrol", "show", "config"], "= testbed\n"),
        "htcondor": ("condor_q", ["condor_status", "-startd", "-af", "UidDomain"], "testbed"),
    }[name]
    if shutil.which(program) is None:
        return f"{program} is not installed"
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return f"{name} does not answer within a minute"
    if done.returncode or not done.stdout.strip():
        return f"{name} does not answer: {done.stderr.strip() or done.stdout.strip()}"
    return "" if expected in done.stdout else f"this {name} is not the testbed's"


def pytest_configure() -> None:
    sys.addaudithook(_watch)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and IMAGE_FIXTURES & set(item.fixturenames):
            item.add_marker("registry")
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    """What takes long begins first, so that processes do not wait for the last one."""
    folder = item.path.relative_to(TESTS).parts[0]
    return LONGEST.index(folder) if folder in LONGEST else len(LONGEST)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in (*RUNTIMES, *BATCH_SYSTEMS, "registry", "gpu"):
        if item.get_closest_marker(marker) is None or not (reason := _why_not(marker)):
            continue
        if REQUIRED and marker != "gpu":
            pytest.fail(f"{reason}; tests/testbed/up.sh brings it up", pytrace=False)
        pytest.skip(reason)


@pytest.fixture(scope="session", autouse=True)
def _loopback_without_proxy() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NO_PROXY", "no_proxy"):
            rest = os.environ.get(name)
            patch.setenv(name, "localhost,127.0.0.1" + (f",{rest}" if rest else ""))
        yield


@pytest.fixture(scope="session", autouse=True)
def _wide_tables() -> Iterator[None]:
    """Paths are as long as pytest makes them: no table breaks them where a test looks for one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "250")
        yield


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is fetched and found out stays out of the user's own cache; but for who says where."""
    with pytest.MonkeyPatch.context() as patch:
        if not os.environ.get("FASTHEP_FLOW_CACHE"):
            patch.setenv("FASTHEP_FLOW_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("FASTHEP_FLOW_KEY", str(tmp_path_factory.mktemp("key") / "key"))
        yield


@pytest.fixture(scope="session", autouse=True)
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Prefect reads where its home is when it is imported, so nothing must do that before."""
    home = tmp_path_factory.mktemp("prefect-home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PREFECT_")]:
            patch.delenv(name)
        patch.setenv("PREFECT_HOME", str(home))
        patch.setenv("DO_NOT_TRACK", "1")
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        yield home


@pytest.fixture(autouse=True)
def _declared_engines_only(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that starts an engine whose marker it does not carry."""
    _watch.started.clear()
    _watch.forbidden = frozenset(
        program
        for program, marker in PROGRAMS.items()
        if request.node.get_closest_marker(marker) is None
    )
    yield
    _watch.forbidden = frozenset()
    # Once more here: the code under test may have caught the first one.
    assert not _watch.started, f"started without a marker: {', '.join(_watch.started)}"


@pytest.fixture(autouse=True)
def _process_stays_as_it_was() -> Iterator[None]:
    """Fail a test that leaves another environment or working directory to the next one."""
    environment, folder = _environment(), _folder()
    yield
    left_environment, left_folder = _environment(), _folder()
    for name in left_environment.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
    os.chdir(folder)
    changed = sorted(
        name
        for name in environment.keys() | left_environment.keys()
        if environment.get(name) != left_environment.get(name)
    )
    assert not changed, f"left changed in os.environ: {', '.join(changed)}"
    assert left_folder == folder, f"left in the working directory {left_folder or '(removed)'}"


def _environment() -> dict[str, str]:
    # pytest itself writes where it is into this one.
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


def _folder() -> str:
    try:
        return os.getcwd()  # noqa: PTH109
    except FileNotFoundError:
        return ""


@pytest.fixture(params=[pytest.param(name, marks=getattr(pytest.mark, name)) for name in ENGINES])
def engine(request: pytest.FixtureRequest) -> str:
    """Podman and docker in turn: the name of the engine, which answers."""
    return str(request.param)


@pytest.fixture(params=[pytest.param(name, marks=getattr(pytest.mark, name)) for name in RUNTIMES])
def container_runtime(request: pytest.FixtureRequest) -> str:
    """Podman, docker, apptainer and charliecloud in turn: the name of one that works."""
    return str(request.param)


@pytest.fixture
def busybox_image() -> str:
    """`sh` and its applets: neither bash nor python3."""
    return f"{REGISTRY}/testbed/busybox:1"


@pytest.fixture
def python_image() -> str:
    """Debian 12 with bash and python3, nothing more."""
    return f"{REGISTRY}/testbed/python:3.11"


@pytest.fixture
def unpulled_image(engine: str) -> Iterator[str]:
    """The busybox image under a name of its own, in the registry and not on this machine.

    Removing `busybox_image` instead would take it from under other tests' containers.
    """
    manifests = "/v2/testbed/busybox/manifests"
    tag = f"unpulled-{uuid.uuid4().hex[:12]}"
    with contextlib.closing(http.client.HTTPConnection(REGISTRY, timeout=30)) as registry:
        registry.request("GET", f"{manifests}/1", headers={"Accept": MANIFEST_TYPE})
        answer = registry.getresponse()
        manifest = answer.read()
        assert answer.status == http.HTTPStatus.OK, manifest
        registry.request("PUT", f"{manifests}/{tag}", manifest, {"Content-Type": MANIFEST_TYPE})
        assert registry.getresponse().status == http.HTTPStatus.CREATED
    image = f"{REGISTRY}/testbed/busybox:{tag}"
    yield image
    subprocess.run([engine, "rmi", image], capture_output=True, check=False)


@pytest.fixture
def private_image() -> str:
    """The busybox image, from a registry that wants user `test` with password `test`."""
    return f"{PRIVATE_REGISTRY}/testbed/busybox:1"


@pytest.fixture(scope="session")
def physics_images() -> dict[str, str]:
    """The images `physics-select`, `-stats` and `-plot` by name: built at the first use."""
    done = subprocess.run(
        [TESTBED / "images.sh", "physics"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = f"the physics images cannot be built: {done.stderr.strip()}"
        if REQUIRED:
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return {
        name: f"{REGISTRY}/testbed/{name}:1"
        for name in ("physics-select", "physics-stats", "physics-plot")
    }


@pytest.fixture(scope="session")
def noshell_image() -> str:
    """`/bin/echo` and `/bin/true`, and nothing that runs a script; neither passwd nor group."""
    return f"{REGISTRY}/testbed/noshell:1"


@pytest.fixture(scope="session")
def pythononly_image() -> str:
    """The python image without `sh`, `dash` and `bash`."""
    return f"{REGISTRY}/testbed/pythononly:1"


@pytest.fixture(scope="session")
def foreign_image() -> str:
    """Busybox that calls itself arm64 and is not: it runs here, if nothing looks."""
    return f"{REGISTRY}/testbed/foreign:1"


@pytest.fixture(scope="session")
def multi_image() -> str:
    """A list of two: busybox for amd64, and `foreign_image` for arm64."""
    return f"{REGISTRY}/testbed/multi:1"


@pytest.fixture(scope="session")
def oras_image() -> str:
    """`sif_file` in the registry, with its scheme."""
    return f"oras://{REGISTRY}/testbed/sif:1"


@pytest.fixture(scope="session")
def sif_file() -> Path:
    """The busybox image for apptainer. It is shared, as are the files below: only read it."""
    return _kept("busybox.sif")


@pytest.fixture(scope="session")
def python_sif() -> Path:
    """The python image for apptainer."""
    return _kept("python.sif")


@pytest.fixture(scope="session")
def docker_archive() -> Path:
    """The busybox image as `docker save` writes it."""
    return _kept("busybox-docker.tar")


@pytest.fixture(scope="session")
def oci_archive() -> Path:
    """The busybox image as a tar file with an OCI layout in it."""
    return _kept("busybox-oci.tar")


@pytest.fixture(scope="session")
def oci_folder() -> Path:
    """The busybox image as a folder with an OCI layout in it."""
    return _kept("busybox-oci")


@pytest.fixture(scope="session")
def busybox_root() -> Path:
    """The busybox image unpacked."""
    return _kept("busybox-root")


@pytest.fixture(scope="session")
def python_root() -> Path:
    """The python image unpacked."""
    return _kept("python-root")


@pytest.fixture(scope="session")
def cvmfs_image() -> Path:
    """The python image as unpacked.cern.ch would have it, below a folder `cvmfs`."""
    return _kept("cvmfs/unpacked.cern.ch/registry.hub.docker.com/testbed/python:3.11")


def _kept(name: str) -> Path:
    path = STATE / "files" / name
    if path.exists():
        return path
    reason = f"there is no {path}; tests/testbed/up.sh makes it"
    if REQUIRED:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
