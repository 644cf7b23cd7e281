"""What records keep of a message, whoever keeps it."""

import pytest

from sana_lab.messages import counted, leading_words, without_folders


def test_leading_words():
    assert leading_words("a  b\nc") == "a b"
    assert leading_words("Expected one (when checking argument in method x)") == "Expected one"
    assert leading_words("Tried to allocate 2.00 MiB. GPU 0 has a total capacity of 3") == "Tried to allocate 2.00 MiB."
    assert len(leading_words("x" * 999)) == 160 and len(leading_words("x" * 999, 100)) == 100


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ('File "/opt/x/lib/python3.12/site-packages/torch/a.py", line 3', 'File "torch/a.py", line 3'),
        ("File '/usr/lib/python3/dist-packages/torch/a.py'", "File 'torch/a.py'"),
        ("no (/env/lib/python3.11/site-packages/torch/b.py)", "no (torch/b.py)"),
        (r"C:\venv\Lib\site-packages\bitsandbytes\a.dll", r"bitsandbytes\a.dll"),
        ("two: /a/site-packages/x.py /b/site-packages/y.py", "two: x.py y.py"),
        ("/home/me/own.py stays", "/home/me/own.py stays"),
    ],
)
def test_libraries_files_are_named_from_the_library_on(said, kept):
    assert without_folders(said) == kept


def test_a_library_that_lies_elsewhere_is_named_as_well():
    said = 'File "/home/me/8bit/src/sana_lab/sana.py", line 3; /home/me/own/a.py; /x/torchlike/b.py'
    assert (
        without_folders(said, ["sana_lab", "torch"])
        == 'File "sana_lab/sana.py", line 3; /home/me/own/a.py; /x/torchlike/b.py'
    )


def test_counted():
    assert [counted(n, "pair") for n in (0, 1, 2)] == ["0 pairs", "1 pair", "2 pairs"]
    assert counted(1, "process") == "1 process" and counted(3, "process") == "3 processes"
