"""What an unpacked image sets, read and not run."""

import subprocess
from pathlib import Path

import pytest

from fasthep_flow.environments.images.variables import variables_of_config, variables_of_folder
from fasthep_flow.errors import ImageUnavailable


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_configuration_lists_them() -> None:
    entries = ["PATH=/usr/bin", "EQUALS=a=b", "EMPTY=", "=nameless", "alone", "BAD=\0"]
    assert variables_of_config(entries) == {"PATH": "/usr/bin", "EQUALS": "a=b", "EMPTY": ""}
    assert variables_of_config(None) == {}
    assert variables_of_config({"PATH": "x"}) == {}


def test_a_folder_that_says_nothing_sets_nothing(tmp_path: Path) -> None:
    assert variables_of_folder("image", str(tmp_path)) == {}


def test_charliecloud_s_form(tmp_path: Path) -> None:
    write(tmp_path, "ch/environment", "A=1\nB='a b'\nC=\"x\"\nD=it's\n\nno assignment\nE=$A:'\n")
    assert variables_of_folder("image", str(tmp_path)) == {
        "A": "1",
        "B": "a b",
        "C": '"x"',
        "D": "it's",
        "E": "$A:'",
    }


SCRIPT = r"""#!/bin/sh
# a comment
export PATH="${PATH:-"/opt/bin:/usr/bin"}"
export LANG="C.UTF-8"
export QUOTED="a \"b\" \$c \\ d"
export FLAGS='-O2 -g' EMPTY=
CXX=g++
"""


def test_apptainer_s_form(tmp_path: Path) -> None:
    write(tmp_path, ".singularity.d/env/10-docker2singularity.sh", SCRIPT)
    write(tmp_path, ".singularity.d/env/90-environment.sh", "#!/bin/sh\nexport LANG=C\n")
    write(tmp_path, ".singularity.d/env/95-apps.sh", "for each in *; do . $each; done\n")
    found = variables_of_folder("image", str(tmp_path))
    assert found == {
        "PATH": "/opt/bin:/usr/bin",
        "LANG": "C",
        "QUOTED": 'a "b" $c \\ d',
        "FLAGS": "-O2 -g",
        "EMPTY": "",
        "CXX": "g++",
    }
    # As a shell reads it that has no PATH of its own.
    shell = f"unset PATH\n{SCRIPT}\nprintf '%s' \"$QUOTED|$PATH\""
    done = subprocess.run(["/bin/sh", "-c", shell], capture_output=True, text=True, check=True)
    assert done.stdout == f"{found['QUOTED']}|{found['PATH']}"


@pytest.mark.parametrize(
    "line",
    [
        "export A=$(hostname)",
        "export A=`hostname`",
        'export PATH="/opt:$PATH"',
        ". /etc/profile",
        "source /opt/root/bin/thisroot.sh",
        "export A=1; touch /tmp/x",
        "if true; then A=1; fi",
        'export A="unfinished',
        "touch /tmp/x",
    ],
)
def test_a_script_that_does_more_is_refused(tmp_path: Path, line: str) -> None:
    write(tmp_path, ".singularity.d/env/90-environment.sh", f"#!/bin/sh\n{line}\n")
    with pytest.raises(ImageUnavailable, match="would have to be run") as refused:
        variables_of_folder("the image", str(tmp_path))
    assert line in refused.value.message
    assert refused.value.hint is not None
    assert "apptainer" in refused.value.hint


def test_no_file_of_the_host_s_is_read(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "ch").mkdir(parents=True)
    (tmp_path / "host").write_text("SECRET=1\n")
    (root / "ch/environment").symlink_to(tmp_path / "host")
    assert variables_of_folder("image", str(root)) == {}
    (root / "ch/environment").unlink()
    (root / "ch/environment").symlink_to("../../host")
    assert variables_of_folder("image", str(root)) == {}
    write(root, "etc/real", "A=1\n")
    (root / "ch/environment").unlink()
    (root / "ch/environment").symlink_to("/etc/real")
    assert variables_of_folder("image", str(root)) == {"A": "1"}
