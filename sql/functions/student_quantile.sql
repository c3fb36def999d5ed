-- The two-sided 95% quantile of Student's t. Above 30 degrees of freedom it is that of 30; below 1 it is null.
CREATE OR REPLACE FUNCTION alchemist.student_quantile(n_freedom bigint) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT (ARRAY[
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448, 2.1314,
    2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423
])[least(n_freedom, 30)]::float8
$$;

COMMENT ON FUNCTION alchemist.student_quantile(bigint) IS 'Returns the two-sided 95% quantile of Student''s t; above 30 degrees of freedom the value for 30; null below 1';
