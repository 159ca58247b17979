"""The pretended GPU counts each time that a real one would let the host wait."""

from tests.training.test_gpu import run

WAITING = {
    "a number": "x.sum().item()",
    "a copy from the device": "x.cpu()",
    "a copy to the device": "host.to('gpu:0')",
    "a copy into a tensor": "x.copy_(host)",
    "nonzero": "x.nonzero()",
    "masked_select": "x.masked_select(mask)",
    "unique": "x.unique()",
    "a mask": "x[mask]",
    "a mask to write to": "x[mask] = x[:3] + 1",
    "an index on the processor": "x[torch.tensor([0, 2])]",
}
NOT_WAITING = {
    "arithmetic": "x + 1",
    "a copy within the device": "x.clone()",
    "an asynchronous copy": "host.to('gpu:0', non_blocking=True)",
    "an index on the device": "x[order]",
    "a slice": "x[1:]",
    "where": "torch.where(mask, x, 0)",
}


def test_what_waits_is_counted():
    code = (
        "import json, torch; from tests import pretended_gpu\n"
        "def waits(operation):\n"
        "    pretended_gpu.waits.clear()\n"
        "    exec(operation)\n"
        "    return pretended_gpu.waits.total()\n"
        "with pretended_gpu.Mode():\n"
        "    host = torch.arange(6.0)\n"
        "    x, mask, order = host.to('gpu:0'), (host > 2).to('gpu:0'), torch.tensor([0, 2]).to('gpu:0')\n"
        f"    print(json.dumps([{{k: waits(v) for k, v in some.items()}} for some in ({WAITING}, {NOT_WAITING})]))\n"
    )
    waiting, not_waiting = run(code, ACCELERATE_TORCH_DEVICE="gpu:0")
    assert waiting == dict.fromkeys(WAITING, 1)
    assert not_waiting == dict.fromkeys(NOT_WAITING, 0)
