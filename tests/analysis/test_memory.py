"""`tune_sam.analysis.memory`: what a graph holds, and running out of memory said in a sentence."""

import pytest
import torch

from tune_sam.analysis.memory import available, in_words, saved_tensors, shortage_told, storages


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


def test_saved_tensors_are_found_once_each():
    x = torch.ones(100, requires_grad=True)
    y = x.exp().sin()  # exp saves its result, which sin saves as its input
    assert sum(storages(saved_tensors([y])).values()) == 400


def test_saved_tensors_of_functions_in_python_and_of_lists():
    x = torch.ones(10, requires_grad=True)
    assert sum(storages(saved_tensors([Square.apply(x)])).values()) == 40
    index = torch.zeros(3, dtype=torch.int64)
    assert sum(storages(saved_tensors([x[index]])).values()) == 24
    assert not list(saved_tensors([torch.ones(2)]))


def test_available():
    assert available(torch.device("cpu")) is None or available(torch.device("cpu")) > 1 << 20
    assert available(torch.device("meta")) is None


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported at another call"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
    ],
)
def test_running_out_is_one_sentence(error):
    with pytest.raises(ValueError, match="^out of memory: eat less$"), shortage_told("eat less"):
        raise error


def test_the_cpu_allocator_says_what_we_listen_for():
    with pytest.raises(ValueError, match="eat less"), shortage_told("eat less"):
        torch.empty(1 << 60, dtype=torch.uint8)


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="other"), shortage_told("eat less"):
        raise RuntimeError("other")


def test_sizes_in_words():
    assert [in_words(1), in_words(1536), in_words(4 << 30)] == ["1 B", "1.5 KiB", "4 GiB"]
