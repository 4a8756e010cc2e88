"""The notebook runs from a clean kernel, without a network, and finds what it says.

    python -m tests.notebooks_test

executes it and writes its outputs into it, as they are committed.
"""

import json
import os
import pathlib
import re
import sys
import tempfile

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")

Config = pytest.importorskip("traitlets.config", reason="traitlets is not installed").Config

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "inference.ipynb"
MOST_BYTES = 500_000
# The kernel itself is reached by a file in its folder.
_NO_NETWORK = """
import sys


def refuse(event, arguments):
    local = event == "socket.connect" and not isinstance(arguments[1], tuple)
    if event in ("socket.connect", "socket.getaddrinfo") and not local:
        raise OSError("the notebook asks for a network")


sys.addaudithook(refuse)
"""


def execute(notebook, folder: pathlib.Path):
    """Runs all cells in a kernel of this Python, in a folder of its own.

    Args:
      notebook: as nbformat reads it; gets the outputs.
      folder: an empty one, for the kernel's files.
    """
    kernel = folder / "kernels" / "this_python"
    kernel.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    described = {"argv": command, "display_name": "Python 3", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(described))
    (folder / "sitecustomize.py").write_text(_NO_NETWORK)
    (folder / "work").mkdir()
    surroundings = {
        "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
        **{name: str(folder) for name in ("JUPYTER_PATH", "IPYTHONDIR", "XDG_CACHE_HOME")},
        **{name: str(folder / "jupyter") for name in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")},
        "TFDS_DATA_DIR": str(folder / "nothing"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in surroundings.items():
            patch.setenv(name, value)
        client = nbclient.NotebookClient(
            notebook,
            timeout=120,
            kernel_name="this_python",
            config=Config({"KernelManager": {"transport": "ipc", "ip": str(folder / "kernel")}}),
            resources={"metadata": {"path": str(folder / "work")}},
        )
        client.execute()
    return notebook


def said(notebook) -> str:
    """All that the cells printed."""
    return "".join(
        output.get("text", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )


def stripped(notebook):
    """Without what an execution leaves in it of times, places and the kernel's name."""
    for cell in notebook.cells:
        cell.metadata = nbformat.NotebookNode()
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": kernel, "language_info": {"name": "python"}}
    )
    return notebook


@pytest.fixture(scope="module")
def committed():
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        cell.update({"outputs": [], "execution_count": None} if cell.cell_type == "code" else {})
    return execute(notebook, tmp_path_factory.mktemp("notebook"))


def test_every_cell_runs_and_none_warns(executed):
    codes = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert len(codes) >= 8
    assert [cell.execution_count for cell in codes] == list(range(1, len(codes) + 1))
    for cell in codes:
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.get("text")


def test_it_counts_and_draws_what_it_says(executed):
    text = said(executed)
    right, number = map(int, re.search(r"counted right: (\d+) of (\d+)", text).groups())
    assert number == 12 and right >= 10
    assert int(re.search(r"n = 3: (\d+) scenes", text)[1]) > 30  # of 60 scenes of three
    shares = [float(share) for share in re.findall(r"p\(n = \d\) = ([\d.]+)", text)]
    assert sum(shares) == pytest.approx(1, abs=1e-3) and shares[0] > 0.9
    assert len(re.findall(r"drawn with \d objects: the model finds", text)) == 3
    pictures = [
        output
        for cell in executed.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 6


def test_it_asks_for_no_network(executed):
    """And the guard would have seen it."""
    probe = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(
                "import urllib.request\n"
                "try:\n"
                "    urllib.request.urlopen('http://192.0.2.1/', timeout=1)\n"
                "except OSError as error:\n"
                "    print(error)"
            )
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        execute(probe, pathlib.Path(folder))
    assert "the notebook asks for a network" in said(probe)


def test_the_committed_one_has_its_outputs_and_names_no_machine(committed):
    nbformat.validate(committed)
    text = NOTEBOOK.read_text("utf-8")
    assert len(text) < MOST_BYTES
    assert "counted right" in said(committed)
    assert committed == stripped(committed)
    own = (ROOT, pathlib.Path.home(), sys.prefix, tempfile.gettempdir())
    for place in (*map(str, own), "site-packages"):
        assert place not in text


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        done = execute(nbformat.read(NOTEBOOK, as_version=4), pathlib.Path(name))
    nbformat.write(stripped(done), NOTEBOOK)
