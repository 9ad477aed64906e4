"""What the scripts that time others on a GPU share: rows and parameters as `logitd bench --device cuda` has them, the
clock, and the ways of PyTorch."""

import statistics

TEMPERATURE = 0.8


def parameters(row: int) -> tuple[int, float]:
    """top_k and top_p of a row, as `logitd bench --device cuda` gives them."""
    return 20 + row % 64, 0.8 + 0.01 * (row % 19)


def parameter_tensors(torch, rows: int):
    """The same for many rows: k as 32-bit integers, p as floats."""
    of_rows = [parameters(row) for row in range(rows)]
    k = torch.tensor([k for k, _ in of_rows], device="cuda", dtype=torch.int32)
    return k, torch.tensor([p for _, p in of_rows], device="cuda")


def logits_of(torch, path, rows: int, vocab_size: int):
    """f16 rows of a .npy file, cut and repeated as logitd does it; without a file, rows from a normal distribution."""
    if not path:
        generator = torch.Generator(device="cuda").manual_seed(1)
        values = torch.randn(rows, vocab_size, device="cuda", generator=generator)
        return (values * 3).half()
    import numpy

    array = numpy.load(path, mmap_mode="r")
    distinct = [numpy.resize(array[row], vocab_size) for row in range(min(rows, len(array)))]
    return torch.from_numpy(numpy.stack([distinct[row % len(distinct)] for row in range(rows)])).cuda()


class Clock:
    """Times calls by events, the logits out of the L2 cache.

    Before each call the cache is filled with memory that is only read. Filled by writing, it would have to be written
    back while the call reads, which would be timed too; `dirty` does that, as many benchmarks do, to show how much it is."""

    def __init__(self, torch, passes: int):
        self.torch, self.passes, self.dirty = torch, passes, False
        self.large = torch.zeros(32 << 20, dtype=torch.int64, device="cuda")  # 256 MiB
        self.sink = torch.zeros((), dtype=torch.int64, device="cuda")

    def fill_cache(self):
        if self.dirty:
            self.large.zero_()
        else:
            self.torch.sum(self.large, 0, out=self.sink)

    def microseconds(self, call) -> float:
        times = []
        for number in range(self.passes + 3):
            begin, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
            self.fill_cache()
            begin.record()
            call()
            end.record()
            end.synchronize()
            if number >= 3:  # the first ones warm up, and may compile
                times.append(begin.elapsed_time(end) * 1000)
        return statistics.median(times)


def torch_ways(torch, logits, k, p):
    """Sorted: the usual way of filtering. Narrowed: top-k first, which needs one largest k."""
    most = int(k.max())

    def drawn(values, ids):
        rank = torch.arange(values.shape[-1], device=values.device)
        probabilities = values.masked_fill(rank >= k[:, None], float("-inf")).softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= p[:, None], 0)
        # A race of exponential times: what multinomial does, without its checks, which wait for the device.
        noise = torch.empty_like(probabilities).exponential_()
        return ids.gather(-1, (probabilities / noise).argmax(-1, keepdim=True))

    def by_sorting():
        return drawn(*(logits.float() / TEMPERATURE).sort(-1, descending=True))

    def by_narrowing():
        values, ids = logits.topk(most, -1)
        return drawn(values.float() / TEMPERATURE, ids)

    return {"torch, sorted": by_sorting, "torch, narrowed": by_narrowing}
