"""What requirement lines lead to on this machine, and how they are told."""

from pathlib import Path

import pytest

from fasthep_flow.environments.software.requirements import (
    joined,
    local_digests,
    names,
    options,
    seen_paths,
)


def test_lines_go_on_behind_a_backslash_and_lose_comments() -> None:
    text = (
        "numpy==2 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n# no\n\nuproot  # why\nx#y\n"
    )
    assert joined(text) == ("numpy==2 --hash=sha256:aa --hash=sha256:bb", "uproot", "x#y")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ((), "no packages"),
        (("numpy>=2", "uproot[http] ; python_version > '3'"), "numpy, uproot"),
        (("--index-url https://me:pw@host/simple", "numpy"), "numpy"),
        (("git+https://me:pw@host/x.git",), "git+https://***@host/x.git"),
        (("-r more.txt", "-c limits.txt", "-e ./own"), "more.txt, ./own"),
        (("./own", "a", "b", "c", "d", "e"), "./own, a, b, c and 2 more"),
    ],
)
def test_packages_are_told_in_a_few_words(lines: tuple[str, ...], words: str) -> None:
    assert names(lines) == words


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "own" / "src").mkdir(parents=True)
    (tmp_path / "own" / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "own" / "src" / "own.py").write_text("x = 1\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "all.txt").write_text("--find-links ../wheels\n-r nested.txt\nnumpy\n")
    (tmp_path / "more" / "nested.txt").write_text("./here.whl\n")
    (tmp_path / "more" / "here.whl").write_text("wheel")
    (tmp_path / "loop.txt").write_text("-r loop.txt\n")
    return tmp_path


def relative(paths: object, root: Path) -> set[str]:
    return {str(Path(path).relative_to(root)) for path in paths}  # type: ignore[attr-defined]


def test_files_are_found_through_files(project: Path) -> None:
    found = local_digests(
        ["-r more/all.txt", "-e ./own", "numpy", "x @ https://host/x.whl"], str(project)
    )
    assert relative(found, project) == {
        "more/all.txt",
        "more/nested.txt",
        "more/here.whl",
        "own",
    }
    assert all(found.values())


@pytest.mark.parametrize(
    "line",
    ["-e ./own", "./own", "own[extra] @ file://{root}/own", "{root}/own ; python_version > '3'"],
)
def test_a_change_in_a_project_is_a_change(project: Path, line: str) -> None:
    lines = [line.format(root=project)]
    before = local_digests(lines, str(project))
    assert relative(before, project) == {"own"}
    assert local_digests(lines, str(project)) == before
    (project / "own" / "src" / "own.py").write_text("x = 22\n")
    assert local_digests(lines, str(project)) != before


def test_what_is_made_in_a_project_is_no_change(project: Path) -> None:
    before = local_digests(["./own"], str(project))
    for name in ("__pycache__", "build", "own.egg-info", ".git"):
        (project / "own" / name).mkdir()
        (project / "own" / name / "x").write_text("x")
    assert local_digests(["./own"], str(project)) == before


def test_where_packages_come_from_is_found_through_files(project: Path) -> None:
    assert options(["--no-index", "-r more/all.txt", "numpy"], str(project)) == (
        "--no-index",
        "--find-links ../wheels",
    )


def test_what_must_be_seen_is_known(project: Path) -> None:
    found = seen_paths(["-f ./wheels", "--index-url https://host/x", "./own"], str(project))
    assert relative(found, project) == {"wheels", "own"}


def test_a_file_that_includes_itself_ends(project: Path) -> None:
    assert relative(local_digests(["-r loop.txt"], str(project)), project) == {"loop.txt"}


def test_what_is_not_there_is_no_error(project: Path) -> None:
    assert local_digests(["-r nowhere.txt", "./nowhere", "bad line"], str(project)) == {
        str(project / "nowhere.txt"): None
    }
