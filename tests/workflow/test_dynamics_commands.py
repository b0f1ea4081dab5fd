"""`siamscope dynamics`: every command that is listed has its module; none but predict needs torch."""

import dataclasses
import importlib
import subprocess
import sys

import pytest

from siamscope import cli, cli_groups


@pytest.mark.parametrize("name", cli_groups.GROUPS["dynamics"])
def test_every_command_has_its_module(name, capsys):
    module = importlib.import_module(f"siamscope.workflow.dynamics.{name}")
    assert dataclasses.is_dataclass(module.Options) and callable(module.run)
    with pytest.raises(SystemExit) as stop:
        cli.run(["dynamics", name, "--help"])
    assert stop.value.code == 0
    assert cli_groups.GROUPS["dynamics"][name].split()[0] in capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name in cli_groups.GROUPS["dynamics"] if name != "predict"])
def test_torch_is_not_imported(name):
    code = f"import sys, siamscope.workflow.dynamics.{name}\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
