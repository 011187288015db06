from __future__ import annotations

import pytest
import torch

from spherood.sphere import at_least_float32, float64, normalize


def test_rows_get_length_one_and_a_zero_row_stays_zero() -> None:
    assert normalize(torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64)).tolist() == [[0.6, 0.8], [0, 0]]


@pytest.mark.parametrize(
    ("given", "comes_out"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_half_precision_is_widened_and_nothing_is_narrowed(given: torch.dtype, comes_out: torch.dtype) -> None:
    x = torch.ones(2, 3, dtype=given)
    assert at_least_float32(x).dtype == normalize(x).dtype == comes_out
    assert float64(x).dtype == torch.float64


def test_half_precision_rows_are_unit_to_float32_digits() -> None:
    x = torch.randn(50, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    torch.testing.assert_close(normalize(x).norm(dim=1), torch.ones(50), rtol=0, atol=1e-6)
