"""Names, listing, and the command line."""

import subprocess
import sys

import pytest

from sardonyx import models
from sardonyx.errors import SaveError, UsageError
from sardonyx.models import __main__ as command


def test_names_start_with_the_shipped_ones():
    assert models.names()[:2] == ("digits_cnn", "digits_transformer")
    assert len(set(models.names())) == len(models.names())
    assert all(models.summary(name) for name in models.names())


def test_unknown_name_gives_the_nearest_and_all():
    with pytest.raises(UsageError, match="'digit_cnn'") as caught:
        models.load("digit_cnn")
    assert "Did you mean 'digits_cnn'?" in caught.value.remedy
    assert all(name in caught.value.remedy for name in models.names())


def test_name_like_no_other_gives_the_list_without_a_guess():
    with pytest.raises(UsageError) as caught:
        models.load("%%%")
    assert caught.value.remedy.startswith("The models are:")


def test_command_lists(capsys):
    assert command.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(models.names())


def test_command_prints_the_path_alone(capsys):
    assert command.main(["digits_cnn"]) == 0
    assert capsys.readouterr().out == f"{models.load('digits_cnn').path}\n"


def test_command_reports_errors_without_traceback(capsys):
    assert command.main(["nonsense"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("There is no model 'nonsense'.")


def test_import_is_light():
    code = (
        "import sys, sardonyx.models, sardonyx.models.digits;"
        "print([m for m in ('torch', 'onnxruntime', 'onnx', 'sklearn', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_errors_of_the_cache_reach_the_command_line(monkeypatch, capsys):
    def fail(name: str) -> models.Entry:
        raise SaveError(f"{name}: cannot write.", remedy="Make room.")

    monkeypatch.setattr(command.registry, "load", fail)
    assert command.main(["minilm_l6"]) == 2
    assert capsys.readouterr().err == "minilm_l6: cannot write. Make room.\n"
