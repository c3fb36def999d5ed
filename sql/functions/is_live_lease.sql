-- Whether a lease with this expiry is held now. An expiry beyond the longest lease (settings allow an hour) was written before the clock
-- was set back; such a lease is not held.
CREATE OR REPLACE FUNCTION alchemist.is_live_lease(expires_at timestamptz) RETURNS boolean
LANGUAGE sql VOLATILE AS $$
SELECT expires_at BETWEEN clock_timestamp() AND clock_timestamp() + make_interval(secs => 3660)
$$;

COMMENT ON FUNCTION alchemist.is_live_lease(timestamptz) IS 'Returns whether a lease with this expiry is held now';
