"""In CI a test that is left out has failed: `-p tests.required`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

LEFT_OUT = {
    "by itself": "import pytest\ndef test_x(): pytest.skip('no server')\n",
    "by a mark": "import pytest\n@pytest.mark.skip(reason='no server')\ndef test_x(): pass\n",
    "by a fixture": "import pytest\n@pytest.fixture\ndef f(): pytest.skip('no server')\ndef test_x(f): pass\n",
    "as expected to fail": "import pytest\n@pytest.mark.xfail(reason='no server')\ndef test_x(): assert False\n",
    "with its module": "import pytest\npytest.skip('no server', allow_module_level=True)\ndef test_x(): pass\n",
}


def pytest_on(source: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_left_out.py").write_text(source)
    (folder / "pytest.ini").write_text("[pytest]\n")
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n0", *options, str(folder)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("how", LEFT_OUT)
def test_a_test_left_out_is_a_failed_one_that_says_why(how: str, tmp_path: Path) -> None:
    assert pytest_on(LEFT_OUT[how], tmp_path).returncode in {0, 5}
    required = pytest_on(LEFT_OUT[how], tmp_path, "-p", "tests.required")
    assert required.returncode not in {0, 5}
    assert "no server" in required.stdout


def test_tests_that_pass_are_left_alone(tmp_path: Path) -> None:
    assert pytest_on("def test_x(): pass\n", tmp_path, "-p", "tests.required").returncode == 0
