"""`make cuda`: says so without a device; its checks pass on the CPU and fail where they should."""

import importlib.util

import pytest
import torch

from tests.house.repository import ROOT

SPEC = importlib.util.spec_from_file_location("cuda_check", ROOT / "examples" / "cuda_check.py")
cuda_check = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(cuda_check)
CPU = torch.device("cpu")


def test_without_a_device_it_says_so_and_ends_with_a_status_of_its_own(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cuda_check.main([]) == cuda_check.NO_DEVICE == 3
    assert "nothing was checked" in capsys.readouterr().out


@pytest.mark.parametrize("check", ["cheap_scores", "half_precision", "optimizers"])
def test_a_check_passes_on_the_cpu(check):
    assert getattr(cuda_check, check)(CPU)


@pytest.mark.full
def test_every_check_passes_on_the_cpu():
    assert cuda_check.main(["--device", "cpu"]) == 0


def test_wrong_norms_a_crash_and_a_slow_machine_are_told_apart(monkeypatch, capsys):
    plain = cuda_check.grad_norms
    monkeypatch.setattr(cuda_check, "grad_norms", lambda *a: plain(*a).flip(0))
    monkeypatch.setattr(cuda_check, "CHECKS", (cuda_check.norms, cuda_check.cheap_scores))
    assert cuda_check.main(["--device", "cpu"]) == 1
    out = capsys.readouterr().out
    assert "FAILED    norms: AssertionError: mlp: norms are off" in out
    assert "ok        cheap scores" in out
    assert cuda_check.main(["--device", "cpu", "--minutes", "0"]) == cuda_check.OUT_OF_TIME


def test_it_imports_only_what_is_public():
    text = (ROOT / "examples" / "cuda_check.py").read_text()
    lines = [line for line in text.splitlines() if line.startswith("from impsamp")]
    assert lines == ["from impsamp import (", "from impsamp.errors import UnsupportedModel"]
