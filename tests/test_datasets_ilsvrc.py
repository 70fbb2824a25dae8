import tarfile
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from vggfeat.datasets import load_dataset
from vggfeat.datasets.ilsvrc import load_ilsvrc2012
from vggfeat.datasets.images import decode
from vggfeat.errors import DatasetError, ImageError, UsageError

WNIDS = ("n01440764", "n01443537", "n02119789")


def jpeg(value):
    stream = BytesIO()
    Image.new("RGB", (8, 6), (value, value, value)).save(stream, "JPEG")
    return stream.getvalue()


def add(tar, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, BytesIO(content))


def folders(part, counts=(2, 2, 2), start=0):
    for wnid, count in zip(WNIDS, counts, strict=True):
        (part / wnid).mkdir(parents=True)
        for i in range(count):
            (part / wnid / f"{wnid}_{i}.JPEG").write_bytes(jpeg(start + 10 * i + WNIDS.index(wnid)))


@pytest.fixture
def root(tmp_path):
    folders(tmp_path / "ilsvrc2012" / "train")
    folders(tmp_path / "ilsvrc2012" / "val", (1, 1, 1), start=100)
    return tmp_path / "ilsvrc2012"


def described(dataset):
    """(class, file name, grey level) of every sample, read through its source."""
    rows = []
    for sample in dataset.samples:
        grey = int(np.asarray(decode(sample.source())).mean().round())
        rows.append((sample.subset, dataset.class_names[sample.labels], sample.id.rpartition("/")[2], grey))
    return rows


def test_folders_of_classes(root):
    dataset = load_dataset("ilsvrc2012", root.parent)
    assert dataset.class_names == WNIDS
    assert [sample.id for sample in dataset.samples][:3] == [
        "train/n01440764/n01440764_0.JPEG",
        "train/n01440764/n01440764_1.JPEG",
        "train/n01443537/n01443537_0.JPEG",
    ]
    assert [sample.labels for sample in dataset.samples] == [0, 0, 1, 1, 2, 2, 0, 1, 2]
    assert [sample.subset for sample in dataset.samples] == ["train"] * 6 + ["val"] * 3
    assert not dataset.exif
    assert len(load_ilsvrc2012(root.parent, ("val",)).samples) == 3


def test_tar_files_of_classes_shards_and_ilsvrcs_own_tar_of_tars_read_as_the_folders(root, tmp_path):
    expected = described(load_ilsvrc2012(root.parent))
    files = {wnid: sorted((root / "train" / wnid).iterdir()) for wnid in WNIDS}

    def tars(name, write):
        other = tmp_path / name / "ilsvrc2012"
        (other / "train").mkdir(parents=True)
        (other / "val").symlink_to(root / "val")
        write(other / "train")
        return load_ilsvrc2012(other.parent)

    def one_a_class(train):
        for wnid in WNIDS:
            with tarfile.open(train / f"{wnid}.tar", "w") as tar:
                for file in files[wnid]:
                    add(tar, f"./{file.name}", file.read_bytes())

    def shards(train):
        for shard in range(2):
            with tarfile.open(train / f"shard-{shard}.tar", "w") as tar:
                for wnid in WNIDS:
                    add(tar, f"some/{wnid}/{files[wnid][shard].name}", files[wnid][shard].read_bytes())

    def tar_of_tars(train):
        with tarfile.open(train / "ILSVRC2012_img_train.tar", "w") as outer:
            for wnid in WNIDS:
                stream = BytesIO()
                with tarfile.open(fileobj=stream, mode="w") as tar:
                    for file in files[wnid]:
                        add(tar, file.name, file.read_bytes())
                add(outer, f"{wnid}.tar", stream.getvalue())

    for write in (one_a_class, shards, tar_of_tars):
        dataset = tars(write.__name__, write)
        assert dataset.class_names == WNIDS
        assert sorted(described(dataset)) == sorted(expected), write.__name__


def flat(root, numbers=(3, 1, 2)):
    """ILSVRC's own validation part: the i-th image's class is `numbers[i]`, an ILSVRC2012_ID."""
    for path in (root / "val").iterdir():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    for i in range(3):
        (root / "val" / f"ILSVRC2012_val_0000000{i + 1}.JPEG").write_bytes(jpeg(100 + i))
    devkit = root / "ILSVRC2012_devkit_t12" / "data"
    devkit.mkdir(parents=True)
    (devkit / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(map(str, numbers)) + "\n")
    # ILSVRC2012_IDs are not in the order of the wnids; the last synset is no leaf.
    synsets = np.zeros((4, 1), dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")])
    for row, (number, wnid) in enumerate([(1, WNIDS[2]), (2, WNIDS[0]), (3, WNIDS[1]), (1001, "n00001740")]):
        synsets[row, 0] = (number, wnid, "words")
    savemat(devkit / "meta.mat", {"synsets": synsets})
    return devkit


def test_the_flat_validation_part_is_labelled_by_the_devkits_mapping(root):
    flat(root)
    val = [row[1:] for row in described(load_ilsvrc2012(root.parent)) if row[0] == "val"]
    assert val == [
        (WNIDS[1], "ILSVRC2012_val_00000001.JPEG", 100),
        (WNIDS[2], "ILSVRC2012_val_00000002.JPEG", 101),
        (WNIDS[0], "ILSVRC2012_val_00000003.JPEG", 102),
    ]


def test_the_flat_validation_part_may_be_ilsvrcs_own_tar(root):
    flat(root)
    expected = described(load_ilsvrc2012(root.parent))
    images = sorted((root / "val").iterdir())
    with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as tar:
        for file in reversed(images):
            add(tar, file.name, file.read_bytes())
            file.unlink()
    (root / "ILSVRC2012_img_val.tar").rename(root / "val" / "ILSVRC2012_img_val.tar")
    assert described(load_ilsvrc2012(root.parent)) == expected


@pytest.mark.parametrize("name", ["meta.mat", "ILSVRC2012_validation_ground_truth.txt"])
def test_the_flat_validation_part_is_refused_without_the_devkit(root, name):
    (flat(root) / name).unlink()
    with pytest.raises(DatasetError) as caught:
        load_ilsvrc2012(root.parent)
    assert str(caught.value) == (
        f"{root}/val has no class folders, and {name} of ILSVRC's devkit is missing: its class numbers are not the "
        f"order of the wnids, so put the devkit at {root}/ILSVRC2012_devkit_t12, or sort val into <wnid>/"
    )


def test_a_damaged_devkit_is_named(root):
    devkit = flat(root, numbers=(3, 1))
    with pytest.raises(DatasetError, match=r"ground_truth\.txt has 2 lines for the 3 images of .*val$"):
        load_ilsvrc2012(root.parent)
    (devkit / "ILSVRC2012_validation_ground_truth.txt").write_text("3\n1\n7\n")
    with pytest.raises(DatasetError, match=r"ground_truth\.txt: not a list of ILSVRC2012_IDs: 7$"):
        load_ilsvrc2012(root.parent)
    (devkit / "meta.mat").write_bytes(b"not a matlab file" * 20)
    with pytest.raises(DatasetError, match=r"meta\.mat: not the devkit's meta\.mat: "):
        load_ilsvrc2012(root.parent)


def test_what_is_missing_or_strange_is_named(root, tmp_path):
    with pytest.raises(
        DatasetError, match=r"^no ilsvrc2012 at .*nowhere/ilsvrc2012 \(train/ and val/ missing\): put its"
    ):
        load_ilsvrc2012(tmp_path / "nowhere")
    (root / "val" / WNIDS[0]).rename(root / "val" / "n99999999")
    with pytest.raises(DatasetError, match=r"val: class n99999999 is not among the 3 classes of train$"):
        load_ilsvrc2012(root.parent)
    (root / "val" / "n99999999").rename(root / "val" / WNIDS[0])
    stray = root / "train" / "stray.JPEG"
    stray.write_bytes(jpeg(0))
    with pytest.raises(
        DatasetError, match=r"train: stray\.JPEG lies outside of any class's folder or tar file, so it has no label$"
    ):
        load_ilsvrc2012(root.parent)
    stray.unlink()
    (root / "train" / "shard.tar.gz").write_bytes(b"")
    with pytest.raises(
        DatasetError, match=r"shard\.tar\.gz: compressed, so its images cannot be read in any order; uncompress"
    ):
        load_ilsvrc2012(root.parent)
    (root / "train" / "shard.tar.gz").rename(root / "train" / "shard.tar")
    with pytest.raises(DatasetError, match=r"shard\.tar: not a readable tar file: "):
        load_ilsvrc2012(root.parent)


def test_a_tar_file_that_is_damaged_half_way_is_refused(root):
    path = root / "train" / "shard.tar"
    with tarfile.open(path, "w") as tar:
        for number in range(3):
            add(tar, f"n01440764/x{number}.JPEG", jpeg(number))
    with tarfile.open(path) as tar:
        third = tar.getmembers()[2].offset
    damaged = bytearray(path.read_bytes())
    damaged[third : third + 100] = b"?" * 100  # tarfile by itself takes this for the archive's end
    path.write_bytes(damaged)
    with pytest.raises(
        DatasetError,
        match=r"shard\.tar: not a readable tar file: damaged after n01440764/x1\.JPEG: .*; what follows is lost$",
    ):
        load_ilsvrc2012(root.parent)


def test_parts_and_boxes_are_chosen_by_name_for_ilsvrc_alone(root):
    assert {sample.subset for sample in load_dataset("ilsvrc2012", root.parent, parts=["val"]).samples} == {"val"}
    assert load_dataset("ilsvrc2012", root.parent, parts="val") == load_dataset(
        "ilsvrc2012", root.parent, parts=["val"]
    )
    with pytest.raises(UsageError, match=r"^`parts` 5 is neither a name nor several names$"):
        load_dataset("ilsvrc2012", root.parent, parts=5)
    for options, name in (({"parts": ["val"]}, "parts"), ({"boxes": True}, "boxes")):
        with pytest.raises(UsageError, match=f"^`{name}` goes with ilsvrc2012, not with folder$"):
            load_dataset("folder", root / "train", **options)


def test_a_part_without_images_is_named(tmp_path):
    (tmp_path / "ilsvrc2012" / "train").mkdir(parents=True)
    folders(tmp_path / "ilsvrc2012" / "val")
    with pytest.raises(DatasetError, match=r"train holds no images: neither <wnid>/\*\.JPEG nor tar files of them$"):
        load_ilsvrc2012(tmp_path)


def test_a_tar_file_that_shrank_costs_its_images_only(root):
    path = root / "train" / "n01440764.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "n01440764_9.JPEG", jpeg(9))
    sample = next(s for s in load_ilsvrc2012(root.parent).samples if s.span)
    path.write_bytes(path.read_bytes()[: sample.span[0] + 10])
    with pytest.raises(ImageError, match=r"n01440764\.tar ends inside of it$"):
        sample.source()
    path.unlink()
    with pytest.raises(ImageError, match=r"n01440764\.tar: no such file or directory$"):
        sample.source()
