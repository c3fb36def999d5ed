-- The random numbers of a selection: bit for bit the same function of (domain, seed, sample) as selection/keys.py; domain is a number of
-- keys.Domain.
--
-- A bigint stands for 64 bits in two's complement. Products are computed as numeric, because they do not fit into a bigint. int8xor is the
-- function behind the operator #.

CREATE OR REPLACE FUNCTION alchemist.shr64(z bigint, n integer) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT (z >> n) & ((1::bigint << (64 - n)) - 1)
$$;

CREATE OR REPLACE FUNCTION alchemist.mul64(z bigint, factor numeric) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT (mod(mod(z * factor, 18446744073709551616) + 27670116110564327424, 18446744073709551616) - 9223372036854775808)::bigint
$$;

-- SplitMix64's finaliser (Steele, Lea, Flood 2014) with Stafford's 13th set of constants.
CREATE OR REPLACE FUNCTION alchemist.finalise64(z bigint) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT int8xor(two.c, alchemist.shr64(two.c, 31))
FROM (SELECT alchemist.mul64(int8xor(z, alchemist.shr64(z, 30)), 13787848793156543929) AS b) AS one,
    LATERAL (SELECT alchemist.mul64(int8xor(one.b, alchemist.shr64(one.b, 27)), 10723151780598845931) AS c) AS two
$$;

-- The part that all samples of a selection share; computed once, it saves two thirds of the work.
CREATE OR REPLACE FUNCTION alchemist.noise_state(domain bigint, seed bigint) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT alchemist.finalise64(int8xor(alchemist.finalise64(domain), seed))
$$;

-- u = ((h >> 12) + ½)·2⁻⁵²: never 0, never 1.
CREATE OR REPLACE FUNCTION alchemist.uniform_of(state bigint, pair_hash64 bigint) RETURNS float8 LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT (alchemist.shr64(alchemist.finalise64(int8xor(state, pair_hash64)), 12) + 0.5::float8) / 4503599627370496
$$;

CREATE OR REPLACE FUNCTION alchemist.uniform_noise(domain bigint, seed bigint, pair_hash64 bigint) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT alchemist.uniform_of(alchemist.noise_state(domain, seed), pair_hash64)
$$;

COMMENT ON FUNCTION alchemist.shr64(bigint, integer) IS 'Returns a 64-bit value shifted right by 1 to 63 bits, without its sign';
COMMENT ON FUNCTION alchemist.mul64(bigint, numeric) IS 'Returns the product of two 64-bit values modulo 2^64';
COMMENT ON FUNCTION alchemist.finalise64(bigint) IS 'Returns the SplitMix64 finaliser of a 64-bit value';
COMMENT ON FUNCTION alchemist.noise_state(bigint, bigint) IS 'Returns the part of the random number that all samples of a selection share';
COMMENT ON FUNCTION alchemist.uniform_of(bigint, bigint) IS 'Returns the random number of a sample, above 0 and below 1, from noise_state and pair_hash64';
COMMENT ON FUNCTION alchemist.uniform_noise(bigint, bigint, bigint) IS 'Returns the random number of a sample, above 0 and below 1, from domain, seed and pair_hash64';
