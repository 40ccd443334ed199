"""Number formats and pooling, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from audio_ssl.errors import ConfigError
from audio_ssl.inference.sinks.numbers import Encoded, Error, choose_dtype, decode, encode
from audio_ssl.inference.sinks.pooling import _Moments


def encoded(frames: list[list[float]], dtype: str) -> Encoded:
    stored = encode(np.array(frames, np.float32), dtype)
    assert isinstance(stored, Encoded)
    return stored


def test_int8_is_symmetric_with_a_scale_a_frame() -> None:
    # 12.7 / 127 = 0.1 and 254 / 127 = 2; 0.25 / 0.1 = 2.5 goes to the even 2, silence stays silence
    stored = encoded([[12.7, -12.7, 0.25, 0.06], [-254, 3, 1.1, 0], [0, 0, 0, 0]], "int8")
    assert stored.values.dtype == np.int8
    assert stored.values.tolist() == [[127, -127, 2, 1], [-127, 2, 1, 0], [0, 0, 0, 0]]
    assert stored.scales is not None
    np.testing.assert_allclose(stored.scales, [0.1, 2, 0], rtol=1e-6)
    np.testing.assert_allclose(decode(stored, "int8")[1], [-254, 4, 2, 0])


def test_int8_of_denormal_frames_stays_in_range() -> None:
    stored = encoded([[1.9e-43, -1.9e-43], [1e-45, 0]], "int8")
    assert stored.values.tolist() == [[127, -127], [0, 0]]


def test_bf16_rounds_to_nearest_even() -> None:
    # 1 + 2^-8 lies between 1 and 1 + 2^-7: ties go to the even 1; 1 + 3 * 2^-8 to 1 + 2^-6
    values = decode(encoded([[1 + 2**-8, 1 + 3 * 2**-8, -2.5]], "bf16"), "bf16")
    assert values.dtype == np.float32
    assert values.tolist() == [[1, 1 + 2**-6, -2.5]]


@pytest.mark.parametrize(
    ("value", "dtype", "reason"),
    [
        (65_520.0, "fp16", "its values exceed float16; use --dtype fp32"),
        (3.4e38, "bf16", "its values exceed bfloat16; use --dtype fp32"),
        (np.inf, "fp16", "the model gives NaN or infinity for it"),
        (np.nan, "int8", "the model gives NaN or infinity for it"),
    ],
)
def test_what_a_dtype_cannot_hold_is_told(value: float, dtype: str, reason: str) -> None:
    assert encode(np.array([[1, value]], np.float32), dtype) == reason


def test_codes_stay_whole() -> None:
    stored = encoded([[319, 0], [16_777_215, 7]], "int32")
    assert stored.values.dtype == np.int32
    assert decode(stored, "int32").tolist() == [[319, 0], [16_777_215, 7]]


def test_the_error_is_of_all_frames_together() -> None:
    error = Error()
    for frames in ([[3.0, 0.0]], [[0.0, 4.0]]):
        given = np.array(frames, np.float32)
        error.add(given, Encoded(given + np.array([[0.03, 0.04]], np.float32)), "fp32")
    # off by 0.05 twice, of a norm of 5
    assert error.percent == pytest.approx(100 * np.sqrt(2) * 0.05 / 5, rel=1e-5)
    assert Error().percent == 0


def test_a_dtype_is_chosen_by_what_is_kept() -> None:
    assert choose_dtype("npy", None) == "fp32"
    assert choose_dtype("npy", None, holds_codes=True) == "int32"
    assert choose_dtype("safetensors", "bf16") == "bf16"


@pytest.mark.parametrize(
    ("file_format", "dtype", "holds_codes", "said"),
    [
        (
            "npy",
            "bf16",
            False,
            "--format npy cannot hold bf16; use --dtype fp32 or fp16 or int8, or --format safetensors",
        ),
        ("kaldi", "int8", False, "--format kaldi cannot hold int8; use --dtype fp32, or --format npy"),
        ("kaldi", None, True, "--format kaldi cannot hold int32; use --format npy"),
        ("npy", "int32", False, "one of fp32, fp16, bf16, int8 here, got int32; int32 is for codes alone"),
        ("npy", "fp32", True, "must be int32 for codes, which are whole numbers, got fp32"),
        ("h5", "fp32", False, "--format must be one of npy, matrix, safetensors, parquet, arrow, kaldi, got 'h5'"),
        ("npy", "fp64", False, "--dtype must be one of fp32, fp16, bf16, int8, int32, got 'fp64'"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_with_the_way_out(
    file_format: str, dtype: str | None, holds_codes: bool, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        choose_dtype(file_format, dtype, holds_codes=holds_codes)
    assert said in str(caught.value)


@pytest.mark.parametrize("shape", [(13, 5), (2, 13, 5)])
def test_pooling_in_windows_is_pooling_of_the_whole(shape: tuple[int, ...]) -> None:
    frames = np.random.default_rng(0).standard_normal(shape).astype(np.float32) * 1e-2 + 1e3
    moments = _Moments()
    for start, stop in ((0, 4), (4, 5), (5, 13)):
        moments.add(frames[..., start:stop, :])
    exact = frames.astype(np.float64)
    vector = moments.vector(with_std=True)
    assert vector.dtype == np.float32
    # float32 sums of squares around 1e6 would lose a deviation of 1e-2 altogether
    np.testing.assert_allclose(vector, np.concatenate([exact.mean(-2), exact.std(-2)], -1), rtol=2e-7)
    np.testing.assert_array_equal(moments.vector(with_std=False), vector[..., :5])


def test_a_single_frame_has_no_deviation() -> None:
    moments = _Moments()
    moments.add(np.array([[2.0, -3.0]], np.float32))
    assert moments.vector(with_std=True).tolist() == [2, -3, 0, 0]
