"""Recognises forms of weights that vggfeat does not read, and says how to convert them."""

from __future__ import annotations

from pathlib import Path

_SSTABLE_END = bytes.fromhex("57fb808b247547db")
"""Last bytes of LevelDB's tables, in which TensorFlow keeps checkpoints (of version 2: their index)."""

_TENSORFLOW = (
    "a TensorFlow checkpoint, which vggfeat does not read; in Python with TensorFlow: "
    "r = tf.train.load_checkpoint(FILE); "
    "numpy.savez('vgg.npz', **{n: r.get_tensor(n) for n in r.get_variable_to_shape_map()}) gives a file that it reads"
)
_TORCH_7 = (
    "a Torch7 file, which vggfeat does not read; the Python package torchfile loads it: save its arrays as conv1_1_W, "
    "conv1_1_b, .., fc8_b with numpy.savez (kernels H, W, in, out)"
)
TORCHSCRIPT = (
    "a TorchScript archive, which holds code; save its tensors alone with "
    "torch.save(torch.jit.load(FILE).state_dict(), 'net.pth')"
)
_SAVED_MODEL = (
    "a TensorFlow SavedModel, which vggfeat does not read; in Python with TensorFlow: "
    "tf.keras.models.load_model(FOLDER).save_weights('vgg.weights.h5') gives a file that it reads"
)


def unread_form(path: Path, start: bytes) -> str | None:
    """What a file is and how to convert it, for forms that are known and not read; else None.

    Args:
        start: the file's first bytes.
    """
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - 8))
        end = stream.read()
    if end == _SSTABLE_END or ".ckpt.data-" in path.name:
        return _TENSORFLOW
    if start[:1] == b"\x80":  # a pickle: torch's older format, under whatever suffix
        return None
    if path.suffix in (".ckpt", ".index", ".meta"):
        return _TENSORFLOW
    if path.suffix == ".t7" or start[:4] in (b"\x03\0\0\0", b"\x04\0\0\0"):  # a torch object, a torch class
        return _TORCH_7
    if path.suffix == ".pb" or start[:3] == b"\x08\x01\x12":
        return _SAVED_MODEL
    return None
