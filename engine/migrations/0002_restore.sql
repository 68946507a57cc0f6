-- Whether transactions may be signed: one row, checked by the statement that records a signature.
CREATE TABLE signing (
    one_row   boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    -- Set while `oee reconcile --restored` has not finished.
    halt_time timestamptz,
    -- The database that this row was last found to belong to.
    home      text
);
INSERT INTO signing DEFAULT VALUES;

-- What tells this database from a copy of it: a dump that is read in again gets another table
-- (or server), a server recovered to a point in time, or a promoted standby, another timeline.
-- A copied data directory shows no difference; there the operator's halt is all there is.
CREATE FUNCTION signing_home() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT concat_ws('/', system_identifier, signing.tableoid,
                     substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))
      FROM signing, pg_control_system()
$$;
UPDATE signing SET home = signing_home();

-- Anything but true means no.
CREATE FUNCTION signing_allowed() RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT halt_time IS NULL AND home = signing_home() FROM signing
$$;

-- Swaps found on the chain that a restored record did not know. An order with one of these keys
-- is never new: its swap is done.
CREATE TABLE adopted_swaps (
    signature            text PRIMARY KEY,
    order_id             uuid NOT NULL,
    number               smallint NOT NULL CHECK (number > 0),
    key_hash             text NOT NULL,
    token_in             text NOT NULL,
    token_out            text NOT NULL,
    amount_in            amount NOT NULL,
    amount_out           amount NOT NULL,
    slot                 bigint NOT NULL,
    network_fee_lamports bigint NOT NULL,
    context_slot         bigint NOT NULL,
    adopt_time           timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX adopted_swaps_by_key ON adopted_swaps (key_hash);
