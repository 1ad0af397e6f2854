import numpy as np

from schemas.hashing import GOLDEN, scramble


def splitmix64(state: int) -> int:
    """The generator's next number, as its authors wrote it down (Steele, Lea and Flood 2014)."""
    modulus = 1 << 64
    z = state = (state + GOLDEN) % modulus
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % modulus
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % modulus
    return z ^ (z >> 31)


def test_scramble_is_the_finaliser_of_splitmix64() -> None:
    states = [0, 1, 12345, 2**63, 2**64 - 1]
    numbers = (np.array(states, np.uint64) + np.uint64(GOLDEN)).astype(np.uint64)
    assert scramble(numbers).tolist() == [splitmix64(state) for state in states]
    assert splitmix64(0) == 0xE220A8397B1DCDAF  # known from every implementation


def test_salts_make_independent_draws_without_collisions() -> None:
    numbers = np.arange(100_000)
    one, two = scramble(numbers, "one"), scramble(numbers, "two")
    assert len(np.unique(np.concatenate([one, two]))) == 200_000
    assert (scramble(numbers, "one") == one).all()
    assert numbers.tolist() == list(range(100_000))  # and leaves what it was given alone
    for draw in (one, two, one ^ two):
        bits = np.unpackbits(draw.view(np.uint8)).reshape(len(numbers), 64)
        assert abs(bits.mean(axis=0) - 0.5).max() < 0.01
