"""Keep orthogonal weights exact: no TF32, no bfloat16 and no autocast in the products that make and apply them."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

_backends: Any = torch.backends
# What multiplies float32 numbers on each kind of device, and may be allowed to round them to 10 or 7 bits first.
_PRODUCTS: dict[str, tuple[Any, ...]] = {
    "cuda": (_backends.cuda.matmul, _backends.cudnn.conv),
    "cpu": (_backends.mkldnn.matmul, _backends.mkldnn.conv),
}
# The switches are the process's own, so the first of several threads turns them off and the last one back on.
_lock = threading.Lock()
_users: Counter[str] = Counter()
_before: dict[str, list[tuple[Any, str]]] = {}


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which autocast is off, on devices that know it."""
    is_known = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if is_known else nullcontext()


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Compute float32 products on a device in float32, whatever the process allows; restore that on leaving."""
    # With TF32, which cuDNN uses by default, singular values that are 1 to 1e-6 are so to 3e-4 only.
    kind = device.type
    with _lock:
        _users[kind] += 1
        if _users[kind] == 1:
            known = [(product, product.fp32_precision) for product in _PRODUCTS.get(kind, ())]
            # One that is exact is not touched: once set, it would no longer follow the general switch.
            _before[kind] = [(product, precision) for product, precision in known if precision not in ("none", "ieee")]
            for product, _ in _before[kind]:
                product.fp32_precision = "ieee"
    try:
        yield
    finally:
        with _lock:
            _users[kind] -= 1
            if not _users[kind]:
                for product, precision in _before.pop(kind):
                    product.fp32_precision = precision
