-- How a model was trained: its options without the seed, and with the content of weights instead of their places, as in its identity.
CREATE OR REPLACE FUNCTION alchemist.training_recipe(config jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT coalesce(config -> 'model', '{}') - 'seed' - ARRAY(SELECT jsonb_object_keys(config -> 'model' -> 'weights_sha256'))
$$;

COMMENT ON FUNCTION alchemist.training_recipe(jsonb) IS 'Returns the training options of a model without its seed and without the places of weights, whose hashes are among them';
