"""What fails on names and options alone fails before torch and scikit-learn are imported, which takes seconds."""

import subprocess
import sys

import pytest

CASES = [
    ("svm none.h5", 1, "none.h5: no such file"),
    ("svm text.h5", 1, "text.h5 is not a descriptor file (not HDF5)"),
    ("svm", 2, "no descriptors: name descriptor files, or the data set by --dataset"),
    ("predict none.h5 a.jpg", 1, "none.h5: no such file: 'vggfeat svm -o none.h5' makes a model"),
    ("similar none.h5", 1, "none.h5: no such file"),
    ("export none.h5 -o a.npy", 1, "none.h5: no such file"),
    ("info none.h5", 1, "none.h5: no such file"),
    ("merge none.h5 -o x.h5", 1, "none.h5: no such file"),
    ("extract nofolder", 2, "nofolder: no such file or folder"),
    ("extract a.jpg --layer conv9_1", 2, "'conv9_1' is not one of"),
    ("extract a.jpg --net A --layer conv3_4", 2, "net A (VGG-11) has no layer 'conv3_4'"),
    ("extract --dataset caltech101 --data nodir", 1, "no caltech101 at nodir/caltech101/101_ObjectCategories"),
    ("extract a.jpg -o text.h5", 1, "text.h5"),
    ("extract a.jpg --weights none.pt", 2, "no weights 'none.pt': no such file"),
    ("extract a.jpg --weights .", 1, ". is a folder: name a file in it, such as text.h5"),
    ("extract a.jpg --weights photos", 1, "vggfeat: photos is a folder without weights files\n"),
    ("extract a.jpg -o photos", 1, "vggfeat: photos: cannot write: it is a folder, name a file in it\n"),
    ("extract a.jpg -o text.h5/a.h5", 1, "vggfeat: text.h5/a.h5: cannot write here: "),
    (
        "svm photos",
        1,
        "photos is a folder without descriptor files: 'vggfeat extract photos' describes the pictures in it",
    ),
    ("predict photos a.jpg", 1, "vggfeat: photos is a folder without models or nets\n"),
    ("extract a.jpg -o -", 1, "vggfeat: -: cannot write to the standard output: name a file or a folder\n"),
    (
        "extract table.csv",
        1,
        "vggfeat: table.csv: this is a table, not a list of paths (--dataset folder takes a table as its --data)\n",
    ),
    (
        "extract --list table.csv",
        1,
        "vggfeat: table.csv: this is a table, not a list of paths (--dataset folder takes a table as its --data)",
    ),
    ("train -o -", 2, "vggfeat: -o -: a run writes several files: name a folder, or FILE.pt\n"),
    ("evaluate net.pt", 2, "vggfeat: net.pt is a net: give it as --weights net.pt\n"),
    ("predict . a.jpg", 1, "vggfeat: . is a folder: name a file in it, such as text.h5\n"),
    ("extract a.jpg --net C", 2, "no weights of net C are published"),
    ("extract a.jpg --width 0.5", 2, "published weights have width 1, not 0.5"),
    ("extract ftp:///a.jpg", 2, "vggfeat: ftp:///a.jpg: ftp:// needs a host: ftp://host/path\n"),
    ("extract gopher://host/a.tar", 2, "gopher://host/a.tar: gopher:// is not a protocol that fsspec knows"),
    ("extract --list urls.txt", 1, "vggfeat: urls.txt, line 2: ftp:///b.jpg: ftp:// needs a host: ftp://host/path\n"),
    ("extract a.jpg --calibration none.txt", 1, "none.txt: this list cannot be read: No such file or directory"),
    ("extract a.jpg --calibration nul.txt", 1, "vggfeat: nul.txt, line 1: a NUL byte; this list has one path a line\n"),
    ("extract a.jpg --offline", 1, "are not in the cache, and fetching is forbidden"),
    ("extract a.jpg --weights none --preprocessing none.toml", 2, "no preprocessing 'none.toml'"),
    ("extract a.jpg --net D --net E --weights none --weights none --weights none", 2, "2 nets and 3 weights"),
    ("predict none.pt a.jpg", 1, "none.pt: no such file"),
    ("evaluate --data nodir", 1, "no ilsvrc2012 at nodir/ilsvrc2012"),
    (
        "train --dataset folder --data photos --init-from none.pt",
        2,
        "no weights 'none.pt': no such file, and not one of",
    ),
    ("train --init-from photos", 1, "vggfeat: photos is a folder without weights files\n"),
    (
        "train --init-from published --width 0.0625",
        2,
        "--init-from published: published weights have width 1, not 0.0625; leave out --init-from\n",
    ),
    ("train --net C --init-from published", 2, "or give a file, or leave out --init-from for random ones\n"),
    ("train --init-from published --preprocessing none.toml", 2, "no preprocessing 'none.toml': no such file"),
    ("train --init-from none", 2, "--init-from none: random weights are no trained net; leave it out\n"),
    (
        "train -o net.pth",
        2,
        "vggfeat: -o net.pth: a run's net is written as .pt: name net.pt, or a folder\n",
    ),
    ("train -o run/net.h5", 2, "a run's net is written as .pt: name run/net.pt, or a folder\n"),
    ("train --dataset folder --data nodir", 1, "nodir: no such folder or CSV file"),
    ("localise --weights none.pt", 2, "protocol 2 takes its classes from --posteriors FILE.h5 or from --classifier"),
    ("localise --protocol 1 --weights none.pt --data nodir", 2, "no weights 'none.pt': no such file, and not one of"),
    ("download --net Q", 2, "no net 'Q'"),
]


@pytest.mark.parametrize(("command", "code", "message"), CASES, ids=[command for command, _, _ in CASES])
def test_wrong_names_are_told_without_the_large_libraries(tmp_path, command, code, message):
    (tmp_path / "text.h5").write_text("a text")
    (tmp_path / "a.jpg").write_text("a text")
    (tmp_path / "photos").mkdir()
    (tmp_path / "table.csv").write_text("Path,Label\na.jpg,cat\n")
    (tmp_path / "urls.txt").write_text("a.jpg\nb\tftp:///b.jpg\n")
    (tmp_path / "nul.txt").write_bytes(b"a.jpg\0")
    check = (
        "import sys; from vggfeat.cli import run; code = run(sys.argv[1:]); "
        "print(code, [name for name in ('torch', 'torchvision', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check, *command.split()], cwd=tmp_path, capture_output=True, text=True)
    assert message in done.stderr
    assert done.stdout == f"{code} []\n"
