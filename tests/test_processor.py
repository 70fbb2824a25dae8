"""What the processor has, asked of every kind of torch and system."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vggfeat.errors import UsageError
from vggfeat.system import devices, processor
from vggfeat.system.devices import has_bf16, has_int8, has_tiles, resolve_precision
from vggfeat.system.processor import has_arithmetic

CPU = torch.device("cpu")
QUESTIONS = [name for names in processor._ASKED.values() for name in names]
ZEN5 = frozenset({"avx512f", "avx_vnni", "avx512_bf16", "avx512_vnni"})
HASWELL = frozenset({"avx", "avx2", "fma"})
GRAVITON3 = frozenset({"fp", "asimd", "fphp", "asimdhp", "i8mm", "bf16"})


@pytest.fixture
def torch_that(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what torch answers, by question, the machine's kind, and Linux's features; the rest is unknown."""

    def answers(flags: frozenset[str] = frozenset(), machine: str = "x86_64", **answered: Any) -> None:
        for name in ("get_capabilities", *QUESTIONS):
            monkeypatch.delattr(torch.cpu, name, raising=False)
        for name, answer in answered.items():
            monkeypatch.setattr(torch.cpu, name, lambda answer=answer: answer, raising=False)
        monkeypatch.setattr(processor, "linux_flags", lambda: flags)
        monkeypatch.setattr(processor.platform, "machine", lambda: machine)
        devices._warn_of_bytes.cache_clear()
        devices._warn_of_emulation.cache_clear()

    yield answers
    devices._warn_of_bytes.cache_clear()
    devices._warn_of_emulation.cache_clear()


def found() -> list[bool | None]:
    return [has_arithmetic("bf16"), has_arithmetic("fp16"), has_arithmetic("int8")]


def test_torch_2_4_knows_bytes_by_another_name_and_linux_the_rest(torch_that: Any) -> None:
    torch_that(ZEN5, _is_cpu_support_vnni=True)
    assert found() == [True, False, True]
    assert has_bf16() and has_int8() and resolve_precision("auto", CPU) == "bf16"
    torch_that(HASWELL, _is_cpu_support_vnni=False)
    assert found() == [False, False, False]
    assert resolve_precision("auto", CPU) == "fp32"


def test_later_names_are_asked(torch_that: Any) -> None:
    torch_that(_is_vnni_supported=True, _is_avx512_bf16_supported=True)
    assert found() == [True, None, True]


def test_the_list_of_the_newest_torch_is_believed(torch_that: Any) -> None:
    torch_that(ZEN5, get_capabilities={"avx2": True})
    assert found() == [False, False, False]
    torch_that(get_capabilities={"bf16": True, "fp16_arith": True}, machine="arm64")
    assert found() == [True, True, False]


def test_questions_about_x86_say_nothing_about_arm(torch_that: Any) -> None:
    torch_that(GRAVITON3, "aarch64", _is_vnni_supported=False, _is_avx512_bf16_supported=False)
    assert found() == [True, True, False]
    torch_that(machine="arm64", _is_vnni_supported=False, _is_avx512_bf16_supported=False)
    assert found() == [None, None, None]


def test_tiles_are_known_by_each_of_their_names(torch_that: Any) -> None:
    torch_that(get_capabilities={"amx_tile": True})
    assert has_tiles()
    torch_that(_is_amx_tile_supported=True)
    assert has_tiles()
    torch_that(frozenset({"avx512f", "amx_tile", "amx_bf16"}))
    assert has_tiles()
    torch_that(ZEN5)
    assert not has_tiles()
    torch_that(machine="arm64")
    assert not has_tiles()


@pytest.fixture
def linux_that(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Sets the text of Linux's list of processors; None: there is none."""

    def says(text: str | None) -> None:
        list_ = SimpleNamespace(read_text=lambda **_: text) if text is not None else Path("/nowhere/cpuinfo")
        monkeypatch.setattr(processor, "Path", lambda _: list_)
        processor.linux_fields.cache_clear()

    yield says
    processor.linux_fields.cache_clear()


def test_linux_features_are_those_of_its_list(linux_that: Any) -> None:
    def reading(text: str | None) -> frozenset[str]:
        linux_that(text)
        return processor.linux_flags()

    assert reading("processor\t: 0\nmodel name\t: A B\nflags\t\t: fpu avx512_bf16\nbugs\t: x\n\nflags : y\n") == {
        "fpu",
        "avx512_bf16",
    }
    assert reading("processor\t: 0\nFeatures\t: fp asimd bf16\n") == {"fp", "asimd", "bf16"}
    assert reading("") == frozenset()
    assert reading(None) == frozenset(), "not Linux"


@pytest.mark.parametrize(
    ("vendor", "family", "flags", "halved"),
    [
        ("AuthenticAMD", "25", "avx2 avx512f", True),  # Zen 4
        ("AuthenticAMD", "25", "avx2", False),  # Zen 3
        ("AuthenticAMD", "26", "avx2 avx512f", False),  # Zen 5
        ("GenuineIntel", "6", "avx2 avx512f", False),
    ],
)
def test_zen_4_does_avx_512_in_halves(linux_that: Any, vendor: str, family: str, flags: str, halved: bool) -> None:
    linux_that(f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nflags\t\t: {flags}\n\nprocessor: 1\n")
    assert processor.has_halved_avx512() == halved
    linux_that(None)
    assert not processor.has_halved_avx512()


def test_what_nobody_tells_is_not_said_of_the_cpu(torch_that: Any, caplog: pytest.LogCaptureFixture) -> None:
    torch_that(machine="AMD64")
    silent = f"torch {torch.__version__} does not say whether this CPU"
    with caplog.at_level(logging.WARNING):
        assert resolve_precision("bf16", CPU) == "bf16" and resolve_precision("int8", CPU) == "int8"
    assert caplog.messages == [
        f"`precision=bf16`: {silent} has bf16 arithmetic. It may emulate it, which takes 3 to 17 times as long as "
        "fp32; `precision=auto` takes fp32 here",
        f"`precision=int8`: {silent} multiplies bytes (VNNI), so fp32 does it with the same values, in more time than "
        "`precision=fp32` takes",
    ]
    with pytest.raises(UsageError) as raised:
        resolve_precision("fp16", CPU)
    assert str(raised.value) == f"`precision=fp16`: {silent} has fp16 arithmetic; take `precision=auto`"


def test_a_torch_without_the_operators_is_blamed_itself(
    torch_that: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    torch_that(ZEN5)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not has_int8()
    resolve_precision("int8", CPU)
    assert caplog.messages == [
        f"`precision=int8`: torch {torch.__version__} has no 8-bit operators here, so fp32 does it with the same "
        "values, in more time than `precision=fp32` takes"
    ]


@pytest.mark.skipif(not processor.linux_flags(), reason="not Linux")
def test_torch_and_linux_agree_on_this_machine() -> None:
    for kind in ("bf16", "fp16", "int8"):
        assert has_arithmetic(kind) == (not processor.linux_flags().isdisjoint(processor._FLAGS[kind])), kind
