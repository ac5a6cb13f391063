"""Medley's counter-based random numbers in numpy, and what is made of them: weights, batches and dropout masks.

Every number is a function of a seed, a path of numbers and a counter of four words (Philox4x32-10), so both sides make the
same masks and the same weights. Weights are integers times a power of two: no logarithm or cosine could round differently.
"""

import numpy as np
import torch

from blip import Everything

INIT, DROPOUT, DROP_PATH, NEGATIVES = 1, 2, 3, 4  # What a stream is for.
STUDENT, TEACHER, MULTIMODAL = 0, 1, 2  # Passes of a step.
LOW = np.uint64(0xFFFF_FFFF)
CHUNK = 1 << 20  # Counters at once.


def mix(x):
    x &= (1 << 64) - 1
    x = ((x ^ (x >> 30)) * 0xBF58_476D_1CE4_E5B9) % (1 << 64)
    x = ((x ^ (x >> 27)) * 0x94D0_49BB_1331_11EB) % (1 << 64)
    return x ^ (x >> 31)


class Stream:
    def __init__(self, seed, purpose):
        self.key = mix(seed ^ 0x4D65_646C_6579)
        self.key = self.at(purpose).key

    def at(self, *numbers):
        found = object.__new__(Stream)
        found.key = self.key
        for number in numbers:
            found.key = mix(found.key + mix(number + 0x9E37_79B9_7F4A_7C15))
        return found

    def named(self, name):
        encoded = name.encode()
        return self.at(len(encoded), *encoded)

    def words(self, *counter):
        """Four random words for each of the counters, which are broadcast: … × 4."""
        c = [np.asarray(x, dtype=np.uint64) for x in np.broadcast_arrays(*counter)]
        k0, k1 = self.key & 0xFFFF_FFFF, self.key >> 32
        for _ in range(10):
            p0, p1 = c[0] * np.uint64(0xD251_1F53), c[2] * np.uint64(0xCD9E_8D57)
            c = [
                (p1 >> np.uint64(32)) ^ c[1] ^ np.uint64(k0),
                p1 & LOW,
                (p0 >> np.uint64(32)) ^ c[3] ^ np.uint64(k1),
                p0 & LOW,
            ]
            k0, k1 = (k0 + 0x9E37_79B9) & 0xFFFF_FFFF, (k1 + 0xBB67_AE85) & 0xFFFF_FFFF
        return np.stack(c, axis=-1).astype(np.uint32)

    def flat(self, n):
        """The first n words of the counters (0, 0, 0, 0), (1, 0, 0, 0), …"""
        blocks = -(-n // 4)
        parts = [
            self.words(np.arange(at, min(at + CHUNK, blocks)), 0, 0, 0).ravel() for at in range(0, blocks, CHUNK)
        ]
        return np.concatenate(parts)[:n]

    def uniform(self, *counter):
        """Numbers in [0, 1) of 24 bits."""
        return (self.words(*counter)[..., 0] >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def integers(name, shape, seed):
    """Signed 16-bit integers, a function of seed and name."""
    n = int(np.prod(shape))
    words = Stream(seed, INIT).named(name).flat(n)
    return ((words >> np.uint32(16)).astype(np.int64) - 32768).astype(np.float32).reshape(shape)


def seeded(name, shape, seed, shift):
    """A tensor of uniform numbers within ±2^(15 − shift); around 1 for the gains of layer norms, and 9/128 for `temp`."""
    if name == "temp":
        return torch.tensor(9 / 128, dtype=torch.float32)
    values = integers(name, shape, seed)
    if name.endswith("orm.weight") or name.endswith(("norm1.weight", "norm2.weight")):
        return torch.from_numpy(1 + values * np.float32(2.0**-18))
    return torch.from_numpy(values * np.float32(2.0**-shift))


def signs(name, n, count):
    """`count` rows of n signs for projections of a tensor: bit p of byte i of the words decides element i's in row p."""
    words = Stream(0, INIT).named("signs").named(name).flat(-(-n // 4))
    taken = np.frombuffer(words.astype("<u4").tobytes(), dtype=np.uint8)[:n]
    return [1.0 - 2.0 * ((taken >> np.uint8(p)) & np.uint8(1)) for p in range(count)]


class Masks(Everything):
    """Dropout and drop-path of one pass, as functions of logical places."""

    def __init__(self, seed, step, lane, which, rate, drop_path=0.0, depth=1, first_sample=0):
        path = (step, lane, which)
        self.dropout = Stream(seed, DROPOUT).at(*path)
        self.drop_path = Stream(seed, DROP_PATH).at(*path)
        self.rate = np.float32(rate)
        self.path_rate, self.depth = drop_path, depth
        self.first_sample = first_sample

    def _mask(self, site, samples, minors, positions, columns, like):
        chunks = np.arange(-(-columns // 4))
        counter = (
            chunks,
            np.arange(positions)[:, None],
            (self.first_sample + np.arange(samples))[:, None, None, None],
            np.asarray(minors)[:, None, None],
        )
        words = self.dropout.at(site).words(*counter).reshape(samples, len(minors), positions, -1)[..., :columns]
        threshold = np.uint32(int(np.float64(self.rate) * 2**32))
        kept = np.float32(1) / (np.float32(1) - self.rate)
        return torch.from_numpy(np.where(words < threshold, np.float32(0), kept)).to(like.dtype)

    def hidden(self, site, x):
        b, n, d = x.shape
        return x * self._mask(site, b, [0], n, d, x)[:, 0]

    def probabilities(self, site, p):
        b, h, n, keys = p.shape
        return p * self._mask(site, b, range(1, h + 1), n, keys, p)

    def branch(self, block, branch, x):
        rate = np.float32(self.path_rate * block / (self.depth - 1)) if self.depth > 1 else np.float32(0)
        if rate == 0:
            return x
        drawn = self.drop_path.uniform(np.arange(len(x)), block, branch, 0)
        factors = np.where(drawn < rate, np.float32(0), np.float32(1) / (np.float32(1) - rate))
        return x * torch.from_numpy(factors).to(x.dtype)[:, None, None]


def draw(weights, uniforms):
    """For each row the column at which the cumulated weights pass its uniform share of their sum."""
    cumulated = torch.cumsum(weights, dim=1)
    at = torch.from_numpy(np.asarray(uniforms, dtype=np.float64))[:, None].to(weights.dtype) * cumulated[:, -1:]
    return (cumulated <= at).sum(dim=1)
