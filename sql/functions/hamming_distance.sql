-- The bits in which two 64-bit hashes differ: the same number as selection/duplicates.py's hamming_distance. int8xor is the function behind the operator #.
CREATE OR REPLACE FUNCTION alchemist.hamming_distance(one bigint, other bigint) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT bit_count(int8xor(one, other)::bit(64))::integer
$$;

COMMENT ON FUNCTION alchemist.hamming_distance(bigint, bigint) IS 'Returns the number of bits in which two 64-bit perceptual hashes differ';
