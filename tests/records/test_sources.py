"""The source files of callables: read, and never imported."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path

import pytest
from tests.records.made import write

from fasthep_flow.records.sources import Sources, module_sources, script_sources


def names(folder: Path, sources: Sources) -> list[str]:
    return [os.path.relpath(file, folder) for file in sources.files]


def found(folder: Path, module: str) -> list[str]:
    return names(folder, module_sources(module, [str(folder)]))


def test_a_module_and_all_that_it_imports_from_there(tmp_path: Path) -> None:
    write(tmp_path / "fit.py", "import json\nfrom cuts import tight\n\ndef fit(): import late\n")
    write(tmp_path / "cuts.py", "import lists.tight as tight\n")
    write(tmp_path / "lists/__init__.py", "from . import names\n")
    write(tmp_path / "lists/tight.py", "from .names import x\nfrom ..fit import fit\n")
    write(tmp_path / "lists/names.py")
    write(tmp_path / "late.py", "import fit\n")
    write(tmp_path / "other.py", "import cuts\n")
    files = found(tmp_path, "fit")
    assert files[0] == "fit.py"
    assert sorted(files) == [
        "cuts.py",
        "fit.py",
        "late.py",
        "lists/__init__.py",
        "lists/names.py",
        "lists/tight.py",
    ]


def test_a_module_of_a_package_brings_the_packages_around_it(tmp_path: Path) -> None:
    write(tmp_path / "ana/__init__.py", "import version\n")
    write(tmp_path / "ana/fits/__init__.py")
    write(tmp_path / "ana/fits/mass.py", "from ..tools import plot\n")
    write(tmp_path / "ana/tools/plot.py")
    write(tmp_path / "version.py")
    files = found(tmp_path, "ana.fits.mass")
    assert files[0] == "ana/fits/mass.py"
    assert set(files[1:]) == {
        "ana/__init__.py",
        "ana/fits/__init__.py",
        "ana/tools/plot.py",
        "version.py",
    }


def test_a_name_from_a_package_may_be_a_module(tmp_path: Path) -> None:
    write(tmp_path / "fit.py", "from ana import tools, VALUE\nfrom ana import *\n")
    write(tmp_path / "ana/__init__.py")
    write(tmp_path / "ana/tools.py")
    assert sorted(found(tmp_path, "fit")) == ["ana/__init__.py", "ana/tools.py", "fit.py"]


def test_a_class_in_a_module_is_found_in_its_file(tmp_path: Path) -> None:
    write(tmp_path / "ana/__init__.py")
    write(tmp_path / "ana/fits.py")
    assert found(tmp_path, "ana.fits.Mass")[0] == "ana/fits.py"
    assert found(tmp_path, "ana.Mass") == ["ana/__init__.py"]


def test_a_module_by_a_name_that_is_written_out(tmp_path: Path) -> None:
    write(tmp_path / "fit.py", "import importlib\nimportlib.import_module('cuts')\n")
    write(tmp_path / "cuts.py", "__import__('lists')\n__import__(name)\n")
    write(tmp_path / "lists.py")
    assert sorted(found(tmp_path, "fit")) == ["cuts.py", "fit.py", "lists.py"]


def test_nothing_is_imported_and_no_text_is_trouble(tmp_path: Path) -> None:
    write(tmp_path / "fit.py", "import bad, worse, deep, nul\nraise SystemExit('imported')\n")
    write(tmp_path / "bad.py", "def (:\n")
    write(tmp_path / "worse.py").write_bytes(b"# coding: nonsense\n\xff")
    write(tmp_path / "deep.py", "x = " + "(" * 5000 + ")" * 5000)
    write(tmp_path / "nul.py", "x = '\\d'\0")
    before = set(sys.modules)
    assert sorted(found(tmp_path, "fit")) == ["bad.py", "deep.py", "fit.py", "nul.py", "worse.py"]
    assert not {"fit", "bad", "worse"} & (set(sys.modules) - before)


def test_a_loop_of_links_and_a_pipe_are_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "fit.py", "import loop, pipe\n")
    (tmp_path / "loop.py").symlink_to("loop.py")
    os.mkfifo(tmp_path / "pipe.py")
    assert found(tmp_path, "fit")[0] == "fit.py"


def test_installed_packages_count_by_their_version(tmp_path: Path) -> None:
    write(tmp_path / "fit.py", "import yaml, os.path, msgspec.json, nowhere\n")
    sources = module_sources("fit", [str(tmp_path)])
    assert sources.packages == {
        "PyYAML": metadata.version("PyYAML"),
        "msgspec": metadata.version("msgspec"),
    }
    assert module_sources("fit", [str(tmp_path)], installed=False).packages == {}


def test_a_function_of_an_installed_package(tmp_path: Path) -> None:
    sources = module_sources("msgspec.json", [str(tmp_path)])
    assert sources.files == ()
    assert sources.packages.keys() == {"msgspec"}


def test_a_package_that_is_installed_from_its_sources_counts_by_these(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, sources = tmp_path / "site", tmp_path / "my ana"
    write(sources / "src/myana/__init__.py", "from . import cuts\n")
    write(sources / "src/myana/cuts.py")
    info = site / "myana-1.0.dist-info"
    write(info / "METADATA", "Metadata-Version: 2.1\nName: myana\nVersion: 1.0\n")
    url = sources.as_uri()
    write(info / "direct_url.json", f'{{"url": "{url}", "dir_info": {{"editable": true}}}}')
    monkeypatch.syspath_prepend(site)
    write(tmp_path / "flow/fit.py", "import myana\n")
    found_there = module_sources("fit", [str(tmp_path / "flow")])
    assert [Path(file).name for file in found_there.files] == ["fit.py", "__init__.py", "cuts.py"]
    assert found_there.packages == {}


@pytest.mark.parametrize("is_found", [True, False])
def test_one_whose_sources_have_another_layout_is_asked_for_or_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_found: bool
) -> None:
    site, sources = tmp_path / "site", tmp_path / "project"
    write(sources / "python/myana/__init__.py", "from . import cuts\n")
    write(sources / "python/myana/cuts.py")
    info = site / "myana-1.0.dist-info"
    write(info / "METADATA", "Metadata-Version: 2.1\nName: myana\nVersion: 1.0\n")
    url = sources.as_uri()
    write(info / "direct_url.json", f'{{"url": "{url}", "dir_info": {{"editable": true}}}}')
    monkeypatch.syspath_prepend(site)
    if is_found:
        # As the line of a .pth file does it.
        monkeypatch.syspath_prepend(sources / "python")
    write(tmp_path / "flow/fit.py", "import myana\n")
    sources_of = module_sources("fit", [str(tmp_path / "flow")])
    names_of = [Path(file).name for file in sources_of.files]
    assert names_of == ["fit.py", *(["__init__.py", "cuts.py"] if is_found else [])]
    assert sources_of.unknown == (() if is_found else ("myana",))
    assert sources_of.packages == {}


def test_one_that_a_line_of_a_pth_file_leads_to_counts_by_its_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "elsewhere/myana.py")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    write(tmp_path / "flow/fit.py", "import myana\n")
    sources = module_sources("fit", [str(tmp_path / "flow")])
    assert names(tmp_path, sources) == ["flow/fit.py", "elsewhere/myana.py"]


def test_a_folder_of_the_authors_hides_an_installed_package(tmp_path: Path) -> None:
    write(tmp_path / "fit.py", "import msgspec\n")
    write(tmp_path / "msgspec.py")
    assert module_sources("fit", [str(tmp_path)]) == Sources(
        (f"{tmp_path}/fit.py", f"{tmp_path}/msgspec.py"), {}
    )


def test_further_folders_in_their_order(tmp_path: Path) -> None:
    write(tmp_path / "flow/fit.py", "import cuts, both\n")
    write(tmp_path / "lib/cuts.py")
    write(tmp_path / "lib/both.py")
    write(tmp_path / "flow/both.py")
    sources = module_sources("fit", [f"{tmp_path}/flow", f"{tmp_path}/lib"])
    assert names(tmp_path, sources) == ["flow/fit.py", "lib/cuts.py", "flow/both.py"]


def test_a_script_looks_in_its_own_folder_first(tmp_path: Path) -> None:
    write(tmp_path / "scripts/fit.py", "import cuts\n")
    write(tmp_path / "scripts/cuts.py")
    write(tmp_path / "cuts.py")
    sources = script_sources(f"{tmp_path}/scripts/fit.py", [str(tmp_path)])
    assert names(tmp_path, sources) == ["scripts/fit.py", "scripts/cuts.py"]


def test_there_is_an_end_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fasthep_flow.records.sources._MOST_FILES", 10)
    for number in range(20):
        write(tmp_path / f"m{number}.py", f"import m{number + 1}\n")
    sources = module_sources("m0", [str(tmp_path)])
    assert len(sources.files) == 10
    assert sources.unknown == ("m10",)


def test_a_text_that_only_another_python_reads_is_read_by_its_lines(tmp_path: Path) -> None:
    write(tmp_path / "ana/__init__.py")
    write(
        tmp_path / "ana/fit.py",
        "import cuts as c, lists\nfrom . import more, \\\n  x\nfrom ..y import z\nprint 'old'\n"
        "def f():\n  from ana.late import a as b\n",
    )
    for name in ("cuts", "lists", "ana/more", "ana/late"):
        write(tmp_path / f"{name}.py")
    assert sorted(found(tmp_path, "ana.fit")) == [
        "ana/__init__.py",
        "ana/fit.py",
        "ana/late.py",
        "ana/more.py",
        "cuts.py",
        "lists.py",
    ]


def test_what_is_not_there_is_nothing(tmp_path: Path) -> None:
    assert found(tmp_path, "nowhere") == []
    assert found(tmp_path, "no.where.at.all") == []
    assert found(tmp_path / "no folder", "nowhere") == []
